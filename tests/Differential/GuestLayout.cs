namespace Bunraku.Differential;

/// <summary>What a program runs in.</summary>
public enum ProgramMode
{
    /// <summary>64-bit mode, CPL 0.</summary>
    Long0,
    /// <summary>64-bit mode, CPL 3.</summary>
    Long3,
    /// <summary>32-bit protected mode with PAE paging, flat segments, CPL 0.</summary>
    Protected0,
    /// <summary>The same at CPL 3.</summary>
    Protected3,
    /// <summary>Compatibility mode, CPL 3, under 64-bit handlers.</summary>
    Compatibility3,
}

internal static class ProgramModes
{
    public static bool IsLong(this ProgramMode mode) => mode is not (ProgramMode.Protected0 or ProgramMode.Protected3);
    public static int Bits(this ProgramMode mode) => mode is ProgramMode.Long0 or ProgramMode.Long3 ? 64 : 32;
    public static bool IsUser(this ProgramMode mode) => mode is not (ProgramMode.Long0 or ProgramMode.Protected0);
}

/// <summary>
/// Where things lie in the guest's memory, by physical address. The program sees its part at <see cref="Program"/>, the supervisor everything at
/// <see cref="Kernel"/>.
/// </summary>
internal static class GuestLayout
{
    public const uint MemorySize = 1 << 20;

    /// <summary>Linear address of physical 0 for the program (2 MiB, one page table) and for the supervisor (another).</summary>
    public const uint Program = 0x2000_0000, Kernel = 0x3F00_0000;
    /// <summary>Second mapping of the program's code and data, this much above the first, and a third one of all memory by a page of 2 MiB.</summary>
    public const uint Alias = 0x10_0000, LargeAlias = 0x20_0000;

    public const uint Pml4 = 0x1000, LongPdpt = 0x2000, PaePdpt = 0x3000, Pd = 0x4000, ProgramPt = 0x5000, KernelPt = 0x6000;
    public const uint Gdt = 0x8000, GdtSize = 0x80, Idt = 0x9000, Tss = 0xA000, TssIoMap = 0x68, TssSize = TssIoMap + 129;
    public const uint Handlers = 0xB000, HandlersSize = 0x2000, IstTop = 0xF000, Variables = 0xF000;
    /// <summary>Ring of records, one for each exception and interrupt.</summary>
    public const uint Log = 0x1_0000, LogSize = 0x4000, LogRecord = 64;
    public const uint KernelStackTop = 0x1_5000;

    public const uint Code = 0x2_0000, CodeSize = 0x1_0000;
    /// <summary>Two pages of code that take turns at one linear page, the one of the first.</summary>
    public const uint Variant = Code + CodeSize, OtherVariant = Variant + 0x1000, CodeEnd = OtherVariant + 0x1000;

    public const uint Data = 0x4_0000, DataSize = 0xA000;
    public const uint ReadOnly = 0x4_A000, Unmapped = 0x4_B000;
    /// <summary>Pages that the program takes away and the page-fault handler gives back.</summary>
    public const uint Repaired = 0x4_C000, RepairedSize = 0x2000;
    /// <summary>Two pages that take turns at one linear page, the one of the first.</summary>
    public const uint Swapped = 0x4_E000, OtherSwapped = 0x4_F000;
    public const uint Stack = 0x5_0000, StackSize = 0x4000;
    /// <summary>Counters, tables and what else random stores should leave alone.</summary>
    public const uint Control = 0x6_0000;
    /// <summary>A page without memory behind it.</summary>
    public const uint Mmio = 0x6_1000;
    public const ulong MmioPhysical = 0xD000_0000;
    /// <summary>For each byte of code the length of the instruction that begins there, or 0.</summary>
    public const uint Lengths = 0x8_0000;

    // Vectors and ports.
    public const int DoneVector = 0x81, ServiceVector = 0x82, RoundTripVector = 0x83, FirstInterrupt = 0x40;
    public const int WritePort = 0xE1, InterruptPort = 0xE2, DataPort = 0xE3;

    // Selectors, as SYSCALL and SYSRET want them, then as SYSENTER does.
    public const ushort Code64 = 0x08, Data0 = 0x10, Code32 = 0x18, UserCode32 = 0x23, UserData = 0x2B, UserCode64 = 0x33, TssSelector = 0x38,
        SysenterCode = 0x48, BasedData = 0x6B;
    /// <summary>Base of <see cref="BasedData"/>, and of FS and GS in 64-bit mode.</summary>
    public const uint SegmentBase = Program + Data + 0x2000;
}

/// <summary>Linear addresses of the supervisor's variables.</summary>
internal static class Variable
{
    private const uint Base = GuestLayout.Kernel + GuestLayout.Variables;
    public const uint LogAt = Base, LogCount = Base + 4, RecoverRip = Base + 8, StackTop = Base + 12, Calls = Base + 16, Repairs = Base + 20,
        Recoveries = Base + 24;
}

/// <summary>Linear addresses in the program's control page.</summary>
internal static class Slot
{
    private const uint Base = GuestLayout.Program + GuestLayout.Control;
    public const uint Iterations = Base, Seed = Base + 8,
        /// <summary>
        /// Arguments of the service that changes a page-table entry: its index, what to toggle, the page, non-zero for a load of CR3 instead of INVLPG.
        /// </summary>
        ServiceIndex = Base + 0x10, ServiceToggle = Base + 0x18, ServicePage = Base + 0x20, ServiceReload = Base + 0x28,
        /// <summary>Opcodes that may replace each other.</summary>
        Opcodes = Base + 0x40,
        Counters = Base + 0x100, Tables = Base + 0x400, TablesEnd = Base + 0x1000;
}
