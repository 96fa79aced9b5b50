using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Acpi;
using Bunraku.Machine.Input;
using Bunraku.Machine.Interrupts;
using Bunraku.Machine.Pci;
using Bunraku.Machine.Serial;
using Bunraku.Machine.Timers;

namespace Bunraku.Machine.Board;

/// <summary>
/// A PC without a BIOS on a virtual machine: interrupt controllers, timers, COM1, keyboard controller, PCI, ACPI. What firmware would have done is
/// done: tables lie in memory and the 8259A reaches the bootstrap processor through its local APIC.
/// </summary>
public sealed class PcBoard
{
    /// <summary>PCI slot of the bridge under which the legacy devices are described.</summary>
    public const int IsaBridgeSlot = 1;

    private static readonly ResetRegister s_reset = new(PciHost.FirstPort + 1, 0x06); // hard reset through the PIIX reset control register

    /// <summary>The first I/O APIC input that a timer of the HPET can use.</summary>
    private const int FirstHpetInput = 20;

    private readonly VirtualMachine _vm;
    private readonly IInterruptLine[] _lint1; // of every local APIC
    private readonly DeviceLock _powerLock = new("power management");
    private readonly Dictionary<int, SharedWire> _pciInterrupts = [];

    /// <summary>Assembles the board. Before the VM starts; once a VM.</summary>
    public PcBoard(VirtualMachine vm, PcBoardOptions options)
    {
        _vm = vm;
        MachineTime Time(DeviceLock @lock) => new(vm, @lock);

        Apics = new ApicBus(vm.EngineApics);
        vm.EndOfInterrupt = Apics.BroadcastEoi;
        IoApic = new IoApic(Apics);
        (IInterruptLine[] lint0, _lint1) = vm.EngineApics is null ? AddLocalApics(Time(vm.InterruptLock)) : AddEngineApics();
        vm.Msrs.Add(Apics, vm.InterruptLock);
        if (vm.Paravirtual is { } paravirtual) paravirtual.Interrupts = Apics;
        vm.Mmio.Add(MemoryLayout.IoApic, IoApic.Length, IoApic, vm.InterruptLock);

        // The 8259A's output leads to every local APIC and to the I/O APIC's first input.
        Pic = new Pic8259Pair(new InterruptFanOut([.. lint0, IoApic.GetLine(0)]));
        Pic.AttachTo(vm.Ports, vm.InterruptLock);
        Interrupts = new IsaInterrupts(Pic, IoApic, vm.InterruptLock);

        vm.FloatingPointError = Interrupts[CoprocessorError.Irq];
        new CoprocessorError(Interrupts[CoprocessorError.Irq]).AttachTo(vm.Ports);

        Gate pitWire = new(Interrupts[0], vm.InterruptLock), clockWire = new(Interrupts[8], vm.InterruptLock);
        DeviceLock timerLock = new("8254"), clockLock = new("real-time clock"), hpetLock = new("HPET"), keyboardLock = new("keyboard controller");
        Timer = new Pit8254(pitWire, Time(timerLock));
        Timer.AttachTo(vm.Ports, timerLock);
        Power = new PowerManagement(Time(_powerLock), Interrupts[PowerManagement.SciInterrupt], () => vm.Stop(new StopCause(StopReason.PowerOff)));
        vm.Ports.Add(PowerManagement.FirstPort, PowerManagement.Ports, Power, _powerLock);
        Clock = new Rtc146818(new InterruptFanOut([clockWire, new LockedWire(Power.RealTimeClock, _powerLock)]), Time(clockLock), options.StartTime, vm.Memory.Size);
        Clock.AttachTo(vm.Ports, clockLock);
        // Inputs 20 to 23 of the I/O APIC lead to the PCI slots too.
        var routes = new IInterruptLine?[IoApic.Pins];
        for (int input = FirstHpetInput; input < IoApic.Pins; input++) routes[input] = PciInterrupt(input).Connect();
        Hpet = new Hpet(Time(hpetLock), routes, [Interrupts[0], Interrupts[8]], replace => pitWire.Cut = clockWire.Cut = replace, DeliverMsi);
        vm.Mmio.Add(MemoryLayout.Hpet, Hpet.Length, Hpet, hpetLock);
        var a20 = new A20Gate(vm.SetA20);
        Keyboard = new I8042(Interrupts[1], Interrupts[12], a20, Reset, keyboardLock);
        Keyboard.AttachTo(vm.Ports);
        new Port92(a20, Reset).AttachTo(vm.Ports, keyboardLock);
        PostCode = new PostCode();
        PostCode.AttachTo(vm.Ports);
        DeviceLock serialLock = new("COM1"), secondSerialLock = new("COM2");
        Serial = new Uart16550A(Interrupts[4], options.SerialOutput ?? (_ => { }), Time(serialLock), serialLock);
        Serial.AttachTo(vm.Ports);
        if (options.SecondSerialOutput is { } second)
        {
            SecondSerial = new Uart16550A(Interrupts[3], second, Time(secondSerialLock), secondSerialLock);
            SecondSerial.AttachTo(vm.Ports, Uart16550A.Com2);
        }
        if (options.DebugOutput is { } debug) new DebugConsole(debug).AttachTo(vm.Ports);
        if (options.DebugExit) new DebugExit(vm.Stop).AttachTo(vm.Ports);
        if (options.TestDevice) TestDevice.AttachTo(vm, Interrupts);

        Pci = new PciHost(Reset);
        Pci.Add(0, 0, PciHost.CreateHostBridge());
        Pci.Add(IsaBridgeSlot, 0, PciHost.CreateIsaBridge());
        Pci.AttachTo(vm.Ports);

        // What these do shows only when they are read.
        vm.Shortcuts?.TryPostWrites(isPort: true, PostCode.Port, 1);
        vm.Shortcuts?.TryPostWrites(isPort: true, Rtc146818.IndexPort, 1);

        MemoryMap = E820.Build(vm.Memory);
        Acpi = new AcpiTables(vm.Cpus.Count, s_reset, SecondSerial is not null);
        FwCfg = new FwCfg(vm.Memory, vm.Cpus.Count);
        FwCfg.AddE820(MemoryMap);
        FwCfg.AttachTo(vm.Ports, new DeviceLock("fw_cfg"));
        WriteFirmwareData();
        foreach (CpuThread cpu in vm.Cpus.Skip(1)) PrepareApplicationProcessor(cpu.Cpu);
    }

