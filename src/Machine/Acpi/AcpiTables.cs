using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Text;
using Bunraku.Engines;
using Bunraku.Machine.Board;
using Bunraku.Machine.Timers;

namespace Bunraku.Machine.Acpi;

/// <summary>Where the guest's processor resets the machine by a byte written to a port.</summary>
public readonly record struct ResetRegister(ushort Port, byte Value);

/// <summary>
/// The ACPI tables of a board: RSDP, RSDT, XSDT, FADT, FACS, MADT, HPET, DSDT, placed from <see cref="MemoryLayout.AcpiTables"/> on with the RSDP first.
/// </summary>
/// <remarks>ACPI Specification 6.3, chapter 5.</remarks>
public sealed unsafe class AcpiTables
{
    private const string OemId = "BUNRKU", OemTableId = "BUNRAKU ", CreatorId = "BNRK";
    private const int TableAlignment = 16;
    private const byte AnyProcessor8 = 0xFF;

    private readonly byte[] _image = new byte[MemoryLayout.AcpiTablesEnd - MemoryLayout.AcpiTables];
    private readonly List<(string, int, int)> _tables = [];
    private int _next;

    /// <param name="cpus">1 to 4096; APIC IDs and processor UIDs are 0, 1, ….</param>
    /// <param name="secondSerial">There is a COM2.</param>
    /// <exception cref="ArgumentOutOfRangeException">More vCPUs than the tables' area has room for.</exception>
    public AcpiTables(int cpus, ResetRegister reset, bool secondSerial = false)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(cpus, 1);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(cpus, 0x1000);
        Allocate(sizeof(Rsdp), TableAlignment);
        uint facs = Place("FACS", MakeFacs(), Facs.Alignment);
        uint dsdt = PlaceTable("DSDT", 2, Concatenate(default(TableHeader), Dsdt.Build(cpus, secondSerial)));
        uint fadt = PlaceTable("FACP", 6, MakeFadt(facs, dsdt, reset));
        uint madt = PlaceTable("APIC", 5, MakeMadt(cpus));
        uint hpet = PlaceTable("HPET", 1, MakeHpet());
        uint rsdt = PlaceTable("RSDT", 1, Concatenate(default(TableHeader), MemoryMarshal.AsBytes<uint>([fadt, madt, hpet])));
        uint xsdt = PlaceTable("XSDT", 1, Concatenate(default(TableHeader), MemoryMarshal.AsBytes<ulong>([fadt, madt, hpet])));
        PlaceRsdp(rsdt, xsdt);
    }

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

    private static byte[] MakeFadt(uint facs, uint dsdt, ResetRegister reset)
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
            Pm1EventLength = PowerManagement.EventLength,
            Pm1ControlLength = PowerManagement.ControlLength,
            PmTimerLength = PowerManagement.TimerLength,
            XPm1aEventBlock = GenericAddress.Port(PowerManagement.EventPort, PowerManagement.EventLength) with { AccessSize = 2 },
            XPm1aControlBlock = GenericAddress.Port(PowerManagement.ControlPort, PowerManagement.ControlLength),
            XPmTimerBlock = GenericAddress.Port(PowerManagement.TimerPort, PowerManagement.TimerLength),
            C2Latency = 0xFFF, // above 100 µs: there is no C2
            C3Latency = 0xFFF, // above 1000 µs: there is no C3
            Century = 0x32,
            BootArchitecture = BootArchitecture.LegacyDevices | BootArchitecture.I8042 | BootArchitecture.NoVga | BootArchitecture.NoPcieAspm,
            Flags = FadtFlags.Wbinvd | FadtFlags.ProcC1 | FadtFlags.NoFixedSleepButton | FadtFlags.TimerExtended | FadtFlags.ResetRegister,
            ResetRegister = GenericAddress.Port(reset.Port, 1),
            ResetValue = reset.Value,
            MinorVersion = 3,
        };
        return Concatenate(fadt, []);
    }

    private static byte[] MakeMadt(int cpus)
    {
        var bytes = new List<byte>(Concatenate(new Madt { LocalApicAddress = (uint)MemoryLayout.LocalApic, Flags = 1 }, []));
        void Add<T>(byte type, Func<MadtEntry, T> make) where T : unmanaged => bytes.AddRange(Concatenate(make(new(type, (byte)sizeof(T))), []));

        const uint Enabled = 1;
        const int FirstX2ApicId = 0xFF; // 255 is the broadcast of the 8-bit format
        for (uint n = 0; n < cpus; n++)
        {
            if (n < FirstX2ApicId) Add(0, e => new MadtLocalApic(e, (byte)n, (byte)n, Enabled));
            else Add(9, e => new MadtLocalX2Apic(e, 0, n, Enabled, n));
        }
        Add(1, e => new MadtIoApic(e, 0, 0, (uint)MemoryLayout.IoApic, 0));
        // ISA IRQ 0 (8254) is wired to input 2, polarity and trigger as ISA has them; the SCI is level-triggered, active high.
        Add(2, e => new MadtSourceOverride(e, 0, 0, (uint)IsaInterrupts.TimerInput, 0));
        Add(2, e => new MadtSourceOverride(e, 0, PowerManagement.SciInterrupt, PowerManagement.SciInterrupt, 0b11_01));
        Add(4, e => new MadtLocalApicNmi(e, AnyProcessor8, 0, 1));
        if (cpus > FirstX2ApicId) Add(10, e => new MadtLocalX2ApicNmi(e, 0, uint.MaxValue, 1, 0, 0));
        return [.. bytes];
    }

    private static byte[] MakeHpet() => Concatenate(new HpetTable
    {
        BlockId = Hpet.BlockId,
        Address = GenericAddress.Memory(MemoryLayout.Hpet, 8),
        MinimumTick = (ushort)(Pit8254.MinimumSpacing / Hpet.TickNanoseconds),
    }, []);

    private void PlaceRsdp(uint rsdt, uint xsdt)
    {
        var rsdp = new Rsdp { Revision = 2, RsdtAddress = rsdt, XsdtAddress = xsdt, Length = (uint)sizeof(Rsdp) };
        Text("RSD PTR ", new Span<byte>(rsdp.Signature, 8));
        Text(OemId, new Span<byte>(rsdp.OemId, 6));
        rsdp.Checksum = Checksum(new ReadOnlySpan<byte>(&rsdp, Rsdp.FirstPart));
        rsdp.ExtendedChecksum = Checksum(new ReadOnlySpan<byte>(&rsdp, sizeof(Rsdp)));
        new ReadOnlySpan<byte>(&rsdp, sizeof(Rsdp)).CopyTo(_image);
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
        return Place(signature, table, TableAlignment);
    }

    private uint Place(string signature, byte[] bytes, int alignment)
    {
        int offset = Allocate(bytes.Length, alignment);
        bytes.CopyTo(_image, offset);
        _tables.Add((signature, offset, bytes.Length));
        return (uint)MemoryLayout.AcpiTables + (uint)offset;
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
