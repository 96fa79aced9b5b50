using System.Text;
using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Acpi;
using Bunraku.Machine.Board.Parts;
using Bunraku.Machine.Display;
using Bunraku.Machine.Firmware;
using Bunraku.Machine.Input;
using Bunraku.Machine.Interrupts;
using Bunraku.Machine.Pci;
using Bunraku.Machine.Serial;
using Bunraku.Machine.Smbios;
using Bunraku.Machine.Timers;
using Bunraku.Machine.Virtio;

namespace Bunraku.Machine.Board;

/// <summary>
/// A PC on a virtual machine: a list of parts, those that every PC has and those of <see cref="PcBoardOptions"/>. Without firmware, what that would have done
/// is done: tables lie in memory and the 8259A reaches the bootstrap processor through its local APIC. With firmware it does all of it itself.
/// </summary>
public sealed class PcBoard : IBoard
{
    private readonly X86Machine _vm;
    private readonly InterruptControllers _controllers;
    private readonly LegacyTimers _timers;
    private readonly KeyboardPart _keyboard = new();
    private readonly PostCodePart _postCode = new();
    private readonly SerialPart _serial;
    private readonly SerialPart? _secondSerial;
    private readonly MemoryMap _map;
    private readonly DisplayPart? _display;
    private readonly VmGenerationPart _generation;
    private readonly Dictionary<int, SharedWire> _pciInterrupts = [];

    /// <summary>Assembles the board. Before the VM starts; once a VM.</summary>
    /// <exception cref="InvalidOperationException">Two parts want the same port, address or name.</exception>
    /// <exception cref="ArgumentException">RAM does not lie where a PC has it: see <see cref="MemoryLayout.Regions"/>.</exception>
    public PcBoard(X86Machine vm, PcBoardOptions options)
    {
        ulong rom = (ulong)(options.Firmware?.Bytes.Length ?? 0);
        ulong display = vm.Memory.InitialRegions.FirstOrDefault(r => r.IsDevice).Length, ram = vm.Memory.Size - rom - display;
        IReadOnlyList<MemoryRegion> regions = rom == 0 ? MemoryLayout.Regions(ram, display) : MemoryLayout.WithFirmware(ram, rom, display);
        if (!vm.Memory.Regions.SequenceEqual(regions))
        {
            throw new ArgumentException(
                $"a PC's RAM lies elsewhere: make the machine with MemoryLayout.{(rom == 0 ? "Regions" : "WithFirmware")}", nameof(vm));
        }
        _vm = vm;
        _map = new MemoryMap(vm.Memory, (ulong)(options.Firmware?.FlashLength ?? 0));
        if (display > 0) _display = new DisplayPart(vm.Memory, _map, options.DisplayRom);
        _controllers = new InterruptControllers(vm);
        _timers = new LegacyTimers(options.StartTime, () => vm.Stop(new StopCause(StopReason.PowerOff)));
        _serial = new SerialPart(1, options.SerialOutput ?? (_ => { }));
        if (options.SecondSerialOutput is { } second) _secondSerial = new SerialPart(2, second);
        _generation = new VmGenerationPart(vm.Memory, _timers, options.Generation, options.Firmware is not null);
        Pci = new PciHost(Reset);
        if (options.IsMicroVm)
        {
            if (display > 0 || options.Firmware is not null) throw new ArgumentException("a board without PCI has no display and no firmware", nameof(options));
            VirtioSlots = new VirtioMmioSlots(this);
            Acpi.HasPci = false;
        }
        FwCfg = new FwCfg(vm.Memory, vm.Cpus.Count);
        if (display > 0) FwCfg.AddInt16(FwCfgKey.NoGraphic, 0);
        Acpi.Reset = new(PciHost.FirstPort + 1, 0x06); // hard reset through the PIIX reset control register
        InterruptControllers.Describe(Acpi, vm.Cpus.Count);
        foreach (IBoardPart part in Parts(options)) part.AttachTo(this);
        if ((vm.Ports.FindConflict() ?? vm.Mmio.FindConflict()) is { } conflict) throw new InvalidOperationException(conflict);

        _hasFirmware = options.Firmware is not null;
        if (options.Firmware is { } firmware)
        {
            // Tables and the state of devices are the firmware's affair.
            MemoryMap = E820.ForFirmware(vm.Memory.RamSize);
            FwCfg.AddE820(MemoryMap);
            InstallFirmware(firmware, options);
            return;
        }
        MemoryMap = E820.Build(vm.Memory, hasPci: !options.IsMicroVm);
        if (!options.IsMicroVm || options.Identity.IsGiven)
            _smbios = new SmbiosTables(vm.Cpus.Count, vm.Memory.RamSize, options.Identity, hasFirmware: false);
        FwCfg.AddE820(MemoryMap);
        if (vm.Model.Has(CpuFeature.Vmx)) FwCfg.AddFeatureControl();
        if (!options.TakesState) RunFirmware();
        vm.AfterReset += RunFirmware;
    }

