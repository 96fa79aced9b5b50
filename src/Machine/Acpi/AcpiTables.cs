using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Text;
using Bunraku.Engines;
using Bunraku.Machine.Board;
using Bunraku.Machine.Timers;

namespace Bunraku.Machine.Acpi;

/// <summary>Where the guest's processor resets the machine by a byte written to a port.</summary>
internal readonly record struct ResetRegister(ushort Port, byte Value);

/// <summary>A place that holds an address, to which firmware adds where it has put what it points into.</summary>
/// <param name="Offset">Of the place, from the beginning of the tables, or of the body of the table.</param>
/// <param name="Size">Bytes of the place: 4 or 8.</param>
/// <param name="File">The fw_cfg file that it points into; null: the tables.</param>
internal readonly record struct AcpiPointer(int Offset, int Size, string? File = null);

/// <summary>A table that a part of the board adds.</summary>
/// <param name="Body">Behind the header.</param>
/// <param name="Pointer">The place in the body that firmware completes; null: there is none.</param>
internal sealed record ExtraTable(string Signature, byte Revision, byte[] Body, AcpiPointer? Pointer);

/// <summary>A byte that makes others sum to 0, itself among them. All are offsets from the beginning of the tables.</summary>
internal readonly record struct AcpiChecksum(int Place, int Start, int Length);

/// <summary>
/// The ACPI tables of a board: RSDP, RSDT, XSDT, FADT, FACS, MADT, DSDT and what its parts add, with the RSDP first. Where pointers and checksums are is known,
/// for firmware that moves the tables.
/// </summary>
/// <remarks>ACPI Specification 6.3, chapter 5.</remarks>
internal sealed unsafe class AcpiTables
{
    private const string OemId = "BUNRKU", OemTableId = "BUNRAKU ", CreatorId = "BNRK";
    private const int TableAlignment = 16, MostCpus = 0x1000;

    /// <summary>Bytes of the RSDP.</summary>
    public static int RsdpLength => sizeof(Rsdp);

    /// <summary>What the tables' beginning must be a multiple of.</summary>
    public const int LargestAlignment = Facs.Alignment;

    private readonly uint _address;
    private readonly List<AcpiPointer> _pointers = [];
    private readonly List<AcpiChecksum> _checksums = [];
    private readonly byte[] _image = new byte[MemoryLayout.AcpiTablesEnd - MemoryLayout.AcpiTables];
    private readonly List<(string, int, int)> _tables = [];
    private int _next;

    /// <param name="description">With 1 to 4096 processors.</param>
    /// <param name="address">Where they are to lie.</param>
    /// <exception cref="ArgumentOutOfRangeException">More vCPUs than the tables' area has room for.</exception>
    public AcpiTables(AcpiDescription description, uint address = (uint)MemoryLayout.AcpiTables)
    {
        _address = address;
        ArgumentOutOfRangeException.ThrowIfLessThan(description.Cpus, 1, "processors");
        ArgumentOutOfRangeException.ThrowIfGreaterThan(description.Cpus, MostCpus, "processors");
        Allocate(sizeof(Rsdp), TableAlignment);
        uint facs = Place("FACS", MakeFacs(), Facs.Alignment);
        uint dsdt = PlaceTable("DSDT", 2, Concatenate(default(TableHeader), Dsdt.Build(description)));
        uint fadt = PlaceTable("FACP", 6, MakeFadt(facs, dsdt, description));
        Fadt layout;
        Point(fadt, (int)((byte*)&layout.FirmwareControl - (byte*)&layout), sizeof(uint));
        Point(fadt, (int)((byte*)&layout.Dsdt - (byte*)&layout), sizeof(uint));
        Point(fadt, (int)((byte*)&layout.XDsdt - (byte*)&layout), sizeof(ulong));
        uint madt = PlaceTable("APIC", 5, MakeMadt(description));
        List<uint> tables = [fadt, madt];
        foreach (ExtraTable extra in description.ExtraTables)
        {
            tables.Add(PlaceTable(extra.Signature, extra.Revision, Concatenate(default(TableHeader), extra.Body)));
            if (extra.Pointer is { } p) _pointers.Add(p with { Offset = (int)(tables[^1] - _address) + sizeof(TableHeader) + p.Offset });
        }
        var wide = new ulong[tables.Count];
        for (int n = 0; n < wide.Length; n++) wide[n] = tables[n];
        uint rsdt = PlaceTable("RSDT", 1, Concatenate(default(TableHeader), MemoryMarshal.AsBytes<uint>([.. tables])));
        uint xsdt = PlaceTable("XSDT", 1, Concatenate(default(TableHeader), MemoryMarshal.AsBytes<ulong>(wide)));
        for (int n = 0; n < tables.Count; n++)
        {
            Point(rsdt, sizeof(TableHeader) + n * sizeof(uint), sizeof(uint));
            Point(xsdt, sizeof(TableHeader) + n * sizeof(ulong), sizeof(ulong));
        }
        PlaceRsdp(rsdt, xsdt);
    }

