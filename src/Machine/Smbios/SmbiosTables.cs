using System.Buffers.Binary;
using System.Text;
using Bunraku.Engines;
using Bunraku.Machine.Board;

namespace Bunraku.Machine.Smbios;

/// <summary>
/// What a machine tells of itself to people: SMBIOS structures for firmware that hands them on. The firmware adds what it is (type 0) by itself.
/// </summary>
/// <remarks>DMTF DSP0134, System Management BIOS Reference Specification 3.6, sections 5.2.1 "SMBIOS 2.1 Entry Point" and 7 "Structure definitions".</remarks>
internal sealed class SmbiosTables
{
    private const string Manufacturer = "Bunraku", Product = "Bunraku PC";
    private const ulong MiB = 1 << 20, LargestDevice = 0x7FFF; // MiB in a memory device's 16-bit size; more goes into a wider field
    private const int EntryPointSize = 31, IntermediateStart = 16, CommonHeader = 4;
    private const ushort FirstCpu = 0x400, FirstDevice = 0x1100, Chassis = 0x300, MemoryArray = 0x1000, None = 0xFFFE;

    private readonly List<byte> _bytes = [];
    private int _count, _largest;

    /// <param name="cpus">Processors, each in a socket of its own.</param>
    /// <param name="memory">Bytes of RAM.</param>
    /// <param name="identity">What the machine is called.</param>
    /// <param name="hasFirmware">It says itself what it is (type 0).</param>
    public SmbiosTables(int cpus, ulong memory, MachineIdentity identity, bool hasFirmware = true)
    {
        if (!hasFirmware) AddBios(identity);
        Span<byte> id = stackalloc byte[16];
        (identity.Uuid ?? Guid.Empty).TryWriteBytes(id); // the first three fields little-endian, as section 7.2.1 wants them
        // Type 1 System Information: manufacturer, product, version, serial, UUID, wake-up by power switch, SKU, family
        var texts = new List<string>();
        byte manufacturer = Number(identity.Manufacturer ?? Manufacturer), product = Number(identity.Product ?? Product), version = Number(identity.Version),
            serial = Number(identity.Serial), sku = Number(identity.Sku), family = Number(identity.Family);
        Add(1, 0x100, [manufacturer, product, version, serial, .. id, 6, sku, family], [.. texts]);
        // Type 3 Chassis: manufacturer, type other, no version, serial, asset tag; states safe; OEM, height, power cords, contained elements; SKU
        Add(3, Chassis, [1, 1, 0, 0, 0, 3, 3, 3, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0], Manufacturer);
        for (int n = 0; n < cpus; n++) AddProcessor(n);
        ulong kibibytes = memory >> 10;
        // Type 16 Physical Memory Array: on the system board, system memory, no error correction
        byte[] array = [3, 3, 3, .. Int32(kibibytes >= 0x8000_0000 ? 0x8000_0000 : (uint)kibibytes), .. Int16(None), .. Int16(1),
            .. Int64(kibibytes >= 0x8000_0000 ? memory : 0)];
        Add(16, MemoryArray, array);
        AddMemoryDevice(memory);
        ulong low = Math.Min(memory, MemoryLayout.LowMemoryEnd);
        AddMappedRange(0, 0, low);
        if (memory > low) AddMappedRange(1, 1ul << 32, memory - low);
        // Type 11 OEM Strings: their number
        if (identity.Strings.Count > 0) Add(11, 0xB00, [(byte)identity.Strings.Count], [.. identity.Strings]);
        // Type 32 System Boot Information: no error
        Add(32, 0x2000, [0, 0, 0, 0, 0, 0, 0]);
        Add(127, 0x7F00, []);

        byte Number(string? text)
        {
            if (text is null) return 0;
            texts.Add(text);
            return (byte)texts.Count;
        }
    }

    /// <summary>Type 0 BIOS Information: vendor, version, segment, date, 64 KiB; characteristics unknown, ACPI, a virtual machine; no versions of its
    /// parts.</summary>
    private void AddBios(MachineIdentity identity)
    {
        const byte unknown = 1 << 3, acpi = 1, virtualMachine = 1 << 4, noVersion = 0xFF;
        Add(0, 0, [1, 2, .. Int16(0xF000), 3, 0, .. Int64(unknown), acpi, virtualMachine, noVersion, noVersion, noVersion, noVersion],
            identity.BiosVendor ?? Manufacturer, identity.BiosVersion ?? "1", identity.BiosDate ?? "01/01/2026");
    }

    /// <summary>All structures, one behind the other.</summary>
    public byte[] Structures => [.. _bytes];

