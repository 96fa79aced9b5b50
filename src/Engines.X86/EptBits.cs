namespace Bunraku.Engines.X86;

/// <summary>Bits of the entries of extended page tables, and of the EPT pointer. Addresses: <see cref="PagingBits.AddressMask"/>.</summary>
/// <remarks>Intel SDM vol. 3C, "The Extended Page Table Mechanism (EPT)", tables "Format of an EPT ...", and "Extended-Page-Table Pointer (EPTP)".</remarks>
public static class EptBits
{
    /// <summary>Reads are allowed.</summary>
    public const ulong ReadAccess = 1 << 0;

    /// <summary>Writes are allowed.</summary>
    public const ulong WriteAccess = 1 << 1;

    /// <summary>Instruction fetches are allowed; with mode-based execute control those from supervisor-mode linear addresses.</summary>
    public const ulong ExecuteAccess = 1 << 2;

    /// <summary>Bits 2:0: an entry with none of them is not present, unless <see cref="UserExecuteAccess"/> counts.</summary>
    public const ulong AnyAccess = ReadAccess | WriteAccess | ExecuteAccess;

    /// <summary>The entry maps a page and refers to no table.</summary>
    public const ulong LargePage = 1 << 7;

    /// <summary>Accessed; with <see cref="PointerAccessedDirty"/>.</summary>
    public const ulong Accessed = 1 << 8;

    /// <summary>Dirty, in an entry that maps a page; with <see cref="PointerAccessedDirty"/>.</summary>
    public const ulong Dirty = 1 << 9;

    /// <summary>With mode-based execute control: instruction fetches from user-mode linear addresses are allowed.</summary>
    public const ulong UserExecuteAccess = 1 << 10;

    /// <summary>Suppress #VE: a violation is never turned into a virtualization exception.</summary>
    public const ulong SuppressException = 1ul << 63;

    /// <summary>EPT pointer: accessed and dirty flags are in use.</summary>
    public const ulong PointerAccessedDirty = 1 << 6;

    /// <summary>Bits 5:3 of an entry that maps a page: the memory type, as in MTRRs.</summary>
    public static int MemoryType(ulong entry) => (int)(entry >> 3 & 7);

    /// <summary>Levels of the tables that an EPT pointer names: bits 5:3, plus one.</summary>
    public static int PointerLevels(ulong pointer) => (int)(pointer >> 3 & 7) + 1;
}
