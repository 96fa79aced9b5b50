using System.Runtime.CompilerServices;

namespace Bunraku.Processor.X86;

/// <summary>
/// x87 state as it lies in <see cref="ProcessorState.Fxsave"/> (FXSAVE64 format), its exceptions, and MMX mode. Intel SDM vol. 1, "x87 FPU Execution
/// Environment", "Programming with MMX Technology"; vol. 2, FXSAVE.
/// </summary>
internal static unsafe class X87
{
    public const int ControlOffset = 0, StatusOffset = 2, TagOffset = 4, OpcodeOffset = 6, InstructionPointerOffset = 8, DataPointerOffset = 16,
        MxcsrOffset = 24, RegisterOffset = 32;

    /// <summary>FCW after FNINIT.</summary>
    public const int DefaultControl = 0x37F;
    /// <summary>FCW bits that can be set, and the one that always is.</summary>
    private const int ControlMask = 0x1F7F, ControlFixed = 0x40;
    /// <summary>FSW: exception flags with SF; exception summary; busy, which mirrors it; top of stack.</summary>
    private const int Exceptions = 0x3F, StackFault = 0x40, Busy = 0x8000, TopMask = 0x3800, TopShift = 11;
    public const int Summary = 0x80;

    public static ref ushort Control(ProcessorState* s) => ref *(ushort*)(s->Fxsave + ControlOffset);
    public static ref ushort Status(ProcessorState* s) => ref *(ushort*)(s->Fxsave + StatusOffset);
    /// <summary>Bit n: physical register n is not empty.</summary>
    public static ref byte Tags(ProcessorState* s) => ref s->Fxsave[TagOffset];
    public static ref ushort Opcode(ProcessorState* s) => ref *(ushort*)(s->Fxsave + OpcodeOffset);
    public static ref ulong InstructionPointer(ProcessorState* s) => ref *(ulong*)(s->Fxsave + InstructionPointerOffset);
    public static ref ulong DataPointer(ProcessorState* s) => ref *(ulong*)(s->Fxsave + DataPointerOffset);
    public static int Top(ProcessorState* s) => (Status(s) & TopMask) >> TopShift;
    /// <summary>The 10 bytes of ST(<paramref name="n"/>).</summary>
    public static byte* St(ProcessorState* s, int n) => s->Fxsave + RegisterOffset + n * 16;

    /// <summary>An unmasked exception waits for the next waiting instruction.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool IsPending(ProcessorState* s) => (s->Fxsave[StatusOffset] & Summary) != 0;

    /// <summary>#MF, or FERR# outside, when an unmasked exception is pending.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void CheckPending(Processor p, ProcessorState* s)
    {
        if (IsPending(s)) RaisePending(p, s);
    }

    // With CR0.NE clear FERR# is asserted in front of the instruction, and then it goes on as it does with IGNNE#, which the board's port F0h logic drives.
    private static void RaisePending(Processor p, ProcessorState* s)
    {
        if ((s->Cr0 & (ulong)Cr0.Ne) != 0) throw p.Fault(Vector.Mf);
        AssertFerr(p, s);
    }

    /// <summary>Executes an instruction though an exception is pending (CR0.NE is clear): a host whose own FSW said so would trap. The flags stay.</summary>
    public static void RunPending(ProcessorState* s, Insn* i)
    {
        int flags = Status(s) & Exceptions;
        Status(s) &= unchecked((ushort)~(Exceptions | Summary | Busy));
        i->Thunk(s, s->Staging);
        SetStatus(s, Status(s) | flags);
    }

    /// <summary>
    /// RESET: registers zero (SDM vol. 3A, "IA-32 and Intel 64 Processor States Following Power-up, Reset, or INIT"), and the host's default MXCSR in the
    /// image.
    /// </summary>
    public static void Reset(ProcessorState* s)
    {
        new Span<byte>(s->Fxsave, 512).Clear();
        Control(s) = ControlFixed;
        Tags(s) = 0xFF;
        s->X87Cs = s->X87Ds = 0;
        *(uint*)(s->Fxsave + MxcsrOffset) = Simd.DefaultMxcsr;
        s->Mxcsr = Simd.DefaultMxcsr;
    }

    /// <summary>What FNINIT does; registers keep their contents.</summary>
    public static void Initialise(ProcessorState* s)
    {
        int top = Top(s);
        Control(s) = DefaultControl;
        Status(s) = 0;
        s->FerrAsserted = 0;
        Rotate(s, -top);
        Tags(s) = 0;
        Opcode(s) = 0;
        InstructionPointer(s) = 0;
        DataPointer(s) = 0;
        s->X87Cs = s->X87Ds = 0;
    }

