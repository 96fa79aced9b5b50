namespace Bunraku.Engines.X86;

/// <summary>
/// Bits of paging-structure entries: 32-bit, PAE, 4-level and 5-level paging. Where nothing else is said they are the same in all of them, and in AMD's nested
/// page tables.
/// </summary>
/// <remarks>
/// Intel SDM vol. 3A, "Paging", the tables "Format of ..." of sections "32-Bit Paging", "PAE Paging", "4-Level Paging and 5-Level Paging"; AMD APM vol. 2,
/// "Page Translation and Protection".
/// </remarks>
public static class PagingBits
{
    /// <summary>P: the entry maps a page or refers to a table.</summary>
    public const ulong Present = 1 << 0;

    /// <summary>R/W: writes are allowed.</summary>
    public const ulong Writable = 1 << 1;

    /// <summary>U/S: accesses of user mode are allowed.</summary>
    public const ulong User = 1 << 2;

    /// <summary>A: accessed.</summary>
    public const ulong Accessed = 1 << 5;

    /// <summary>D: dirty, in an entry that maps a page.</summary>
    public const ulong Dirty = 1 << 6;

    /// <summary>PS: the entry maps a page and refers to no table.</summary>
    public const ulong LargePage = 1 << 7;

    /// <summary>G: global, in an entry that maps a page.</summary>
    public const ulong Global = 1 << 8;

    /// <summary>Bits 51:12, an address. Of these a processor has as many as its physical addresses; the others are reserved.</summary>
    public const ulong AddressMask = 0x000F_FFFF_FFFF_F000;

    /// <summary>Where the protection key begins, bits 62:59 of an entry of 4-level and 5-level paging that maps a page.</summary>
    public const int ProtectionKeyShift = 59;

    /// <summary>Bits 62:59: see <see cref="ProtectionKeyShift"/>.</summary>
    public const ulong ProtectionKeyMask = 0xFul << ProtectionKeyShift;

    /// <summary>XD: no execution. Reserved unless IA32_EFER.NXE is set. Not in 32-bit paging.</summary>
    public const ulong ExecuteDisable = 1ul << 63;

    /// <summary>PAE paging: bits 62:52 are reserved.</summary>
    public const ulong ReservedOfPae = 0x7FF0_0000_0000_0000;

    /// <summary>PAE paging: bits 8:5 and 2:1 of a PDPTE are reserved, beside those above the physical address.</summary>
    public const ulong ReservedOfPdpte = Global | LargePage | Dirty | Accessed | User | Writable;

    /// <summary>PAE paging: bits 31:5 of CR3, the address of the PDPTEs.</summary>
    public const ulong PdptAddressMask = 0xFFFF_FFE0;

    /// <summary>32-bit paging: bits 31:12 of CR3 or of an entry, an address.</summary>
    public const ulong AddressMask32 = 0xFFFF_F000;

    /// <summary>32-bit paging: bits 31:22 of an entry that maps 4 MiB, an address.</summary>
    public const ulong LargePageAddressMask32 = 0xFFC0_0000;

    /// <summary>32-bit paging: bit 21 of an entry that maps 4 MiB is reserved.</summary>
    public const ulong ReservedOfLargePage32 = 1 << 21;

    /// <summary>Bits of an entry that maps a large page that are neither its address nor flags; bit 12 is PAT.</summary>
    /// <param name="shift">log2 of the page's bytes.</param>
    public static ulong ReservedOfLargePage(int shift) => ((1ul << shift) - 1) & ~0x1FFFul;

    /// <summary>32-bit paging with PSE-36: bits 39:32 of the address of 4 MiB, from bits 20:13 of the entry.</summary>
    /// <param name="entry">One that maps 4 MiB.</param>
    public static ulong HighAddress32(ulong entry) => (entry >> 13 & 0xFF) << 32;
}
