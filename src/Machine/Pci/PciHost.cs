using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Acpi;

namespace Bunraku.Machine.Pci;

/// <summary>
/// PCI bus 0 behind configuration mechanism 1 (PCI Local Bus Specification 3.0, section 3.2.2.3.2) at ports CF8h to CFFh, with the PIIX reset control
/// register in its place at CF9h. With its lock held.
/// </summary>
/// <param name="reset">The guest resets the machine.</param>
public sealed class PciHost(Action reset) : IPortDevice, IDevice, IStateful<PciHostState>
{
    /// <summary>Port of CONFIG_ADDRESS; CONFIG_DATA is four behind it.</summary>
    public const ushort FirstPort = 0xCF8;
    private const int Ports = 8, DataOffset = 4, ResetControlOffset = 1;
    private const int Devices = 32, Functions = 8;

    /// <summary>Places for functions: device in bits 7:3, function in 2:0.</summary>
    internal const int Places = Devices * Functions;
    private const uint Enable = 1u << 31, AddressMask = 0x80FF_FFFC;
    private const byte MultiFunction = 0x80;
    // PIIX data sheet, "Reset control register": the processor is reset when bit 2 goes from 0 to 1; bit 1 selects a hard reset.
    private const byte ResetProcessor = 1 << 2, HardReset = 1 << 1;

    private readonly PciFunction?[] _functions = new PciFunction?[Places];
    private uint _address;
    private byte _resetControl;

    /// <summary>8086:1237 is the 440FX; subsystem 1AF4:1100 tells firmware that fw_cfg is there, as on QEMU's machines.</summary>
    internal const ushort Intel = 0x8086, HostBridge = 0x1237, QemuVendor = 0x1AF4, QemuSubsystem = 0x1100;

    /// <summary>A 440FX-like host bridge, which guests expect at 00:00.0.</summary>
    public static PciFunction CreateHostBridge() => new(Intel, HostBridge, classCode: 0x060000, revision: 2);

    /// <summary>A PIIX3-like ISA bridge (8086:7000), the parent of the legacy devices.</summary>
    /// <param name="answers">
    /// Its command register says that it answers, as the PIIX3's, where it is hard-wired: UEFI firmware looks for legacy devices only then.
    /// </param>
    public static PciFunction CreateIsaBridge(bool answers = false)
    {
        var bridge = new PciFunction(Intel, 0x7000, classCode: 0x060100);
        if (answers) bridge.Config.SetWord(PciRegister.Command, (ushort)(PciCommand.IoSpace | PciCommand.MemorySpace));
        return bridge;
    }

    /// <summary>
    /// A PIIX4-like power management function (8086:7113), by which firmware finds ACPI's registers and their timer: where they are is hard-wired, and so is
    /// that SMIs are enabled, so that firmware does not wait for one.
    /// </summary>
    /// <remarks>82371AB PCI-TO-ISA/IDE XCELERATOR (PIIX4) data sheet (290562-001), "PMBA", "PMREGMISC" and "DEVACTB" (bit 25, APMC_EN).</remarks>
    internal static PciFunction CreatePowerManagement()
    {
        const int baseAddress = 0x40, deviceActivityB = 0x58, miscellaneous = 0x80;
        var function = new PciFunction(Intel, 0x7113, classCode: 0x068000, revision: 3, QemuVendor, QemuSubsystem);
        function.Config.SetLong(baseAddress, PowerManagement.FirstPort | 1u);
        function.Config.SetLong(deviceActivityB, 1u << 25);
        function.Config.Bytes[miscellaneous] = 1;
        return function;
    }

    /// <inheritdoc/>
    public string Id => "pci";

    /// <summary>RST#: the host's own registers and the configuration space of all functions; what else a function has, it resets itself as a device.</summary>
    public void Reset()
    {
        (_address, _resetControl) = (0, 0);
        foreach (PciFunction? function in _functions) function?.ResetConfig();
    }

    PciHostState IStateful<PciHostState>.Save() => new(
        _address, _resetControl,
            [.. Enumerable.Range(0, _functions.Length).Where(n => _functions[n] is not null)
            .Select(n => new PciFunctionState((byte)n, _functions[n]!.Config.Bytes.ToArray()))]);

