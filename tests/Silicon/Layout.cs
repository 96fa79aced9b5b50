namespace Bunraku.Silicon;

/// <summary>
/// Linear addresses that are the same in this process and in the guest, so that one emitted routine runs in both.
/// All lie below 2 GiB, where 32-bit code and absolute 32-bit displacements reach them. Between the pieces nothing is mapped.
/// </summary>
internal static class Layout
{
    /// <summary>Host address space reserved for the rig; what is not mapped inside faults in both worlds.</summary>
    public const ulong Base = 0x2000_0000, Reserved = 0x0200_0000;

    /// <summary>The routine that loads a context, runs a case and stores the context.</summary>
    public const ulong Routine = Base, RoutineSize = 0x4000;
    /// <summary>The tested instructions. One 64 KiB segment, so that 16-bit code can run there.</summary>
    public const ulong Cases = Base + 0x1_0000, CasesSize = 0x1_0000;
    /// <summary>Slots of the routine: see <see cref="Slot"/>.</summary>
    public const ulong Slots = Base + 0x3_0000, SlotsSize = 0x1000;
    /// <summary>A page that may be read only.</summary>
    public const ulong ReadOnly = Base + 0x4_0000, ReadOnlySize = 0x1000;
    /// <summary>Data that cases share; unmapped on both sides. One 64 KiB segment for 16-bit code.</summary>
    public const ulong Data = Base + 0x6_0000, DataSize = 0x1_0000;
    public const ulong DataEnd = Data + DataSize;
    /// <summary>The contexts, one for each trial of a batch.</summary>
    public const ulong Contexts = Base + 0x10_0000, ContextsSize = 0x20_0000;
    public const int MaxTrials = (int)(ContextsSize / Context.Size);

    /// <summary>Selectors as Linux gives them to a 64-bit process, and two 16-bit segments in the LDT.</summary>
    public const ushort Code64 = 0x33, Code32 = 0x23, Flat = 0x2B, Code16 = 0x07, Data16 = 0x0F;

    /// <summary>FS and GS base during trials.</summary>
    public const ulong FsBase = 0x0012_3450, GsBase = 0xFFFF_FFFF_FFFE_DCB8;

    /// <summary>Vector by which the guest says that all trials ran.</summary>
    public const int DoneVector = 0x81;
}

/// <summary>Addresses of the routine's variables.</summary>
internal static class Slot
{
    public const ulong
        Current = Layout.Slots,              // context of this trial
        Count = Layout.Slots + 0x08,         // trials left
        Target = Layout.Slots + 0x10,        // case of this trial
        InTest = Layout.Slots + 0x18,        // non-zero between load and store
        Exit = Layout.Slots + 0x20,          // where the routine goes after the last trial
        SavedRsp = Layout.Slots + 0x28,
        HostRsp = Layout.Slots + 0x30,
        HostFs = Layout.Slots + 0x38,
        HostGs = Layout.Slots + 0x40,
        HostMxcsr = Layout.Slots + 0x48,
        HostFcw = Layout.Slots + 0x50,
        Mark = Layout.Slots + 0x58,          // set by branch targets: which way a case went
        Panic = Layout.Slots + 0x60,         // guest: vector + 1 of a fault outside of a case
        PanicRip = Layout.Slots + 0x68,
        FlatSelector = Layout.Slots + 0x180,
        Data16Selector = Layout.Slots + 0x188,
        StackTop = Layout.Slots + 0x400;
}

/// <summary>Offsets in the record of one trial.</summary>
internal static class Context
{
    public const int
        Gpr = 0x000, Rflags = 0x080, Target = 0x088, Mxcsr = 0x090,
        Operand = 0x098,                     // linear address of the memory operand, for the comparison
        FaultVector = 0x0C0, FaultError = 0x0C8, FaultRip = 0x0D0, FaultAddress = 0x0D8,
        OutRflags = 0x0E0, OutMark = 0x0E8, OutMxcsr = 0x0F0,
        OutGpr = 0x100,
        Ymm = 0x200, OutYmm = 0x400,
        Fx = 0x600, OutFx = 0x800,
        Scratch = 0xA00, ScratchSize = 0x2C0,
        Size = Scratch + ScratchSize;        // not a power of two: the scratch areas meet page boundaries everywhere

    /// <summary>First byte that a trial leaves behind; what precedes is input.</summary>
    public const int FirstOutput = FaultVector;
}