    /// <summary>The ROM, and what the firmware in it wants to know.</summary>
    private void InstallFirmware(FirmwareImage firmware, PcBoardOptions options)
    {
        MemoryRegion rom = _vm.Memory.InitialRegions.First(r => r.IsReadOnly && r.End == MemoryLayout.FirmwareEnd);
        _vm.Memory.WriteBacking(rom.Offset, firmware.Bytes);
        // Numbers of kinds in CMOS: Bochs's, which SeaBIOS reads; the low bit of the second byte turns the check of floppies off.
        IReadOnlyList<BootDevice> kinds = options.BootDevices is { Count: > 0 } given ? given : [BootDevice.Disk, BootDevice.CompactDisc, BootDevice.Network];
        byte[] numbers = [.. kinds.Select(k => k switch { BootDevice.Disk => (byte)2, BootDevice.CompactDisc => (byte)3, _ => (byte)4 }), 0, 0, 0];
        Clock[CmosAddress.BootOrder] = (byte)(numbers[1] << 4 | numbers[0]);
        Clock[CmosAddress.BootOrderThird] = (byte)(numbers[2] << 4 | 1);
        Clock[CmosAddress.OtherCpus] = (byte)Math.Min(_vm.Cpus.Count - 1, byte.MaxValue);
        FirmwareTables.AddTo(FwCfg, Acpi, new SmbiosTables(_vm.Cpus.Count, _vm.Memory.RamSize, options.Identity));
        if (options.BootOrder.Count > 0) FwCfg.AddFile("bootorder", Encoding.ASCII.GetBytes(string.Join('\n', options.BootOrder) + '\0'));
        // Without a display, what is shown on the text screen goes to COM1, and what is typed there counts as typed on the keyboard.
        FwCfg.AddFile("etc/sercon-port", BitConverter.GetBytes((ulong)Uart16550A.Com1));
    }

    /// <summary>What firmware does after power-on and after each reset.</summary>
    private void RunFirmware()
    {
        _controllers.SetVirtualWire();
        WriteFirmwareData();
        foreach (X86CpuThread cpu in _vm.Cpus.Skip(1)) PrepareApplicationProcessor(cpu.Cpu);
    }

    private IEnumerable<IBoardPart> Parts(PcBoardOptions options)
    {
        yield return new CoprocessorErrorPart();
        yield return _timers;
        yield return _keyboard;
        yield return _postCode;
        yield return _serial;
        if (_secondSerial != null) yield return _secondSerial;
        if (options.DebugOutput is { } debug) yield return new DebugConsolePart(debug);
        if (options.FirmwareLog is { } log) yield return new DebugConsolePart(log, "firmware log", DebugConsole.FirmwarePort);
        if (options.DebugExit) yield return new DebugExitPart();
        if (options.TestDevice) yield return new TestDevicePart();
        yield return new PciPart(options.Firmware is null ? null : _map, options.IsMicroVm);
        if (options.Firmware is { FlashLength: > 0 }) yield return new FlashPart(_vm.Memory, _map.Flash, options.FlashStore);
        if (_display is not null) yield return _display;
        yield return new FwCfgPart();
        yield return _generation;
        foreach (IBoardPart part in options.Parts) yield return part;
    }

    /// <inheritdoc/>
    public X86Machine Machine => _vm;
    /// <summary>What carries messages between the interrupt controllers. With <see cref="VirtualMachine.InterruptLock"/> held.</summary>
    internal ApicBus Apics => _controllers.Apics;
    /// <summary>The I/O APIC.</summary>
    internal IoApic IoApic => _controllers.IoApic;
    /// <summary>The two 8259As.</summary>
    internal Pic8259Pair Pic => _controllers.Pic;
    /// <summary>The ISA interrupt wires.</summary>
    internal IsaInterrupts Interrupts => _controllers.Isa;
    /// <summary>The 8254.</summary>
    internal Pit8254 Timer => _timers.Pit;
    /// <summary>The real-time clock.</summary>
    internal Rtc146818 Clock => _timers.Clock;
    /// <summary>The event timers.</summary>
    internal Hpet Hpet => _timers.Hpet;
    /// <summary>Keyboard and mouse.</summary>
    internal I8042 Keyboard => _keyboard.Controller;
    /// <summary>The POST code port.</summary>
    internal PostCode PostCode => _postCode.PostCode;
    /// <summary>COM1.</summary>
    public Uart16550A Serial => _serial.Port;
    /// <summary>COM2, when <see cref="PcBoardOptions.SecondSerialOutput"/> asks for it.</summary>
    public Uart16550A? SecondSerial => _secondSerial?.Port;
    /// <summary>The display, of a machine whose memory has a region for one.</summary>
    public VgaController? Display => _display?.Controller;
    /// <inheritdoc/>
    public PciHost Pci { get; }
    /// <inheritdoc/>
    public VirtioMmioSlots? VirtioSlots { get; }
    /// <summary>By which the guest learns that it is a copy, or that it was taken back to an earlier state.</summary>
    public VmGeneration Generation => _generation.Device;
    /// <summary>ACPI's fixed hardware.</summary>
    internal PowerManagement Power => _timers.Power;
    /// <inheritdoc/>
    public AcpiDescription Acpi { get; } = new();
    /// <summary>The tables that lie in guest memory, of a board without firmware.</summary>
    internal AcpiTables Tables => _hasFirmware ? throw new InvalidOperationException("the firmware places the tables") : _tables ??= new AcpiTables(Acpi);