    /// <summary>Where addresses of tables and of what firmware places beside them are.</summary>
    public IReadOnlyList<AcpiPointer> Pointers => _pointers;

    /// <summary>The checksums, in the order in which they can be made.</summary>
    public IReadOnlyList<AcpiChecksum> Checksums => _checksums;

    private void Point(uint table, int field, int size) => _pointers.Add(new((int)(table - _address) + field, size));

    /// <summary>The bytes from <see cref="MemoryLayout.AcpiTables"/> on.</summary>
    public ReadOnlySpan<byte> Image => _image.AsSpan(0, _next);

    /// <summary>Signature and bytes of each table, FACS included.</summary>
    public IEnumerable<(string Signature, byte[] Bytes)> Tables => _tables.Select(t => (t.Item1, _image.AsSpan(t.Item2, t.Item3).ToArray()));

    public void WriteTo(GuestMemory memory)
    {
        if (!memory.Write(MemoryLayout.AcpiTables, Image)) throw new InvalidOperationException("the area of the ACPI tables is not RAM");
    }

    private static byte[] MakeFacs()
    {
        var facs = new Facs { Length = (uint)sizeof(Facs), Version = 2 };
        Text("FACS", new Span<byte>(facs.Signature, 4));
        return Concatenate(facs, []);
    }

    private static byte[] MakeFadt(uint facs, uint dsdt, AcpiDescription description)
    {
        var fadt = new Fadt
        {
            FirmwareControl = facs, // of this and the 64-bit field only one may be set
            Dsdt = dsdt,
            XDsdt = dsdt,
            SciInterrupt = PowerManagement.SciInterrupt,
            Pm1aEventBlock = PowerManagement.EventPort,
            Pm1aControlBlock = PowerManagement.ControlPort,
            PmTimerBlock = PowerManagement.TimerPort,
            Gpe0Block = PowerManagement.GeneralEventPort,
            Pm1EventLength = PowerManagement.EventLength,
            Pm1ControlLength = PowerManagement.ControlLength,
            PmTimerLength = PowerManagement.TimerLength,
            Gpe0BlockLength = PowerManagement.GeneralEventLength,
            XPm1aEventBlock = GenericAddress.Port(PowerManagement.EventPort, PowerManagement.EventLength) with { AccessSize = 2 },
            XPm1aControlBlock = GenericAddress.Port(PowerManagement.ControlPort, PowerManagement.ControlLength),
            XPmTimerBlock = GenericAddress.Port(PowerManagement.TimerPort, PowerManagement.TimerLength),
            XGpe0Block = GenericAddress.Port(PowerManagement.GeneralEventPort, PowerManagement.GeneralEventLength) with { AccessSize = 1 },
            C2Latency = 0xFFF, // above 100 µs: there is no C2
            C3Latency = 0xFFF, // above 1000 µs: there is no C3
            Century = 0x32,
            BootArchitecture = BootArchitecture.LegacyDevices | (description.HasKeyboardController ? BootArchitecture.I8042 : 0) | BootArchitecture.NoVga
                | BootArchitecture.NoPcieAspm,
            Flags = FadtFlags.Wbinvd | FadtFlags.ProcC1 | FadtFlags.NoFixedSleepButton | FadtFlags.TimerExtended | FadtFlags.ResetRegister,
            ResetRegister = GenericAddress.Port(description.Reset.Port, 1),
            ResetValue = description.Reset.Value,
            MinorVersion = 3,
        };
        return Concatenate(fadt, []);
    }

