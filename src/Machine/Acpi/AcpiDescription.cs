using Bunraku.Machine.Board;

namespace Bunraku.Machine.Acpi;

/// <summary>
/// What ACPI tells of a board, gathered from its parts while they attach themselves; <see cref="AcpiTables"/> makes tables of it. Before the guest runs.
/// </summary>
public sealed class AcpiDescription
{
    /// <summary>Flags of an interrupt override: level-triggered, active high. ACPI Specification 6.3, table "MPS INTI Flags".</summary>
    public const ushort ActiveHighLevel = 0b11_01;

    private const int FirstX2ApicId = 0xFF; // 255 is the broadcast of the 8-bit format
    private const byte AnyProcessor8 = 0xFF;
    private const uint Enabled = 1;

    private readonly List<(string Name, Action<AmlBuilder> Contents)> _system = [], _isa = [];
    private readonly List<Action<ResourceTemplate>> _reserved = [];
    private readonly List<ExtraTable> _tables = [];
    private readonly List<byte[]> _controllers = [];

    internal int Cpus { get; private set; }

    /// <summary>There is a PCI bus; else what would stand on it is directly under the system bus.</summary>
    internal bool HasPci { get; set; } = true;

    internal IEnumerable<(string Name, Action<AmlBuilder> Contents)> SystemDevices => _system;
    internal IEnumerable<(string Name, Action<AmlBuilder> Contents)> IsaDevices => _isa;
    internal IEnumerable<ExtraTable> ExtraTables => _tables;

    /// <summary>There is an 8042 or its like at ports 60h and 64h.</summary>
    internal bool HasKeyboardController { get; set; }

    /// <summary>Where the guest's processor resets the machine.</summary>
    internal ResetRegister Reset { get; set; }

    internal void Reserved(ResourceTemplate template)
    {
        foreach (Action<ResourceTemplate> add in _reserved) add(template);
    }

    /// <summary>A device directly under the system bus.</summary>
    /// <param name="name">One to four upper-case letters, digits and underscores, not beginning with a digit.</param>
    /// <param name="id">EISA ID for _HID: three letters and four hexadecimal digits.</param>
    /// <param name="resources">Writes _CRS.</param>
    /// <param name="uid">_UID; null: there is one such device.</param>
    public void AddSystemDevice(string name, string id, Action<ResourceTemplate> resources, ulong? uid = null) =>
        AddSystemDevice(name, DeviceOf(id, resources, uid));

    /// <summary>A device directly under the system bus, whose contents <paramref name="contents"/> writes.</summary>
    public void AddSystemDevice(string name, Action<AmlBuilder> contents) => Add(_system, name, contents);

    /// <summary>A device under the ISA bridge; arguments as for <see cref="AddSystemDevice(string, string, Action{ResourceTemplate}, ulong?)"/>.</summary>
    public void AddIsaDevice(string name, string id, Action<ResourceTemplate> resources, ulong? uid = null) => AddIsaDevice(name, DeviceOf(id, resources, uid));

    /// <summary>A device under the ISA bridge, whose contents <paramref name="contents"/> writes.</summary>
    public void AddIsaDevice(string name, Action<AmlBuilder> contents) => Add(_isa, name, contents);

    /// <summary>Ports or memory that no driver claims and that must not be given to anybody else.</summary>
    public void Reserve(Action<ResourceTemplate> resources) => _reserved.Add(resources);

    /// <summary>A table of its own.</summary>
    /// <param name="signature">Four characters.</param>
    /// <param name="body">What follows the header, which is written for it.</param>
    public void AddTable(string signature, byte revision, ReadOnlySpan<byte> body) => AddTable(signature, revision, body, pointer: null);

    /// <summary>A table with a place in its body that firmware completes.</summary>
    internal void AddTable(string signature, byte revision, ReadOnlySpan<byte> body, AcpiPointer? pointer) =>
        _tables.Add(new(signature, revision, body.ToArray(), pointer));

    /// <summary>An ISA interrupt that arrives at another input of the I/O APIC, or in another way, than its number says.</summary>
    /// <param name="flags">0: as ISA has it; or <see cref="ActiveHighLevel"/>.</param>
    public void AddInterruptOverride(int irq, int input, ushort flags) => AddController(2, e => new MadtSourceOverride(e, 0, (byte)irq, (uint)input, flags));

    /// <summary>Processors with the APIC IDs and UIDs 0, 1, …; NMI leads to LINT1 of each.</summary>
    internal void AddLocalApics(int cpus)
    {
        Cpus = cpus;
        for (uint n = 0; n < cpus; n++)
        {
            if (n < FirstX2ApicId) AddController(0, e => new MadtLocalApic(e, (byte)n, (byte)n, Enabled));
            else AddController(9, e => new MadtLocalX2Apic(e, 0, n, Enabled, n));
        }
    }

    internal void AddIoApic(byte id, ulong address, uint firstInterrupt) => AddController(1, e => new MadtIoApic(e, id, 0, (uint)address, firstInterrupt));

    /// <summary>The entries of the MADT.</summary>
    internal IEnumerable<byte[]> Controllers
    {
        get
        {
            foreach (byte[] entry in _controllers) yield return entry;
            yield return Entry(4, e => new MadtLocalApicNmi(e, AnyProcessor8, 0, 1));
            if (Cpus > FirstX2ApicId) yield return Entry(10, e => new MadtLocalX2ApicNmi(e, 0, uint.MaxValue, 1, 0, 0));
        }
    }

    internal static Action<AmlBuilder> DeviceOf(string id, Action<ResourceTemplate> resources, ulong? uid) => d =>
    {
        d.NameEisaId("_HID", id);
        if (uid is { } u) d.Name("_UID", u);
        var template = new ResourceTemplate();
        resources(template);
        d.Name("_CRS", template);
    };

    private void AddController<T>(byte type, Func<MadtEntry, T> make) where T : unmanaged => _controllers.Add(Entry(type, make));

    private static unsafe byte[] Entry<T>(byte type, Func<MadtEntry, T> make) where T : unmanaged
    {
        T entry = make(new(type, (byte)sizeof(T)));
        return new ReadOnlySpan<byte>(&entry, sizeof(T)).ToArray();
    }

    private void Add(List<(string Name, Action<AmlBuilder> Contents)> devices, string name, Action<AmlBuilder> contents)
    {
        if (_system.Exists(d => d.Name == name) || _isa.Exists(d => d.Name == name))
            throw new ArgumentException($"the board has a device {name} in its ACPI description already", nameof(name));
        devices.Add((name, contents));
    }
}
