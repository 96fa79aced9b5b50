using System.Runtime.InteropServices;

namespace Bunraku.Processor.X86;

/// <summary>
/// One decoded operation: an instruction, or a micro-operation that prepares one. 64 bytes, in arrays that end with a control
/// transfer, so that the handler of each returns the next one to run.
/// </summary>
/// <remarks>
/// Register operands are byte offsets into <see cref="ProcessorState"/>; the decoder makes them from register numbers,
/// so they always lie inside. Control and debug registers and segment registers are given by number.
/// </remarks>
[StructLayout(LayoutKind.Explicit, Size = 64)]
internal unsafe struct Insn
{
    /// <summary>Executes the operation and returns the next one, or null to go back to the dispatcher with <see cref="ProcessorState.Rip"/> set.</summary>
    [FieldOffset(0)] public delegate*<Processor, ProcessorState*, Insn*, Insn*> Handler;

    /// <summary>Register operands in the order of the assembler syntax, memory and immediates left out.</summary>
    [FieldOffset(8)] public ushort R0;
    [FieldOffset(10)] public ushort R1;
    [FieldOffset(12)] public ushort R2;
    [FieldOffset(14)] public ushort R3;

    /// <summary>
    /// Offset of the base register, of <see cref="ProcessorState.Zero"/>, or of <see cref="ProcessorState.BlockRip"/> for RIP-relative operands.
    /// </summary>
    [FieldOffset(16)] public ushort Base;
    [FieldOffset(18)] public ushort Index;
    /// <summary>Offset of the 64-bit base that is added after truncation to the address size; <see cref="ProcessorState.Zero"/> for flat segments.</summary>
    [FieldOffset(20)] public ushort SegmentBase;
    /// <summary>log2 of the index scale.</summary>
    [FieldOffset(22)] public byte Scale;
    /// <summary>Length of the instruction in bytes; 0 for micro-operations.</summary>
    [FieldOffset(23)] public byte Length;

    /// <summary>Immediate, sign-extended; for near branches the target as a distance from the block's first instruction.</summary>
    [FieldOffset(24)] public long Imm;
    /// <summary>Displacement; RIP-relative ones are relative to the block's first instruction.</summary>
    [FieldOffset(32)] public long Disp;
    /// <summary>All ones in the address size's bits.</summary>
    [FieldOffset(40)] public ulong AddressMask;

    /// <summary>Distance in bytes of the instruction's first byte from the block's first.</summary>
    [FieldOffset(48)] public ushort Offset;
    /// <summary>Instructions of the block before this one.</summary>
    [FieldOffset(50)] public ushort Ordinal;
    [FieldOffset(52)] public InsnFlags Flags;
    /// <summary>Iced's Code of the instruction.</summary>
    [FieldOffset(54)] public ushort Code;

    /// <summary>The micro-operation of a breakpoint: no number of Iced's.</summary>
    public const ushort BreakpointCode = ushort.MaxValue;

    /// <summary>It looks whether a debugger has a breakpoint at the next instruction.</summary>
    public readonly bool IsBreakpointCheck => Code == BreakpointCode;

    /// <summary>Control transfers: the target's first operation when it may be entered directly.</summary>
    [FieldOffset(56)] public Insn* Link;
    /// <summary>Host-executed instructions: the emitted thunk.</summary>
    [FieldOffset(56)] public delegate* unmanaged[SuppressGCTransition]<ProcessorState*, void*, void> Thunk;
    /// <summary>Anything else a handler wants the decoder to prepare.</summary>
    [FieldOffset(56)] public ulong Extra;
}

/// <summary>Facts of an instruction that its handler asks for.</summary>
[Flags]
internal enum InsnFlags : ushort
{
    None = 0,
    /// <summary>The memory operand lies in SS: a bad address raises #SS instead of #GP.</summary>
    StackSegment = 1,
    Rep = 2,
    Repne = 4,
    Lock = 8,
    /// <summary>The operation in front of a block of a translating processor: Imm counts entries, Disp is the block, Extra its translations.</summary>
    Counted = 0x10,
    /// <summary>With <see cref="Counted"/>: accesses are checked one by one, those by RSP, and the others.</summary>
    UngroupedStack = 0x200, Ungrouped = 0x40,
    /// <summary>Nor do its accesses predict pages.</summary>
    Unpredicted = 0x80,
    /// <summary>Nor addends.</summary>
    Unmirrored = 0x100,
    /// <summary>The handler is not the table's: the instruction is refused, or exits.</summary>
    OtherHandler = 0x20,
    /// <summary>With <see cref="OtherHandler"/>: the execution controls of the hypervisor outside intercept the instruction.</summary>
    OuterIntercept = 0x8000,
    /// <summary>Address size (string instructions, LOOP, JCXZ).</summary>
    Address16 = 0x80,
    Address32 = 0x100,
    /// <summary>Bits 11:9: segment of the memory operand, see <see cref="Seg"/>.</summary>
    SegmentShift9 = 0x200,
    SegmentMask = 0xE00,
    /// <summary>The instruction has a memory operand (explicit, or of a string instruction).</summary>
    HasMemory = 0x1000,
    /// <summary>A control transfer whose link must stay empty: its block lies in two pages.</summary>
    NoLink = 0x2000,
    /// <summary>The block was given up; the jump cache may still lead here.</summary>
    Stale = 0x4000,
}
