using System.Numerics;
using System.Runtime.CompilerServices;

namespace Bunraku.Processor.X86;

/// <summary>The operand size of a near branch: the bits that the new instruction pointer keeps.</summary>
internal interface IBranchSize
{
    static abstract int Bits { get; }
}

internal readonly struct Near16 : IBranchSize
{
    public static int Bits => 16;
}

internal readonly struct Near32 : IBranchSize
{
    public static int Bits => 32;
}

internal readonly struct Near64 : IBranchSize
{
    public static int Bits => 64;
}

/// <summary>Targets of near branches.</summary>
internal static unsafe class BranchTarget
{
    /// <summary>Target of a direct branch, truncated.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Direct<TSize>(ProcessorState* s, Insn* i) where TSize : struct, IBranchSize
    {
        ulong target = s->BlockRip + (ulong)i->Imm;
        return TSize.Bits == 64 ? target : TSize.Bits == 32 ? (uint)target : (ushort)target;
    }

    /// <summary>#GP(0) unless the target is canonical (64-bit mode) or within the limit of CS. Must come before anything changes.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Check<TSize>(Processor p, ProcessorState* s, ulong target) where TSize : struct, IBranchSize
    {
        if (TSize.Bits == 64)
        {
            if (!SurelyCanonical(target)) CheckSlow(p, s, target);
        }
        else if (target > s->Cs.Limit)
        {
            CheckSlow(p, s, target);
        }
    }

    /// <summary>Canonical for 48 bits is canonical for 57, too.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool SurelyCanonical(ulong target) => (ulong)((long)(target << 16) >> 16) == target;

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void CheckSlow(Processor p, ProcessorState* s, ulong target)
    {
        // A limit does not exist in 64-bit mode, which a branch of 16-bit operand size can also be in.
        bool allowed = (s->Mode & ModeKey.CodeSizeMask) == ModeKey.Code64 ? p.IsCanonical(target) : target <= s->Cs.Limit;
        if (!allowed) throw p.GeneralProtection();
    }
}

/// <summary>Near JMP, CALL, RET of one operand size.</summary>
internal static unsafe class Branch<TSize, T> where TSize : struct, IBranchSize where T : unmanaged, IBinaryInteger<T>
{
    public static Insn* Jmp(Processor p, ProcessorState* s, Insn* i) => Flow.Near<TSize>(p, s, i);

    public static Insn* JmpReg(Processor p, ProcessorState* s, Insn* i) => Indirect(p, s, i, Register.Get<T>(s, i->R0));

    public static Insn* JmpMem(Processor p, ProcessorState* s, Insn* i) => Indirect(p, s, i, Access.Read<T>(p, s, Access.Address(s, i)));

    private static Insn* Indirect(Processor p, ProcessorState* s, Insn* i, T value)
    {
        ulong target = ulong.CreateTruncating(value);
        BranchTarget.Check<TSize>(p, s, target);
        return Flow.Indirect(s, i, target);
    }

