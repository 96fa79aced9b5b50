using System.Buffers.Binary;
using System.Text;
using Bunraku.Engines;
using Bunraku.Machine.Acpi;
using Bunraku.Machine.Smbios;

namespace Bunraku.Machine.Firmware;

/// <summary>
/// What firmware takes from fw_cfg instead of making it itself: ACPI tables with the script that places them, SMBIOS structures, order of booting, console.
/// </summary>
/// <remarks>
/// QEMU's interface, as its docs/specs/fw_cfg.rst and docs/specs/acpi_hest_ghes.rst name the files and SeaBIOS's and edk2's loaders read the script: entries of
/// 128 bytes, little-endian, names of 56 bytes.
/// </remarks>
internal static class FirmwareTables
{
    private const string TablesFile = "etc/acpi/tables", RsdpFile = "etc/acpi/rsdp";
    private const int EntrySize = 128, NameSize = 56;
    private const uint Allocate = 1, AddPointer = 2, AddChecksum = 3, WritePointer = 4;
    private const byte HighZone = 1, FSegment = 2;

    /// <summary>Adds the files to <paramref name="fwCfg"/>.</summary>
    public static void AddTo(FwCfg fwCfg, AcpiDescription acpi, SmbiosTables smbios)
    {
        var tables = new AcpiTables(acpi, address: 0);
        byte[] image = tables.Image.ToArray(), rsdp = image[..AcpiTables.RsdpLength];
        rsdp.AsSpan().CopyTo(image); // it lies in a file of its own
        image.AsSpan(0, AcpiTables.RsdpLength).Clear();
        var script = new List<byte>();
        AddAllocate(script, RsdpFile, 16, FSegment);
        AddAllocate(script, TablesFile, AcpiTables.LargestAlignment, HighZone);
        AddAllocate(script, VmGeneration.IdFile, (uint)GuestMemory.PageSize, HighZone);
        foreach ((int offset, int size, string? file) in tables.Pointers)
            AddPointerEntry(script, offset < rsdp.Length ? RsdpFile : TablesFile, file ?? TablesFile, offset, size);
        AddWritePointer(script, VmGeneration.AddressFile, VmGeneration.IdFile, VmGeneration.IdOffset);
        foreach (AcpiChecksum sum in tables.Checksums)
        {
            bool ofRsdp = sum.Place < rsdp.Length;
            (ofRsdp ? rsdp : image)[sum.Place] = 0; // edk2 counts the old one in
            AddChecksumEntry(script, ofRsdp ? RsdpFile : TablesFile, sum);
        }
        fwCfg.AddFile(TablesFile, image);
        fwCfg.AddFile(RsdpFile, rsdp);
        fwCfg.AddFile("etc/table-loader", [.. script]);
        fwCfg.AddFile("etc/smbios/smbios-tables", smbios.Structures);
        fwCfg.AddFile("etc/smbios/smbios-anchor", smbios.EntryPoint(address: 0));
    }

    private static void AddAllocate(List<byte> script, string file, uint alignment, byte zone)
    {
        Span<byte> entry = stackalloc byte[EntrySize];
        Begin(entry, Allocate, file);
        BinaryPrimitives.WriteUInt32LittleEndian(entry[(4 + NameSize)..], alignment);
        entry[4 + NameSize + 4] = zone;
        script.AddRange(entry);
    }

    private static void AddPointerEntry(List<byte> script, string file, string pointee, int offset, int size)
    {
        Span<byte> entry = stackalloc byte[EntrySize];
        Begin(entry, AddPointer, file);
        Encoding.ASCII.GetBytes(pointee, entry[(4 + NameSize)..]);
        BinaryPrimitives.WriteInt32LittleEndian(entry[(4 + 2 * NameSize)..], offset);
        entry[4 + 2 * NameSize + 4] = (byte)size;
        script.AddRange(entry);
    }

    /// <summary>The firmware writes where it has put an offset of one file into the first bytes of another one, for the device to read.</summary>
    private static void AddWritePointer(List<byte> script, string file, string pointee, int offset)
    {
        Span<byte> entry = stackalloc byte[EntrySize];
        Begin(entry, WritePointer, file);
        Encoding.ASCII.GetBytes(pointee, entry[(4 + NameSize)..]);
        BinaryPrimitives.WriteInt32LittleEndian(entry[(4 + 2 * NameSize + 4)..], offset);
        entry[4 + 2 * NameSize + 8] = sizeof(ulong);
        script.AddRange(entry);
    }

    private static void AddChecksumEntry(List<byte> script, string file, AcpiChecksum sum)
    {
        Span<byte> entry = stackalloc byte[EntrySize];
        Begin(entry, AddChecksum, file);
        BinaryPrimitives.WriteInt32LittleEndian(entry[(4 + NameSize)..], sum.Place);
        BinaryPrimitives.WriteInt32LittleEndian(entry[(4 + NameSize + 4)..], sum.Start);
        BinaryPrimitives.WriteInt32LittleEndian(entry[(4 + NameSize + 8)..], sum.Length);
        script.AddRange(entry);
    }

    private static void Begin(Span<byte> entry, uint command, string file)
    {
        entry.Clear();
        BinaryPrimitives.WriteUInt32LittleEndian(entry, command);
        Encoding.ASCII.GetBytes(file, entry[4..]);
    }
}