    private static byte[] MakeMadt(AcpiDescription description)
    {
        var entries = new MemoryStream();
        foreach (byte[] entry in description.Controllers) entries.Write(entry);
        return Concatenate(new Madt { LocalApicAddress = (uint)MemoryLayout.LocalApic, Flags = 1 }, entries.ToArray());
    }

    /// <summary>The HPET's table behind its header.</summary>
    internal static byte[] MakeHpet() => Concatenate(new HpetTable
    {
        BlockId = Hpet.BlockId,
        Address = GenericAddress.Memory(MemoryLayout.Hpet, 8),
        MinimumTick = (ushort)(Pit8254.MinimumSpacing / Hpet.TickNanoseconds),
    }, [])[sizeof(TableHeader)..];

    private void PlaceRsdp(uint rsdt, uint xsdt)
    {
        var rsdp = new Rsdp { Revision = 2, RsdtAddress = rsdt, XsdtAddress = xsdt, Length = (uint)sizeof(Rsdp) };
        Text("RSD PTR ", new Span<byte>(rsdp.Signature, 8));
        Text(OemId, new Span<byte>(rsdp.OemId, 6));
        rsdp.Checksum = Checksum(new ReadOnlySpan<byte>(&rsdp, Rsdp.FirstPart));
        rsdp.ExtendedChecksum = Checksum(new ReadOnlySpan<byte>(&rsdp, sizeof(Rsdp)));
        new ReadOnlySpan<byte>(&rsdp, sizeof(Rsdp)).CopyTo(_image);
        Point(_address, (int)((byte*)&rsdp.RsdtAddress - (byte*)&rsdp), sizeof(uint));
        Point(_address, (int)((byte*)&rsdp.XsdtAddress - (byte*)&rsdp), sizeof(ulong));
        _checksums.Add(new((int)(&rsdp.Checksum - (byte*)&rsdp), 0, Rsdp.FirstPart));
        _checksums.Add(new((int)(&rsdp.ExtendedChecksum - (byte*)&rsdp), 0, sizeof(Rsdp)));
    }

    /// <summary>Completes the header and the checksum, and places the table.</summary>
    /// <returns>Its guest-physical address.</returns>
    private uint PlaceTable(string signature, byte revision, byte[] table)
    {
        ref TableHeader header = ref MemoryMarshal.AsRef<TableHeader>(table.AsSpan());
        fixed (TableHeader* h = &header)
        {
            Text(signature, new Span<byte>(h->Signature, 4));
            h->Length = (uint)table.Length;
            h->Revision = revision;
            Text(OemId, new Span<byte>(h->OemId, 6));
            Text(OemTableId, new Span<byte>(h->OemTableId, 8));
            h->OemRevision = 1;
            Text(CreatorId, new Span<byte>(h->CreatorId, 4));
            h->CreatorRevision = 1;
            h->Checksum = Checksum(table);
        }
        uint placed = Place(signature, table, TableAlignment);
        TableHeader layout;
        int offset = (int)(placed - _address);
        _checksums.Add(new(offset + (int)(&layout.Checksum - (byte*)&layout), offset, table.Length));
        return placed;
    }

    private uint Place(string signature, byte[] bytes, int alignment)
    {
        int offset = Allocate(bytes.Length, alignment);
        bytes.CopyTo(_image, offset);
        _tables.Add((signature, offset, bytes.Length));
        return _address + (uint)offset;
    }

    private int Allocate(int length, int alignment)
    {
        int offset = (_next + alignment - 1) & -alignment;
        if (offset + length > _image.Length) throw new ArgumentOutOfRangeException(nameof(length), "the ACPI tables do not fit their area: too many CPUs");
        _next = offset + length;
        return offset;
    }

    private static byte[] Concatenate<T>(T first, ReadOnlySpan<byte> second) where T : unmanaged
    {
        byte[] bytes = new byte[sizeof(T) + second.Length];
        Unsafe.WriteUnaligned(ref bytes[0], first);
        second.CopyTo(bytes.AsSpan(sizeof(T)));
        return bytes;
    }

    private static void Text(string text, Span<byte> destination) => Encoding.ASCII.GetBytes(text, destination);

    /// <summary>The byte that makes the sum 0; its place holds 0.</summary>
    private static byte Checksum(ReadOnlySpan<byte> bytes)
    {
        byte sum = 0;
        foreach (byte b in bytes) sum += b;
        return (byte)-sum;
    }
}