    private readonly bool _hasFirmware;
    private AcpiTables? _tables; // once they were asked for
    private readonly SmbiosTables? _smbios; // of a board without firmware; null: it does not say who it is

    /// <summary>More items can be added before the guest runs.</summary>
    public FwCfg FwCfg { get; }
    /// <summary>What lies where in guest-physical memory.</summary>
    public IReadOnlyList<E820Entry> MemoryMap { get; }

    /// <inheritdoc/>
    public IInterruptLine IsaInterrupt(int irq) => Interrupts[irq];

    /// <inheritdoc/>
    public IInterruptLine PciInterrupt(int slot, int pin)
    {
        int input = Dsdt.PciInterruptInput(slot, pin);
        if (!_pciInterrupts.TryGetValue(input, out SharedWire? wire))
        {
            _pciInterrupts.Add(input, wire = new SharedWire($"wire.{input}", IoApic.GetLine(input), _vm.InterruptLock));
            _vm.Add(wire, _vm.InterruptLock);
        }
        return wire.Connect();
    }

    /// <inheritdoc/>
    public void SendMessage(ulong address, uint data) => _controllers.SendMessage(address, data);

    /// <inheritdoc/>
    public ITimeSource CreateTime(DeviceLock @lock) => new MachineTime(_vm, @lock);

    /// <summary>Leaves 8259A and timer as a BIOS does, for kernels whose boot protocol promises that. Before the kernel is loaded.</summary>
    public void PrepareAsBios() => BiosState.PrepareDevices(_vm.Ports);

    /// <summary>The guest asked for a warm reset, by the word for that in low memory. Any thread.</summary>
    public bool WantsWarmReset => _vm.Memory.TryRead(MemoryLayout.BiosDataAreaResetFlag, out ushort flag) && flag == WarmReset;

    private const ushort WarmReset = 0x1234;

    /// <summary>Keyboard and pointer for a person.</summary>
    /// <param name="tablet">Of this board; null: there is the mouse alone.</param>
    public UserInput CreateUserInput(Virtio.Tablet? tablet) => new(Keyboard, tablet);

    /// <summary>Asks the guest to shut down, as a press of the power button does. Any thread.</summary>
    public void PressPowerButton()
    {
        lock (_timers.PowerLock) Power.PressPowerButton();
    }

    /// <summary>Asserts NMI for a moment: it leads to LINT1 of every local APIC, whose vector table says what becomes of it. Any thread.</summary>
    /// <remarks>MultiProcessor Specification 1.4, section 3.6.2 and figure "Virtual Wire Mode Via Local APIC".</remarks>
    public void PulseNmi() => _controllers.PulseNmi();

    /// <inheritdoc/>
    public void Reset() => _vm.RequestReset();

    /// <summary>
    /// What operating systems look for in low memory: where the EBDA is, which is empty but for its size, the ACPI tables, and the ROM's entry points.
    /// </summary>
    private void WriteFirmwareData()
    {
        _vm.Memory.TryWrite(MemoryLayout.BiosDataAreaResetFlag, (ushort)0);
        _vm.Memory.TryWrite(MemoryLayout.BiosDataAreaEbda, (ushort)(MemoryLayout.Ebda >> 4));
        _vm.Memory.TryWrite(MemoryLayout.BiosDataAreaMemory, (ushort)(MemoryLayout.Ebda >> 10));
        _vm.Memory.TryWrite(MemoryLayout.Ebda, (byte)((MemoryLayout.VideoHole - MemoryLayout.Ebda) >> 10));
        Tables.WriteTo(_vm.Memory);
        Generation.WriteId();
        BiosState.WriteRom(_vm.Memory, Acpi.Reset);
        _smbios?.WriteTo(_vm.Memory);
    }

    private void PrepareApplicationProcessor(IX86Cpu cpu)
    {
        var state = new CpuState();
        cpu.ReadState(state);
        InitialState.PrepareApplicationProcessor(state, _vm.Model);
        cpu.WriteState(state);
    }
}
