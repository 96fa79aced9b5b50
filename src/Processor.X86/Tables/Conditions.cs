using System.Runtime.CompilerServices;
using static System.Runtime.CompilerServices.MethodImplOptions;

namespace Bunraku.Processor.X86;

/// <summary>One condition code as a type, so that each conditional handler is compiled for its condition.</summary>
internal unsafe interface ICondition
{
    static abstract bool Test(ProcessorState* s);
}

#pragma warning disable IDE0055 // one condition a line, in the order of the encoding
internal readonly unsafe struct Overflow       : ICondition { [MethodImpl(AggressiveInlining)] public static bool Test(ProcessorState* s) => Flags.Of(s); }
internal readonly unsafe struct NotOverflow    : ICondition { [MethodImpl(AggressiveInlining)] public static bool Test(ProcessorState* s) => !Flags.Of(s); }
internal readonly unsafe struct Below          : ICondition { [MethodImpl(AggressiveInlining)] public static bool Test(ProcessorState* s) => Flags.Cf(s); }
internal readonly unsafe struct AboveOrEqual   : ICondition { [MethodImpl(AggressiveInlining)] public static bool Test(ProcessorState* s) => !Flags.Cf(s); }
internal readonly unsafe struct Equal          : ICondition { [MethodImpl(AggressiveInlining)] public static bool Test(ProcessorState* s) => Flags.Zf(s); }
internal readonly unsafe struct NotEqual       : ICondition { [MethodImpl(AggressiveInlining)] public static bool Test(ProcessorState* s) => !Flags.Zf(s); }
internal readonly unsafe struct BelowOrEqual   : ICondition { [MethodImpl(AggressiveInlining)] public static bool Test(ProcessorState* s) => Flags.Cf(s) | Flags.Zf(s); }
internal readonly unsafe struct Above          : ICondition { [MethodImpl(AggressiveInlining)] public static bool Test(ProcessorState* s) => !(Flags.Cf(s) | Flags.Zf(s)); }
internal readonly unsafe struct Sign           : ICondition { [MethodImpl(AggressiveInlining)] public static bool Test(ProcessorState* s) => Flags.Sf(s); }
internal readonly unsafe struct NotSign        : ICondition { [MethodImpl(AggressiveInlining)] public static bool Test(ProcessorState* s) => !Flags.Sf(s); }
internal readonly unsafe struct ParityEven     : ICondition { [MethodImpl(AggressiveInlining)] public static bool Test(ProcessorState* s) => Flags.Pf(s); }
internal readonly unsafe struct ParityOdd      : ICondition { [MethodImpl(AggressiveInlining)] public static bool Test(ProcessorState* s) => !Flags.Pf(s); }
internal readonly unsafe struct Less           : ICondition { [MethodImpl(AggressiveInlining)] public static bool Test(ProcessorState* s) => Condition.SignDiffersFromOverflow(s); }
internal readonly unsafe struct GreaterOrEqual : ICondition { [MethodImpl(AggressiveInlining)] public static bool Test(ProcessorState* s) => !Condition.SignDiffersFromOverflow(s); }
internal readonly unsafe struct LessOrEqual    : ICondition { [MethodImpl(AggressiveInlining)] public static bool Test(ProcessorState* s) => Flags.Zf(s) | Condition.SignDiffersFromOverflow(s); }
internal readonly unsafe struct Greater        : ICondition { [MethodImpl(AggressiveInlining)] public static bool Test(ProcessorState* s) => !(Flags.Zf(s) | Condition.SignDiffersFromOverflow(s)); }
#pragma warning restore IDE0055

internal static unsafe class Condition
{
    /// <summary>SF XOR OF: both lie in bit 63 of vectors that can be combined before the one test.</summary>
    [MethodImpl(AggressiveInlining)]
    public static bool SignDiffersFromOverflow(ProcessorState* s) => (long)(s->FlagSp ^ s->FlagCarries ^ (s->FlagCarries << 1)) < 0;
}

/// <summary>CMOVcc and SETcc.</summary>
internal static unsafe class Conditional<TCondition, T> where TCondition : struct, ICondition where T : unmanaged
{
    public static Insn* MoveReg(Processor p, ProcessorState* s, Insn* i)
    {
        // A 32-bit CMOV clears the upper half of its destination even when the condition is false.
        Register.Set(s, i->R0, Register.Get<T>(s, TCondition.Test(s) ? i->R1 : i->R0));
        return i + 1;
    }

    public static Insn* MoveMem(Processor p, ProcessorState* s, Insn* i)
    {
        if (!Access.ReadOrLeave(p, s, Access.Address(s, i), out T value)) return p.Exits.LeaveForExit(i);
        Register.Set(s, i->R0, TCondition.Test(s) ? value : Register.Get<T>(s, i->R0));
        return i + 1;
    }
}

/// <summary>SETcc.</summary>
internal static unsafe class SetByte<TCondition> where TCondition : struct, ICondition
{
    public static Insn* Reg(Processor p, ProcessorState* s, Insn* i)
    {
        Register.Set(s, i->R0, TCondition.Test(s) ? (byte)1 : (byte)0);
        return i + 1;
    }

    public static Insn* Mem(Processor p, ProcessorState* s, Insn* i)
    {
        Access.Write(p, s, Access.Address(s, i), TCondition.Test(s) ? (byte)1 : (byte)0);
        return i + 1;
    }
}