    /// <summary>The entry point of the 32-bit format.</summary>
    /// <param name="address">Where the structures lie.</param>
    public byte[] EntryPoint(uint address)
    {
        byte[] e = new byte[EntryPointSize];
        "_SM_"u8.CopyTo(e);
        e[5] = EntryPointSize;
        (e[6], e[7]) = (2, 8); // version 2.8
        BinaryPrimitives.WriteUInt16LittleEndian(e.AsSpan(8), (ushort)_largest);
        "_DMI_"u8.CopyTo(e.AsSpan(IntermediateStart));
        BinaryPrimitives.WriteUInt16LittleEndian(e.AsSpan(22), (ushort)_bytes.Count);
        BinaryPrimitives.WriteUInt32LittleEndian(e.AsSpan(24), address);
        BinaryPrimitives.WriteUInt16LittleEndian(e.AsSpan(28), (ushort)_count);
        e[30] = 0x28;
        e[21] = Negated(e.AsSpan(IntermediateStart));
        e[4] = Negated(e);
        return e;
    }

    /// <summary>
    /// Writes them where an operating system looks (section 5.2 "Table convention"), the entry point first. The ROM's own entry points lie behind them.
    /// </summary>
    /// <exception cref="ArgumentException">There is no room for them.</exception>
    public void WriteTo(GuestMemory memory)
    {
        if (_bytes.Count > MostBytes) throw new ArgumentException($"{_bytes.Count} bytes of SMBIOS tables are too many; there is room for {MostBytes}");
        const ulong structures = MemoryLayout.Rom + 0x20;
        memory.Write(structures, Structures);
        memory.Write(MemoryLayout.Rom, EntryPoint((uint)structures));
    }

    /// <summary>The room for structures in the ROM.</summary>
    public const int MostBytes = 0xE000 - 0x20;

    private void AddProcessor(int n)
    {
        // Type 4: socket, central processor, family other, manufacturer, ID, version, voltage, clocks, enabled, upgrade other, caches, strings,
        // cores and threads, characteristics, family 2
        byte[] body = [1, 3, 1, 2, .. new byte[8], 2, 0, .. Int16(0), .. Int16(0), .. Int16(0), 0x41, 1, .. Int16(0xFFFF), .. Int16(0xFFFF), .. Int16(0xFFFF),
            0, 0, 0, 1, 1, 1, .. Int16(2), .. Int16(1)];
        Add(4, (ushort)(FirstCpu + n), body, $"CPU {n}", Manufacturer);
    }

    private void AddMemoryDevice(ulong memory)
    {
        ulong mebibytes = memory / MiB;
        // Type 17: array, no error information, widths unknown, size, form factor DIMM, no set, locator, bank, type RAM, detail other, speed unknown, strings,
        // attributes, extended size
        byte[] body = [.. Int16(MemoryArray), .. Int16(None), .. Int16(0xFFFF), .. Int16(0xFFFF), .. Int16((ushort)Math.Min(mebibytes, LargestDevice)),
            9, 0, 1, 0, 7, .. Int16(2), .. Int16(0), 2, 0, 0, 0, 0, .. Int32(mebibytes >= LargestDevice ? (uint)mebibytes : 0), .. Int16(0)];
        Add(17, FirstDevice, body, "DIMM 0", Manufacturer);
    }

    /// <summary>Type 19 Memory Array Mapped Address.</summary>
    private void AddMappedRange(int n, ulong start, ulong length)
    {
        ulong last = start + length - 1;
        bool wide = last >> 42 != 0; // KiB in 32 bits
        byte[] body = [.. Int32(wide ? uint.MaxValue : (uint)(start >> 10)), .. Int32(wide ? uint.MaxValue : (uint)(last >> 10)), .. Int16(MemoryArray), 1,
            .. Int64(wide ? start : 0), .. Int64(wide ? last : 0)];
        Add(19, (ushort)(0x1300 + n), body);
    }

    /// <summary>A structure: header, body, strings, each with its zero, and one more; two zeros where there are none (section 6.1.3).</summary>
    private void Add(byte type, ushort handle, ReadOnlySpan<byte> body, params ReadOnlySpan<string> strings)
    {
        int before = _bytes.Count;
        _bytes.AddRange([type, (byte)(CommonHeader + body.Length), (byte)handle, (byte)(handle >> 8)]);
        _bytes.AddRange(body);
        foreach (string text in strings)
        {
            _bytes.AddRange(Encoding.UTF8.GetBytes(text));
            _bytes.Add(0);
        }
        if (strings.Length == 0) _bytes.Add(0);
        _bytes.Add(0);
        _largest = Math.Max(_largest, _bytes.Count - before);
        _count++;
    }

    private static byte[] Int16(ushort value) => [(byte)value, (byte)(value >> 8)];

    private static byte[] Int32(uint value) => [.. Int16((ushort)value), .. Int16((ushort)(value >> 16))];

    private static byte[] Int64(ulong value) => [.. Int32((uint)value), .. Int32((uint)(value >> 32))];

    /// <summary>The byte that makes the sum 0.</summary>
    private static byte Negated(ReadOnlySpan<byte> bytes)
    {
        byte sum = 0;
        foreach (byte b in bytes) sum += b;
        return (byte)-sum;
    }
}