    void IStateful<PciHostState>.Restore(PciHostState state)
    {
        (_address, _resetControl) = (state.Address, state.ResetControl);
        foreach (PciFunctionState function in state.Functions)
        {
            string name = $"00:{function.Place / Functions:x2}.{function.Place % Functions}";
            PciFunction own = _functions[function.Place] ?? throw new StateFormatException($"{Id}: this machine has no PCI function {name}, the saved one has");
            own.RestoreConfig(StateCheck.Length(function.Config, PciConfigSpace.Size, Id), $"{Id} {name}");
        }
        for (int n = 0; n < _functions.Length; n++)
        {
            if (_functions[n] is not null && !Array.Exists(state.Functions, f => f.Place == n))
                throw new StateFormatException($"{Id}: the saved machine has no PCI function 00:{n / Functions:x2}.{n % Functions}");
        }
    }

    /// <summary>Plugs a function in. Before the guest runs.</summary>
    /// <param name="device">0 to 31.</param>
    /// <param name="function">0 to 7; a device needs its function 0 to be found.</param>
    /// <exception cref="InvalidOperationException">The place is taken.</exception>
    public void Add(int device, int function, PciFunction what)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)device, (uint)Devices, nameof(device));
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)function, (uint)Functions, nameof(function));
        ref PciFunction? place = ref _functions[device * Functions + function];
        if (place is not null) throw new InvalidOperationException($"PCI function 00:{device:x2}.{function} is taken");
        place = what;
        Span<PciFunction?> all = _functions.AsSpan(device * Functions, Functions);
        bool several = false;
        for (int n = 1; n < Functions; n++) several |= all[n] is not null;
        if (several && all[0] is { } first) first.Config.Bytes[PciRegister.HeaderType] |= MultiFunction;
    }

    /// <summary>What is at a place below <see cref="Places"/>; null: nothing.</summary>
    internal PciFunction? FunctionAt(int place) => _functions[place];

    /// <summary>A device number that no function has. Before the guest runs.</summary>
    /// <exception cref="InvalidOperationException">All 32 are taken.</exception>
    public int FindFreeSlot()
    {
        for (int device = 0; device < Devices; device++)
        {
            if (!_functions.AsSpan(device * Functions, Functions).ContainsAnyExcept((PciFunction?)null)) return device;
        }
        throw new InvalidOperationException($"all {Devices} PCI slots are taken");
    }

    /// <summary>Puts CONFIG_ADDRESS and CONFIG_DATA on a bus. Before the guest runs.</summary>
    /// <param name="lock">Its lock; null: one that the bus makes.</param>
    public void AttachTo(PortBus ports, DeviceLock? @lock = null) => ports.Add(FirstPort, Ports, this, @lock);

    /// <inheritdoc/>
    public uint ReadPort(ushort offset, int size)
    {
        if (offset == 0 && size == 4) return _address;
        if (offset >= DataOffset) return Target is { } function ? function.ReadConfig(Register(offset), size) : uint.MaxValue;
        // Only a doubleword reaches CONFIG_ADDRESS; smaller accesses are plain I/O.
        if (size == 1) return offset == ResetControlOffset ? _resetControl : 0xFFu;
        uint value = 0;
        for (int n = 0; n < size; n++) value |= (ReadPort((ushort)(offset + n), 1) & 0xFF) << (8 * n);
        return value;
    }

    /// <inheritdoc/>
    public void WritePort(ushort offset, int size, uint value)
    {
        if (offset == 0 && size == 4) _address = value & AddressMask;
        else if (offset >= DataOffset) Target?.WriteConfig(Register(offset), size, value);
        else if (size == 1)
        {
            if (offset == ResetControlOffset) WriteResetControl((byte)value);
        }
        else
        {
            for (int n = 0; n < size; n++) WritePort((ushort)(offset + n), 1, (value >> (8 * n)) & 0xFF);
        }
    }

    /// <summary>The function that CONFIG_ADDRESS selects; null is a master abort.</summary>
    private PciFunction? Target =>
        (_address & Enable) != 0 && (_address >> 16 & 0xFF) == 0 ? _functions[_address >> 8 & 0xFF] : null;

    /// <summary>The bus never passes an access beyond CFFh, so it ends inside the doubleword.</summary>
    private int Register(int offset) => (int)(_address & 0xFC) + (offset - DataOffset);

    private void WriteResetControl(byte value)
    {
        bool pulse = (value & ~_resetControl & ResetProcessor) != 0;
        _resetControl = (byte)(value & (ResetProcessor | HardReset));
        if (pulse) reset();
    }
}

/// <summary>State of a <see cref="PciHost"/> and the configuration spaces behind it.</summary>
[StateRecord("pci", version: 1)]
internal sealed record PciHostState(uint Address, byte ResetControl, PciFunctionState[] Functions);

/// <summary>The configuration space of one function.</summary>
/// <param name="Place">Device in bits 7:3, function in 2:0.</param>
/// <param name="Config">Its 256 bytes.</param>
internal sealed record PciFunctionState(byte Place, byte[] Config);