    /// <summary>Sets FCW and recomputes the summary bits.</summary>
    public static void SetControl(ProcessorState* s, int value)
    {
        Control(s) = (ushort)(value & ControlMask | ControlFixed);
        SetStatus(s, Status(s));
    }

    /// <summary>Sets FSW; ES and B follow from flags and masks.</summary>
    public static void SetStatus(ProcessorState* s, int value)
    {
        bool pending = (value & ~Control(s) & Exceptions) != 0;
        Status(s) = (ushort)(value & ~(Summary | Busy) | (pending ? Summary | Busy : 0));
        if (!pending) s->FerrAsserted = 0;
    }

    /// <summary>Clears exception flags, SF, ES and B.</summary>
    public static void ClearExceptions(ProcessorState* s)
    {
        Status(s) &= unchecked((ushort)~(Exceptions | StackFault | Summary | Busy));
        s->FerrAsserted = 0;
    }

    /// <summary>Moves the image's registers so that what was ST(n + <paramref name="by"/>) is ST(n).</summary>
    public static void Rotate(ProcessorState* s, int by)
    {
        if ((by & 7) == 0) return;
        byte* copy = stackalloc byte[128];
        Unsafe.CopyBlock(copy, s->Fxsave + RegisterOffset, 128);
        for (int n = 0; n < 8; n++) Unsafe.CopyBlock(St(s, n), copy + ((n + by) & 7) * 16, 16);
    }

    /// <summary>What every MMX instruction but EMMS does first: top of stack 0, all registers valid.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void EnterMmx(ProcessorState* s)
    {
        if ((Status(s) & TopMask) != 0) ClearTop(s);
        Tags(s) = 0xFF;
    }

    private static void ClearTop(ProcessorState* s)
    {
        Rotate(s, -Top(s));
        Status(s) &= unchecked((ushort)~TopMask);
    }

    /// <summary>The full tag word: 2 bits a physical register, 0 valid, 1 zero, 2 special, 3 empty.</summary>
    public static int FullTags(ProcessorState* s)
    {
        int tags = 0, top = Top(s);
        for (int register = 0; register < 8; register++)
        {
            int tag = 3;
            if ((Tags(s) >> register & 1) != 0)
            {
                byte* st = St(s, (register - top) & 7);
                int exponent = *(ushort*)(st + 8) & 0x7FFF;
                ulong significand = *(ulong*)st;
                tag = exponent == 0 ? significand == 0 ? 1 : 2 : exponent == 0x7FFF || (long)significand >= 0 ? 2 : 0;
            }
            tags |= tag << (register * 2);
        }
        return tags;
    }

    /// <summary>Sets the tags from a full tag word: only empty or not matters.</summary>
    public static void SetFullTags(ProcessorState* s, int value)
    {
        int tags = 0;
        for (int register = 0; register < 8; register++)
            if ((value >> (register * 2) & 3) != 3) tags |= 1 << register;
        Tags(s) = (byte)tags;
    }

    /// <summary>No exception is unmasked or pending, so that nothing that an x87 instruction does can trap.</summary>
    public static bool CannotTrap(ProcessorState* s) => (Control(s) & Exceptions) == Exceptions && !IsPending(s);

    /// <summary>Records where the last non-control instruction was.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void SetPointers(ProcessorState* s, Insn* i)
    {
        InstructionPointer(s) = s->BlockRip + i->Offset;
        Opcode(s) = (ushort)i->Imm;
        s->X87Cs = s->Cs.Selector;
    }

    /// <summary>Offset in its segment of the memory operand at a linear address.</summary>
    public static ulong DataOffset(ProcessorState* s, Insn* i, ulong address) =>
        (s->Mode & ModeKey.CodeSizeMask) == ModeKey.Code64 ? Access.EffectiveAddress(s, i)
        : (uint)(address - ProcessorState.Segment(s, (Seg)((int)(i->Flags & InsnFlags.SegmentMask) >> 9))->Base);

    public static void SetDataPointer(ProcessorState* s, Insn* i, ulong offset)
    {
        DataPointer(s) = offset;
        s->X87Ds = ProcessorState.Segment(s, (Seg)((int)(i->Flags & InsnFlags.SegmentMask) >> 9))->Selector;
    }

    /// <summary>
    /// FERR#: a waiting instruction met an x87 exception while CR0.NE is clear. Exits once for each exception; the instruction is executed afterwards.
    /// </summary>
    private static void AssertFerr(Processor p, ProcessorState* s)
    {
        if (s->FerrAsserted != 0) return;
        // Posted MMIO writes come first; then the instruction is back here.
        if (!p.Exits.MustExitFirst)
        {
            s->FerrAsserted = 1;
            p.Exit.Reason = ExitReason.FloatingPointError;
        }
        throw p.Exits.Requested;
    }
}
