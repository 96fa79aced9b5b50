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

        Apics = Device(new ApicBus(vm.EngineApics), vm.InterruptLock);
        vm.EndOfInterrupt = Apics.BroadcastEoi;
        IoApic = Device(new IoApic(Apics), vm.InterruptLock);
        (IInterruptLine[] lint0, _lint1) = vm.EngineApics is null ? AddLocalApics(Time(vm.InterruptLock)) : AddEngineApics();
        vm.Msrs.Add(Apics, vm.InterruptLock);
        if (vm.Paravirtual is { } paravirtual) paravirtual.Interrupts = Apics;
        vm.Mmio.Add(MemoryLayout.IoApic, IoApic.Length, IoApic, vm.InterruptLock);

        // The 8259A's output leads to every local APIC and to the I/O APIC's first input.
        Pic = Device(new Pic8259Pair(new InterruptFanOut([.. lint0, IoApic.GetLine(0)])), vm.InterruptLock);
        Pic.AttachTo(vm.Ports, vm.InterruptLock);
        Interrupts = new IsaInterrupts(Pic, IoApic, vm.InterruptLock);

        vm.FloatingPointError = Interrupts[CoprocessorError.Irq];
        Device(new CoprocessorError(Interrupts[CoprocessorError.Irq])).AttachTo(vm.Ports);

        Gate pitWire = Device(new Gate("gate.pit", Interrupts[0], vm.InterruptLock), vm.InterruptLock), clockWire = Device(new Gate("gate.rtc", Interrupts[8], vm.InterruptLock), vm.InterruptLock);
        DeviceLock timerLock = new("8254"), clockLock = new("real-time clock"), hpetLock = new("HPET"), keyboardLock = new("keyboard controller");
        Timer = Device(new Pit8254(pitWire, Time(timerLock)), timerLock);
        Timer.AttachTo(vm.Ports, timerLock);
        Power = Device(new PowerManagement(Time(_powerLock), Interrupts[PowerManagement.SciInterrupt], () => vm.Stop(new StopCause(StopReason.PowerOff))), _powerLock);
        vm.Ports.Add(PowerManagement.FirstPort, PowerManagement.Ports, Power, _powerLock);
        Clock = Device(new Rtc146818(new InterruptFanOut([clockWire, new LockedWire(Power.RealTimeClock, _powerLock)]), Time(clockLock), options.StartTime, vm.Memory.Size), clockLock);
        Clock.AttachTo(vm.Ports, clockLock);
        // Inputs 20 to 23 of the I/O APIC lead to the PCI slots too.
        var routes = new IInterruptLine?[IoApic.Pins];
        for (int input = FirstHpetInput; input < IoApic.Pins; input++) routes[input] = PciInterrupt(input).Connect();
        Hpet = Device(new Hpet(Time(hpetLock), routes, [Interrupts[0], Interrupts[8]], replace => pitWire.Cut = clockWire.Cut = replace, DeliverMsi), hpetLock);
        vm.Mmio.Add(MemoryLayout.Hpet, Hpet.Length, Hpet, hpetLock);
        var a20 = new A20Gate(vm.SetA20);
        Keyboard = Device(new I8042(Interrupts[1], Interrupts[12], a20, vm.RequestReset, keyboardLock), keyboardLock);
        Keyboard.AttachTo(vm.Ports);
        Device(new Port92(a20, vm.RequestReset), keyboardLock).AttachTo(vm.Ports, keyboardLock);
        Device(a20, keyboardLock);
        PostCode = Device(new PostCode());
        PostCode.AttachTo(vm.Ports);
        DeviceLock serialLock = new("COM1"), secondSerialLock = new("COM2");
        Serial = Device(new Uart16550A(Interrupts[4], options.SerialOutput ?? (_ => { }), Time(serialLock), serialLock) { SetUpByFirmware = true }, serialLock);
        Serial.AttachTo(vm.Ports);
        if (options.SecondSerialOutput is { } second)
        {
            SecondSerial = Device(new Uart16550A(Interrupts[3], second, Time(secondSerialLock), secondSerialLock) { Id = "com2", SetUpByFirmware = true }, secondSerialLock);
            SecondSerial.AttachTo(vm.Ports, Uart16550A.Com2);
        }
        if (options.DebugOutput is { } debug) Device(new DebugConsole(debug)).AttachTo(vm.Ports);
        if (options.DebugExit) Device(new DebugExit(vm.Stop)).AttachTo(vm.Ports);
        if (options.TestDevice) new TestDevice(Interrupts).AttachTo(vm);

        Pci = Device(new PciHost(vm.RequestReset));
        Pci.Add(0, 0, PciHost.CreateHostBridge());
        Pci.Add(IsaBridgeSlot, 0, PciHost.CreateIsaBridge());
        Pci.AttachTo(vm.Ports);

        // What these do shows only when they are read.
        vm.Shortcuts?.TryPostWrites(isPort: true, PostCode.Port, 1);
        vm.Shortcuts?.TryPostWrites(isPort: true, Rtc146818.IndexPort, 1);

        MemoryMap = E820.Build(vm.Memory);
        Acpi = new AcpiTables(vm.Cpus.Count, s_reset, SecondSerial is not null);
        FwCfg = Device(new FwCfg(vm.Memory, vm.Cpus.Count));
        FwCfg.AddE820(MemoryMap);
        FwCfg.AttachTo(vm.Ports, new DeviceLock("fw_cfg"));
        RunFirmware();
        vm.AfterReset += RunFirmware;
    }

    private T Device<T>(T device, DeviceLock? @lock = null) where T : IDevice
    {
        _vm.Add(device, @lock);
        return device;
    }

    /// <summary>What firmware does after power-on and after each reset.</summary>
    private void RunFirmware()
    {
        SetVirtualWire();
        WriteFirmwareData();
        foreach (CpuThread cpu in _vm.Cpus.Skip(1)) PrepareApplicationProcessor(cpu.Cpu);
    }

    /// <summary>The bootstrap processor's local APIC lets the 8259A and NMI through.</summary>
    private void SetVirtualWire()
    {
        if (_vm.EngineApics is null)
        {
            lock (_vm.InterruptLock) Apics.LocalApics[0].SetVirtualWire();
            return;
        }
        CpuState state = Read(_vm.Cpus[0].Cpu);
        state.Apic!.SetVirtualWire();
        _vm.Cpus[0].Cpu.WriteState(state);
    }

    private static CpuState Read(IVirtualCpu cpu)
    {
        var state = new CpuState();
        cpu.ReadState(state);
        return state;
    }

    /// <summary>The board's own local APICs; their pins.</summary>
    private (IInterruptLine[] Lint0, IInterruptLine[] Lint1) AddLocalApics(MachineTime time)
    {
        foreach (CpuThread cpu in _vm.Cpus)
        {
            int index = cpu.Cpu.Index;
            cpu.Interrupts = Device(new LocalApic(index, Apics, time, _vm.Model, cpu.LocalMmio, () => _vm.Clock.Tsc, () => _vm.WakeCpu(index), () => Pic!.Acknowledge()), _vm.InterruptLock);
        }
        return ([.. Apics.LocalApics.Select(a => a.Lint0)], [.. Apics.LocalApics.Select(a => a.Lint1)]);
    }

    /// <summary>The pins of local APICs that the engine holds.</summary>
    private (IInterruptLine[] Lint0, IInterruptLine[] Lint1) AddEngineApics()
    {
        var pins = new List<EngineApicPins>();
        foreach (CpuThread cpu in _vm.Cpus)
        {
            int index = cpu.Cpu.Index;
            pins.Add(Device(new EngineApicPins(index, () => _vm.WakeCpu(index), () => Pic!.Acknowledge(), () => Read(cpu.Cpu).Apic!), _vm.InterruptLock));
            cpu.Interrupts = pins[^1];
        }
        return ([.. pins.Select(p => p.Lint0)], [.. pins.Select(p => p.Lint1)]);
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
        _pciInterrupts.TryGetValue(input, out SharedWire? wire) ? wire : _pciInterrupts[input] = Device(new SharedWire($"wire.{input}", IoApic.GetLine(input), _vm.InterruptLock), _vm.InterruptLock);

    /// <summary>Leaves 8259A and timer as a BIOS does, for kernels whose boot protocol promises that. Before the kernel is loaded.</summary>
    public void PrepareAsBios() => BiosState.PrepareDevices(_vm.Ports);

    /// <summary>The guest asked for a warm reset, by the word for that in low memory. Any thread.</summary>
    public bool WantsWarmReset => _vm.Memory.TryRead(MemoryLayout.BiosDataAreaResetFlag, out ushort flag) && flag == WarmReset;

    private const ushort WarmReset = 0x1234;

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

    /// <summary>What operating systems look for in low memory: where the EBDA is, which is empty but for its size, the ACPI tables, and the ROM's entry points.</summary>
    private void WriteFirmwareData()
    {
        _vm.Memory.TryWrite(MemoryLayout.BiosDataAreaResetFlag, (ushort)0);
        _vm.Memory.TryWrite(MemoryLayout.BiosDataAreaEbda, (ushort)(MemoryLayout.Ebda >> 4));
        _vm.Memory.TryWrite(MemoryLayout.BiosDataAreaMemory, (ushort)(MemoryLayout.Ebda >> 10));
        _vm.Memory.TryWrite(MemoryLayout.Ebda, (byte)((MemoryLayout.VideoHole - MemoryLayout.Ebda) >> 10));
        Acpi.WriteTo(_vm.Memory);
        BiosState.WriteRom(_vm.Memory, s_reset);
    }

    private void PrepareApplicationProcessor(IVirtualCpu cpu)
    {
        CpuState state = Read(cpu);
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
