using Bunraku.Engines;
using Bunraku.Machine.Pci;

namespace Bunraku.Machine.Board;

/// <summary>
/// Where things lie in guest-physical address space, each range stated once. What a boot protocol leaves in low memory has no fixed place:
/// <see cref="BootMemory"/> finds room in what the memory map calls usable, beside what the kernel file claims.
/// </summary>
public static class MemoryLayout
{
    /// <summary>
    /// BIOS data area, behind the real-mode interrupt vectors; empty but for <see cref="BiosDataAreaEbda"/> and <see cref="BiosDataAreaMemory"/>.
    /// </summary>
    public const ulong BiosDataArea = 0x400;
    /// <summary>Word with the real-mode segment of the EBDA, where an operating system begins its search for the RSDP.</summary>
    public const ulong BiosDataAreaEbda = 0x40E;
    /// <summary>Word with the size of conventional memory in KiB: what lies below the EBDA.</summary>
    public const ulong BiosDataAreaMemory = 0x413;
    /// <summary>Behind the BIOS data area.</summary>
    public const ulong BiosDataAreaEnd = 0x500;

    /// <summary>
    /// Word by which software tells the firmware before a reset what kind of one it wants: 1234h a warm one (IBM PC AT Technical Reference, BIOS listing,
    /// RESET_FLAG).
    /// </summary>
    public const ulong BiosDataAreaResetFlag = 0x472;

    /// <summary>End of conventional memory, beginning of the extended BIOS data area (1 KiB, empty).</summary>
    public const ulong Ebda = 0x9FC00;
    /// <summary>A0000 to BFFFF: legacy video memory, not in the memory map.</summary>
    public const ulong VideoHole = 0xA0000;
    /// <summary>Behind it.</summary>
    public const ulong VideoHoleEnd = 0xC0000;
    /// <summary>The RSDP lies at the beginning of the area that operating systems search, the tables behind it.</summary>
    public const ulong AcpiTables = 0xE0000;
    /// <summary>Behind the room for ACPI tables.</summary>
    public const ulong AcpiTablesEnd = VmGeneration;
    /// <summary>A page for the generation ID, of a board without firmware: see <see cref="Acpi.VmGeneration"/>.</summary>
    public const ulong VmGeneration = Rom - GuestMemory.PageSize;
    /// <summary>The last 64 KiB of the first mebibyte, where a PC's ROM shows: see <see cref="BiosState"/>.</summary>
    public const ulong Rom = 0xF0000;
    /// <summary>Behind the ROM.</summary>
    public const ulong RomEnd = HighMemory;
    /// <summary>Address of the RSDP, for boot protocols that pass it on.</summary>
    public const ulong Rsdp = AcpiTables;

    /// <summary>Extended memory: kernel and initial RAM disk lie from here up.</summary>
    public const ulong HighMemory = 0x10_0000;

    /// <summary>RAM above this boundary moves to 4 GiB: the hole below holds PCI, the APICs and the BIOS.</summary>
    public const ulong LowMemoryEnd = 0xC000_0000;
    private const ulong HighMemoryStart = 0x1_0000_0000;

    /// <summary>Where a PC's RAM lies: up to 3 GiB at 0, the rest from 4 GiB on.</summary>
    /// <param name="size">Bytes, a multiple of 4096, at least 1 MiB, with a display more.</param>
    /// <param name="display">Bytes of a display's memory, a power of two from 1 MiB to 64 MiB; 0: there is no display.</param>
    public static IReadOnlyList<MemoryRegion> Regions(ulong size, ulong display = 0)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(size, HighMemory);
        if (display > 0) return Make(size, rom: 0, display);
        ulong low = Math.Min(size, LowMemoryEnd);
        return size > low ? [new(0, low, 0, false), new(HighMemoryStart, size - low, low, false)] : GuestMemory.Flat(size);
    }

    /// <summary>
    /// The same for a board with firmware: its ROM ends at 4 GiB, and what lies below 1 MiB has a region of its own, since it changes while the guest runs.
    /// </summary>
    /// <param name="size">Bytes of RAM, as for <see cref="Regions"/>, more than 1 MiB.</param>
    /// <param name="rom">Bytes of the ROM, a multiple of 4096, at most 16 MiB.</param>
    /// <param name="display">As for <see cref="Regions"/>.</param>
    public static IReadOnlyList<MemoryRegion> WithFirmware(ulong size, ulong rom, ulong display = 0) => Make(size, rom, display);

    /// <summary>A display's memory has a place among the regions, so that it is there; where it shows is the guest's affair.</summary>
    private static List<MemoryRegion> Make(ulong size, ulong rom, ulong display)
    {
        ArgumentOutOfRangeException.ThrowIfLessThanOrEqual(size, HighMemory);
        ulong low = Math.Min(size, LowMemoryEnd);
        List<MemoryRegion> regions = [new(0, HighMemory, 0, false), new(HighMemory, low - HighMemory, HighMemory, false)];
        if (display > 0) regions.Add(new(PciWindow, display, low, false, IsDevice: true));
        if (rom > 0) regions.Add(new(FirmwareEnd - rom, rom, low + display, true));
        if (size > low) regions.Add(new(HighMemoryStart, size - low, low + display + rom, false));
        return regions;
    }

    /// <summary>Behind the firmware's ROM.</summary>
    public const ulong FirmwareEnd = 0x1_0000_0000;

    /// <summary>32-bit window for PCI base address registers: from the end of low RAM to the I/O APIC.</summary>
    public const ulong PciWindow = LowMemoryEnd;
    /// <summary>Behind that window.</summary>
    public const ulong PciWindowEnd = IoApic;

    /// <summary>Registers of virtio devices, of a board without PCI: where QEMU's microvm has them.</summary>
    public const ulong VirtioMmio = 0xFEB0_0000;

    /// <summary>The I/O APIC's registers.</summary>
    public const ulong IoApic = 0xFEC0_0000;
    /// <summary>The HPET's registers.</summary>
    public const ulong Hpet = 0xFED0_0000;
    /// <summary>Local APIC page after reset; the guest may move it.</summary>
    public const ulong LocalApic = 0xFEE0_0000;
    /// <summary>
    /// Configuration space of the functions on PCI bus 0: see <see cref="PciEcam"/>. Behind the addresses of interrupt messages, where firmware that knows the
    /// 440FX puts no base address register.
    /// </summary>
    public const ulong PciEcam = 0xFEF0_0000;
}