    public static Insn* Call(Processor p, ProcessorState* s, Insn* i)
    {
        // A link that may be followed was checked when it was made.
        if (TSize.Bits == 64 && i->Link != null && s->AttentionFlags == 0)
        {
            ulong rsp = s->Rsp - 8;
            if (Access.TryWrite(s, rsp, s->BlockRip + i->Offset + i->Length))
            {
                s->Rsp = rsp;
                return Flow.Near<TSize>(p, s, i);
            }
        }
        return CallUnlinked(p, s, i);
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static Insn* CallUnlinked(Processor p, ProcessorState* s, Insn* i)
    {
        BranchTarget.Check<TSize>(p, s, BranchTarget.Direct<TSize>(s, i));
        Push(p, s, i);
        return Flow.Near<TSize>(p, s, i);
    }

    public static Insn* CallReg(Processor p, ProcessorState* s, Insn* i) => CallIndirect(p, s, i, Register.Get<T>(s, i->R0));

    public static Insn* CallMem(Processor p, ProcessorState* s, Insn* i) => CallIndirect(p, s, i, Access.Read<T>(p, s, Access.Address(s, i)));

    private static Insn* CallIndirect(Processor p, ProcessorState* s, Insn* i, T value)
    {
        ulong target = ulong.CreateTruncating(value);
        BranchTarget.Check<TSize>(p, s, target);
        Push(p, s, i);
        return Flow.Indirect(s, i, target);
    }

    /// <summary>Pushes the return address.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Push(Processor p, ProcessorState* s, Insn* i)
    {
        ulong next = s->BlockRip + i->Offset + i->Length;
        if (TSize.Bits == 64)
        {
            ulong rsp = s->Rsp - 8;
            // Not left to the access: of CALL m it would take the segment of the memory operand.
            if (!Access.TryWrite(s, rsp, next)) p.Mmu.WriteSlow(p.Segments.LinearAddress(Seg.Ss, rsp, sizeof(ulong), AccessKind.Write), next);
            s->Rsp = rsp;
        }
        else
        {
            Stack.Push(p, s, T.CreateTruncating(next));
        }
    }

    public static Insn* Ret(Processor p, ProcessorState* s, Insn* i)
    {
        if (TSize.Bits == 64)
        {
            if (!Access.TryRead(s, s->Rsp, out ulong target) || !BranchTarget.SurelyCanonical(target)) return RetMiss(p, s, i);
            s->Rsp += 8;
            return Flow.Indirect(s, i, target);
        }
        return RetLegacy(p, s, i, 0);
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static Insn* RetMiss(Processor p, ProcessorState* s, Insn* i)
    {
        ulong target = Access.Read<ulong>(p, s, s->Rsp);
        BranchTarget.Check<TSize>(p, s, target);
        s->Rsp += 8;
        return Flow.Indirect(s, i, target);
    }

    /// <summary>RET imm16: releases that many bytes of arguments.</summary>
    public static Insn* RetImm(Processor p, ProcessorState* s, Insn* i) => RetLegacy(p, s, i, (ushort)i->Imm);

    private static Insn* RetLegacy(Processor p, ProcessorState* s, Insn* i, int release)
    {
        ulong target = ulong.CreateTruncating(Stack.Peek<T>(p, s, 0));
        BranchTarget.Check<TSize>(p, s, target);
        Stack.Adjust(s, sizeof(T) + release);
        return Flow.Indirect(s, i, target);
    }
}

/// <summary>Jcc of one operand size.</summary>
internal static unsafe class Jump<TCondition, TSize> where TCondition : struct, ICondition where TSize : struct, IBranchSize
{
    public static Insn* If(Processor p, ProcessorState* s, Insn* i) =>
        TCondition.Test(s) ? Flow.Near<TSize>(p, s, i) : Flow.Fallthrough<TSize>(s, i);
}

/// <summary>LOOP, LOOPE, LOOPNE, JCXZ with a counter of type <typeparamref name="T"/>.</summary>
internal static unsafe class Loop<T, TSize> where T : unmanaged, IBinaryInteger<T> where TSize : struct, IBranchSize
{
    public static Insn* Always(Processor p, ProcessorState* s, Insn* i) => Step(p, s, i, true);

    public static Insn* WhileEqual(Processor p, ProcessorState* s, Insn* i) => Step(p, s, i, Flags.Zf(s));

    public static Insn* WhileNotEqual(Processor p, ProcessorState* s, Insn* i) => Step(p, s, i, !Flags.Zf(s));

    public static Insn* IfZero(Processor p, ProcessorState* s, Insn* i) =>
        *(T*)&s->Rcx == T.Zero ? Flow.Near<TSize>(p, s, i) : Flow.Fallthrough<TSize>(s, i);

    private static Insn* Step(Processor p, ProcessorState* s, Insn* i, bool condition)
    {
        T count = *(T*)&s->Rcx - T.One;
        // The branch checks its target before the counter changes.
        Insn* next = count != T.Zero && condition ? Flow.Near<TSize>(p, s, i) : Flow.Fallthrough<TSize>(s, i);
        Register.Set(s, (int)((byte*)&s->Rcx - (byte*)s), count);
        return next;
    }
}
