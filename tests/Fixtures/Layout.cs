namespace Bunraku.Fixtures;

/// <summary>
/// Where things lie in a fixture's guest, by physical address; linear addresses are the same unless a test maps something else.
/// All of it is below 1 MiB, so that real mode reaches it too.
/// </summary>
internal static class Layout
{
    public const uint MemorySize = 4 << 20;

    public const uint Gdt = 0x1000, GdtSize = 0x800, Ldt = 0x1800, LdtSize = 0x800, Idt = 0x2000;
    /// <summary>
    /// The current TSS, followed by an interrupt redirection bitmap (32 bytes) and an I/O permission bitmap for 1024 ports, then the byte of ones.
    /// </summary>
    public const uint Tss = 0x3000, TssRedirection = Tss + 0x68, TssIoMap = TssRedirection + 32, TssEnd = TssIoMap + 128;
    /// <summary>Further task state segments, 0x100 bytes each.</summary>
    public const uint OtherTss = 0x4000;
    /// <summary>One HLT for each vector, 16 bytes apart.</summary>
    public const uint Stubs = 0x7000;
    public const uint PageTables = 0x1_0000, PageTablesEnd = 0x2_0000;
    /// <summary>Code, and base of CS in real, virtual-8086 and 16-bit protected mode.</summary>
    public const uint Code = 0x2_0000;
    public const uint Data = 0x3_0000;
    /// <summary>Stack of the code under test (top), and the one that the TSS gives for level 0.</summary>
    public const uint StackBase = 0x4_0000, StackTop = StackBase + 0x8000, KernelStackTop = 0x5_8000, Ist1Top = 0x6_8000, Stack1Top = 0x7_8000,
        Stack2Top = 0x7_4000;
    /// <summary>User code that a test wants apart from <see cref="Code"/>; pages from here on belong to the user.</summary>
    public const uint Spare = 0x8_0000;
    /// <summary>Nothing is behind these physical addresses: accesses are MMIO.</summary>
    public const uint Mmio = 0xD000_0000;
}

/// <summary>
/// Selectors of the descriptors that every guest's GDT has; levels are DPLs. Those of user mode are Linux's, so that what is special for
/// its programs is tested.
/// </summary>
internal static class Sel
{
    public const ushort
        Code32 = 0x08, Data32 = 0x10, Code64 = 0x18, UserCode32 = 0x23, UserData32 = 0x2B, UserCode64 = 0x33,
        Code16 = 0x38, Data16 = 0x40, UserCode16 = 0x4B, UserData16 = 0x53,
        Tss = 0x58, // two slots, for long mode
        Ldt = 0x68, // two slots
        UserNumber = 0x7B, // a small data segment, whose limit programs read
        /// <summary>First slot for a test's own descriptors.</summary>
        Free = 0x80;
}

/// <summary>The state that a guest starts in.</summary>
public enum Mode
{
    Real,
    Virtual8086,
    /// <summary>Protected mode, 16-bit segments at <see cref="Layout.Code"/>, <see cref="Layout.Data"/> and the stack.</summary>
    Protected16,
    /// <summary>Protected mode, flat 32-bit segments, no paging.</summary>
    Protected32,
    /// <summary>Flat, two levels of tables with 32-bit entries.</summary>
    Paged32,
    /// <summary>Flat, PAE.</summary>
    Pae,
    /// <summary>Long mode, 32-bit code segment.</summary>
    Compatibility,
    /// <summary>64-bit mode, 4-level paging.</summary>
    Long,
    /// <summary>64-bit mode, 5-level paging.</summary>
    Long5,
}

/// <summary>Exception vectors. Intel SDM vol. 3A, "Exception and Interrupt Vectors".</summary>
internal static class X
{
    public const int DE = 0, DB = 1, NMI = 2, BP = 3, OF = 4, BR = 5, UD = 6, NM = 7, DF = 8, TS = 10, NP = 11, SS = 12, GP = 13, PF = 14, MF = 16, AC = 17,
        XM = 19;
    /// <summary>Vector by which code above level 0 says that it is done.</summary>
    public const int Done = 0x80;

    public static bool HasErrorCode(int vector) => vector is DF or TS or NP or SS or GP or PF or AC;
}
