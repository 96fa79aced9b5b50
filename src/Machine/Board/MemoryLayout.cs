using Bunraku.Engines;

namespace Bunraku.Machine.Board;

/// <summary>
/// Where things lie in guest-physical address space. What a boot protocol leaves behind in low memory lies in ranges that the memory map calls
/// usable: the guest has read it before it reuses them. Every range is stated here once.
/// </summary>
public static class MemoryLayout
{
    /// <summary>Real-mode interrupt vectors and BIOS data area; no BIOS fills them but for <see cref="BiosDataAreaEbda"/>.</summary>
    public const ulong BiosDataArea = 0x400;
    /// <summary>Word with the real-mode segment of the EBDA, where an operating system begins its search for the RSDP.</summary>
    public const ulong BiosDataAreaEbda = 0x40E;

    /// <summary>Global descriptor table of the boot state, one page.</summary>
    public const ulong BootGdt = 0x1000;
    /// <summary>PVH start info, its modules and its memory map, or the multiboot information; two pages.</summary>
    public const ulong BootInfo = 0x2000;
    /// <summary>Linux boot_params ("zero page"), one page.</summary>
    public const ulong BootParameters = 0x7000;
    /// <summary>Page tables of the boot state: PML4, PDPT, four page directories with 2 MiB pages that map the first 4 GiB to themselves; 0x9000 to 0xEFFF.</summary>
    public const ulong BootPageTables = 0x9000;
    /// <summary>Top of the boot stack, which grows down from here over one page.</summary>
    public const ulong BootStackTop = 0x11000;
    /// <summary>Kernel command line and its terminating 0, at most <see cref="CommandLineLimit"/> bytes.</summary>
    public const ulong CommandLine = 0x20000;
    public const ulong CommandLineLimit = 0x10000;

    /// <summary>End of conventional memory, beginning of the extended BIOS data area (1 KiB, empty).</summary>
    public const ulong Ebda = 0x9FC00;
    /// <summary>A0000 to BFFFF: legacy video memory, not in the memory map.</summary>
    public const ulong VideoHole = 0xA0000;
    /// <summary>The RSDP lies at the beginning of the area that operating systems search, the tables behind it.</summary>
    public const ulong AcpiTables = 0xE0000;
    public const ulong AcpiTablesEnd = HighMemory;
    /// <summary>Address of the RSDP, for boot protocols that pass it on.</summary>
    public const ulong Rsdp = AcpiTables;

    /// <summary>Extended memory: kernel and initial RAM disk lie from here up.</summary>
    public const ulong HighMemory = 0x10_0000;

    /// <summary>32-bit window for PCI base address registers: from the end of low RAM to the I/O APIC.</summary>
    public const ulong PciWindow = GuestMemory.LowMemoryEnd;
    public const ulong PciWindowEnd = IoApic;

    public const ulong IoApic = 0xFEC0_0000;
    /// <summary>Local APIC page after reset; the guest may move it.</summary>
    public const ulong LocalApic = 0xFEE0_0000;
}
