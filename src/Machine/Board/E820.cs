using Bunraku.Engines;
using Bunraku.Machine.Pci;

namespace Bunraku.Machine.Board;

/// <summary>What a range of the memory map is good for.</summary>
/// <remarks>ACPI Specification 6.5, section 15 "System Address Map Interfaces", table "Address Range Types".</remarks>
public enum E820Type : uint
{
    /// <summary>RAM that the operating system may use.</summary>
    Memory = 1,
    /// <summary>Not to be touched.</summary>
    Reserved = 2,
    /// <summary>RAM that is free once the ACPI tables in it were read.</summary>
    AcpiReclaim = 3,
    /// <summary>RAM that must be preserved across sleep.</summary>
    AcpiNvs = 4,
}

/// <summary>One range of the memory map that the boot protocols hand to the guest.</summary>
/// <param name="Address">First guest-physical address.</param>
/// <param name="Length">Bytes, not 0.</param>
public readonly record struct E820Entry(ulong Address, ulong Length, E820Type Type)
{
    /// <summary>The first address behind it.</summary>
    public ulong End => Address + Length;
}

/// <summary>The memory map of a board without a BIOS.</summary>
internal static class E820
{
    private static readonly E820Entry s_ecam = new(MemoryLayout.PciEcam, PciEcam.Length, E820Type.Reserved);

    /// <summary>RAM as a board with firmware tells of it: what the firmware needs of it, it reserves itself.</summary>
    public static IReadOnlyList<E820Entry> ForFirmware(ulong size)
    {
        ulong low = Math.Min(size, MemoryLayout.LowMemoryEnd);
        return size > low ? [new(0, low, E820Type.Memory), s_ecam, new(1ul << 32, size - low, E820Type.Memory)] : [new(0, low, E820Type.Memory), s_ecam];
    }

    /// <summary>The map for <paramref name="memory"/>: sorted by address, without overlap, low memory as in <see cref="MemoryLayout"/>.</summary>
    /// <param name="hasPci">There is a PCI bus.</param>
    public static IReadOnlyList<E820Entry> Build(GuestMemory memory, bool hasPci = true)
    {
        List<E820Entry> map =
        [
            new(0, MemoryLayout.Ebda, E820Type.Memory),
            new(MemoryLayout.Ebda, MemoryLayout.VideoHole - MemoryLayout.Ebda, E820Type.Reserved),
            new(MemoryLayout.AcpiTables, MemoryLayout.RomEnd - MemoryLayout.AcpiTables, E820Type.Reserved),
        ];
        foreach (MemoryRegion region in memory.Regions)
        {
            if (region.IsReadOnly || region.IsDevice) continue;
            ulong start = Math.Max(region.Start, MemoryLayout.HighMemory);
            if (region.End > start) map.Add(new(start, region.End - start, E820Type.Memory));
        }
        if (hasPci) map.Insert(map.TakeWhile(e => e.Address < s_ecam.Address).Count(), s_ecam);
        return map;
    }
}
