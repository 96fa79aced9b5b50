using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Acpi;
using Bunraku.Machine.Interrupts;
using Bunraku.Machine.Timers;

namespace Bunraku.Machine.Board.Parts;

/// <summary>
/// Local APICs, the board's or the engine's, I/O APIC and 8259As, and the wires between them. All of it has <see cref="VirtualMachine.InterruptLock"/>.
/// </summary>
internal sealed class InterruptControllers
{
    private readonly X86Machine _vm;
    private readonly IInterruptLine[] _lint1; // of every local APIC

    public InterruptControllers(X86Machine vm)
    {
        _vm = vm;
        Apics = Add(new ApicBus(vm.EngineApics));
        vm.EndOfInterrupt = Apics.BroadcastEoi;
        IoApic = Add(new IoApic(Apics));
        (IInterruptLine[] lint0, _lint1) = vm.EngineApics is null ? AddLocalApics() : AddEngineApics();
        vm.Msrs.Add(Apics, vm.InterruptLock);
        if (vm.Paravirtual is { } paravirtual) paravirtual.Interrupts = Apics;
        vm.Mmio.Add(MemoryLayout.IoApic, IoApic.Length, IoApic, vm.InterruptLock);

        // The 8259A's output leads to every local APIC and to the I/O APIC's first input.
        Pic = Add(new Pic8259Pair(new FanOut([.. lint0, IoApic.GetLine(0)])));
        Pic.AttachTo(vm.Ports, vm.InterruptLock);
        Isa = new IsaInterrupts(Pic, IoApic, vm.InterruptLock);
    }

    public ApicBus Apics { get; }
    public IoApic IoApic { get; }
    public Pic8259Pair Pic { get; }
    public IsaInterrupts Isa { get; }

    internal static void Describe(AcpiDescription acpi, int cpus)
    {
        acpi.AddLocalApics(cpus);
        acpi.AddIoApic(0, MemoryLayout.IoApic, 0);
        // ISA IRQ 0 (8254) is wired to input 2, polarity and trigger as ISA has them.
        acpi.AddInterruptOverride(0, IsaInterrupts.TimerInput, 0);
        acpi.AddIsaDevice("PIC", "PNP0000", r => r.Ports(Pic8259Pair.MasterPort, 2).Ports(Pic8259Pair.SlavePort, 2).Ports(Pic8259Pair.EdgeLevelPort, 2).Irq(2));
        acpi.Reserve(r => r.Memory((uint)MemoryLayout.LocalApic, 0x10_0000));
    }

    /// <summary>Asserts NMI for a moment.</summary>
    public void PulseNmi()
    {
        lock (_vm.InterruptLock)
        {
            foreach (bool level in (ReadOnlySpan<bool>)[true, false])
            {
                foreach (IInterruptLine pin in _lint1) pin.Set(level);
            }
        }
    }

    /// <summary>The bootstrap processor's local APIC lets the 8259A and NMI through. While no vCPU runs.</summary>
    public void SetVirtualWire()
    {
        if (_vm.EngineApics is null)
        {
            lock (_vm.InterruptLock)
            {
                LocalApicState apic = Apics.LocalApics[0].ReadState();
                apic.SetVirtualWire();
                Apics.LocalApics[0].WriteState(apic);
            }
            return;
        }
        CpuState state = Read(_vm.Cpus[0].Cpu);
        state.Apic!.SetVirtualWire();
        _vm.Cpus[0].Cpu.WriteState(state);
    }

    public void SendMessage(ulong address, uint data)
    {
        lock (_vm.InterruptLock) Apics.DeliverMsi(address, data);
    }

    /// <summary>The board's own local APICs; their pins.</summary>
    private (IInterruptLine[] Lint0, IInterruptLine[] Lint1) AddLocalApics()
    {
        var time = new MachineTime(_vm, _vm.InterruptLock);
        foreach (X86CpuThread cpu in _vm.Cpus)
        {
            int index = cpu.Cpu.Index;
            cpu.Interrupts =
                Add(new LocalApic(index, Apics, time, _vm.Model, cpu.LocalMmio, () => _vm.Clock.Counter, () => _vm.WakeCpu(index), () => Pic!.Acknowledge()));
        }
        return ([.. Apics.LocalApics.Select(a => a.Lint0)], [.. Apics.LocalApics.Select(a => a.Lint1)]);
    }

    /// <summary>The pins of local APICs that the engine holds.</summary>
    private (IInterruptLine[] Lint0, IInterruptLine[] Lint1) AddEngineApics()
    {
        var pins = new List<EngineApicPins>();
        foreach (X86CpuThread cpu in _vm.Cpus)
        {
            int index = cpu.Cpu.Index;
            pins.Add(Add(new EngineApicPins(index, () => _vm.WakeCpu(index), () => Pic!.Acknowledge(), () => Read(cpu.Cpu).Apic!)));
            cpu.Interrupts = pins[^1];
        }
        return ([.. pins.Select(p => p.Lint0)], [.. pins.Select(p => p.Lint1)]);
    }

    private static CpuState Read(IX86Cpu cpu)
    {
        var state = new CpuState();
        cpu.ReadState(state);
        return state;
    }

    private T Add<T>(T device) where T : IDevice
    {
        _vm.Add(device, _vm.InterruptLock);
        return device;
    }
}
