using System.Buffers.Binary;
using Bunraku.Machine.Firmware;
using Bunraku.Storage;

namespace Bunraku.Cli;

/// <summary>Which firmware would boot what is on a disk or a CD: so that a run of an installed system need not name one.</summary>
internal static class BootableDisk
{
    private const int Sector = 512, CdSector = 2048, PartitionTable = 446, PartitionEntries = 4, PartitionEntry = 16;
    private const byte EfiSystem = 0xEF, ProtectiveGpt = 0xEE, Active = 0x80;
    /// <summary>Most bytes of a GUID partition table that are looked at: four times what every tool makes.</summary>
    private const uint MostTable = 64 << 10;
    /// <summary>Sector of a CD with the boot record volume (El Torito 1.0, section 2.0), and where in it the catalog's sector stands.</summary>
    private const int BootRecord = 17, CatalogPointer = 0x47;

    // UEFI Specification 2.10, section 5.3.3: types of partitions; GRUB's own for what its boot sector loads.
    private static readonly Guid s_efiSystem = new("C12A7328-F81F-11D2-BA4B-00A0C93EC93B"), s_biosBoot = new("21686148-6449-6E6F-744E-656564454649");

    /// <summary>
    /// The firmware for the first of the disks that can be booted, or else of the discs; null: none can. What cannot be opened is passed over, since the run
    /// itself says what is wrong with it.
    /// </summary>
    public static string? Firmware(IEnumerable<DiskOptions> disks, IEnumerable<string> discs)
    {
        foreach (DiskOptions disk in disks)
            if (Look(disk, OfDisk) is { } firmware) return firmware;
        foreach (string disc in discs)
            if (Look(new DiskOptions(disc) { Format = ImageFormat.Raw }, OfDisc) is { } firmware) return firmware;
        return null;
    }

    private static string? Look(DiskOptions options, Func<IBlockBackend, string?> look)
    {
        try
        {
            using IBlockBackend disk = DiskImage.Open(options with { ReadOnly = true });
            return look(disk);
        }
        catch (IOException)
        {
            return null;
        }
    }

    /// <summary>
    /// A boot sector alone says little: file systems and tools that make partitions put code there that only says what is missing. So a partition must be
    /// meant for booting as well.
    /// </summary>
    internal static string? OfDisk(IBlockBackend disk)
    {
        byte[] first = new byte[2 * Sector];
        if (disk.Length < (ulong)first.Length) return null;
        disk.Read(0, first);
        if (first[510] != 0x55 || first[511] != 0xAA) return null;
        bool hasCode = first.AsSpan(0, 440).ContainsAnyExcept((byte)0), isActive = false, hasEfi = false;
        for (int n = 0; n < PartitionEntries; n++)
        {
            ReadOnlySpan<byte> entry = first.AsSpan(PartitionTable + n * PartitionEntry, PartitionEntry);
            if ((entry[0] & ~Active) != 0) return null; // the text or code of a file system
            if (entry[4] == ProtectiveGpt) return OfTable(disk, first.AsSpan(Sector), hasCode);
            isActive |= entry[0] == Active && entry[4] != 0;
            hasEfi |= entry[4] == EfiSystem;
        }
        return hasCode && isActive ? FirmwareImage.SeaBios : hasEfi ? FirmwareImage.Ovmf : null;
    }

    /// <summary>UEFI Specification 2.10, sections 5.3.2 and 5.3.3.</summary>
    private static string? OfTable(IBlockBackend disk, ReadOnlySpan<byte> header, bool hasCode)
    {
        if (!header.StartsWith("EFI PART"u8)) return null;
        ulong start = BinaryPrimitives.ReadUInt64LittleEndian(header[72..]);
        uint count = BinaryPrimitives.ReadUInt32LittleEndian(header[80..]), size = BinaryPrimitives.ReadUInt32LittleEndian(header[84..]);
        if (size is < 128 or > Sector || count > MostTable / size || start > disk.Length / Sector) return null;
        byte[] table = new byte[count * size];
        if (start * Sector + (ulong)table.Length > disk.Length) return null;
        disk.Read(start * Sector, table);
        bool hasEfi = false, hasBios = false;
        for (int at = 0; at < table.Length; at += (int)size)
        {
            var type = new Guid(table.AsSpan(at, 16));
            hasEfi |= type == s_efiSystem;
            hasBios |= type == s_biosBoot;
        }
        return hasBios && hasCode ? FirmwareImage.SeaBios : hasEfi ? FirmwareImage.Ovmf : null;
    }

    /// <summary>El Torito 1.0, sections 2.0 and 2.1. Where a catalog begins with an entry for PCs, more may follow: SeaBIOS takes the first.</summary>
    internal static string? OfDisc(IBlockBackend disc)
    {
        byte[] sector = new byte[CdSector];
        if (disc.Length < (BootRecord + 1) * CdSector) return null;
        disc.Read(BootRecord * CdSector, sector);
        if (!sector.AsSpan().StartsWith("\0CD001\u0001EL TORITO SPECIFICATION"u8)) return null;
        ulong catalog = BinaryPrimitives.ReadUInt32LittleEndian(sector.AsSpan(CatalogPointer)) * (ulong)CdSector;
        if (catalog + CdSector > disc.Length) return null;
        disc.Read(catalog, sector);
        return sector[0] != 1 ? null : sector[1] == EfiSystem ? FirmwareImage.Ovmf : FirmwareImage.SeaBios;
    }
}