    /// <summary>The board's own local APICs; their pins.</summary>
    private (IInterruptLine[] Lint0, IInterruptLine[] Lint1) AddLocalApics(MachineTime time)
    {
        foreach (CpuThread cpu in _vm.Cpus)
        {
            int index = cpu.Cpu.Index;
            cpu.Interrupts = new LocalApic(index, Apics, time, _vm.Model, cpu.LocalMmio, () => _vm.Clock.Tsc, () => _vm.WakeCpu(index), () => Pic!.Acknowledge());
        }
        Apics.LocalApics[0].SetVirtualWire();
        return ([.. Apics.LocalApics.Select(a => a.Lint0)], [.. Apics.LocalApics.Select(a => a.Lint1)]);
    }

    /// <summary>The pins of local APICs that the engine holds.</summary>
    private (IInterruptLine[] Lint0, IInterruptLine[] Lint1) AddEngineApics()
    {
        var pins = new List<EngineApicPins>();
        foreach (CpuThread cpu in _vm.Cpus)
        {
            int index = cpu.Cpu.Index;
            pins.Add(new EngineApicPins(() => _vm.WakeCpu(index), () => Pic!.Acknowledge(), () => Read(cpu.Cpu).Apic!));
            cpu.Interrupts = pins[^1];
        }
        CpuState state = Read(_vm.Cpus[0].Cpu);
        state.Apic!.SetVirtualWire();
        _vm.Cpus[0].Cpu.WriteState(state);
        return ([.. pins.Select(p => p.Lint0)], [.. pins.Select(p => p.Lint1)]);

        static CpuState Read(IVirtualCpu cpu)
        {
            var state = new CpuState();
            cpu.ReadState(state);
            return state;
        }
    }

    public ApicBus Apics { get; }
    public IoApic IoApic { get; }
    public Pic8259Pair Pic { get; }
    public IsaInterrupts Interrupts { get; }
    public Pit8254 Timer { get; }
    public Rtc146818 Clock { get; }
    public Hpet Hpet { get; }
    public I8042 Keyboard { get; }
    public PostCode PostCode { get; }
    /// <summary>COM1.</summary>
    public Uart16550A Serial { get; }
    /// <summary>COM2, when <see cref="PcBoardOptions.SecondSerialOutput"/> asks for it.</summary>
    public Uart16550A? SecondSerial { get; }
    public PciHost Pci { get; }
    public PowerManagement Power { get; }
    public AcpiTables Acpi { get; }
    /// <summary>More items can be added before the guest runs.</summary>
    public FwCfg FwCfg { get; }
    public IReadOnlyList<E820Entry> MemoryMap { get; }

    /// <summary>The wire to an I/O APIC input that PCI slots and other devices share, 16 to 23.</summary>
    public SharedWire PciInterrupt(int input) =>
        _pciInterrupts.TryGetValue(input, out SharedWire? wire) ? wire : _pciInterrupts[input] = new SharedWire(IoApic.GetLine(input), _vm.InterruptLock);

    /// <summary>Leaves interrupt vectors, 8259A and timer as a BIOS does, for kernels whose boot protocol promises that. Before the kernel is loaded.</summary>
    public void PrepareAsBios() => BiosState.Prepare(_vm.Memory, _vm.Ports);

    /// <summary>Asks the guest to shut down, as a press of the power button does. Any thread.</summary>
    public void PressPowerButton()
    {
        lock (_powerLock) Power.PressPowerButton();
    }

    /// <summary>Asserts NMI for a moment: it leads to LINT1 of every local APIC, whose vector table says what becomes of it. Any thread.</summary>
    /// <remarks>MultiProcessor Specification 1.4, section 3.6.2 and figure "Virtual Wire Mode Via Local APIC".</remarks>
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

    private void DeliverMsi(ulong address, uint data)
    {
        lock (_vm.InterruptLock) Apics.DeliverMsi(address, data);
    }

    private void Reset() => _vm.Stop(new StopCause(StopReason.Reset));

    /// <summary>What operating systems look for in low memory: the segment of the EBDA, which is empty but for its size, and the ACPI tables.</summary>
    private void WriteFirmwareData()
    {
        _vm.Memory.TryWrite(MemoryLayout.BiosDataAreaEbda, (ushort)(MemoryLayout.Ebda >> 4));
        _vm.Memory.TryWrite(MemoryLayout.Ebda, (byte)((MemoryLayout.VideoHole - MemoryLayout.Ebda) >> 10));
        Acpi.WriteTo(_vm.Memory);
    }

    private void PrepareApplicationProcessor(IVirtualCpu cpu)
    {
        var state = new CpuState();
        cpu.ReadState(state);
        InitialState.PrepareApplicationProcessor(state, _vm.Model);
        cpu.WriteState(state);
    }

    private sealed class InterruptFanOut(IInterruptLine[] lines) : IInterruptLine
    {
        public void Set(bool asserted)
        {
            foreach (IInterruptLine line in lines) line.Set(asserted);
        }
    }
}
