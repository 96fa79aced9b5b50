using System.Numerics;
using System.Runtime.CompilerServices;

namespace Bunraku.Processor.X86;

/// <summary>A two-operand integer operation that sets all arithmetic flags.</summary>
internal unsafe interface IBinaryOperation
{
    /// <summary>Computes the result and sets the flags.</summary>
    static abstract T Apply<T>(ProcessorState* s, T a, T b) where T : unmanaged, IBinaryInteger<T>;
}

internal readonly unsafe struct AddOperation : IBinaryOperation
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Apply<T>(ProcessorState* s, T a, T b) where T : unmanaged, IBinaryInteger<T>
    {
        T r = a + b;
        Flags.SetResult(s, r, (a & b) | ((a | b) & ~r));
        return r;
    }
}

internal readonly unsafe struct SubOperation : IBinaryOperation
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Apply<T>(ProcessorState* s, T a, T b) where T : unmanaged, IBinaryInteger<T>
    {
        T r = a - b;
        Flags.SetResult(s, r, (~a & b) | ((~a | b) & r));
        return r;
    }
}

internal readonly unsafe struct AndOperation : IBinaryOperation
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Apply<T>(ProcessorState* s, T a, T b) where T : unmanaged, IBinaryInteger<T>
    {
        T r = a & b;
        Flags.SetLogic(s, r);
        return r;
    }
}

/// <summary>Handlers of <c>op dst, src</c> for one operation and one width.</summary>
internal static unsafe class Binary<TOp, T> where TOp : struct, IBinaryOperation where T : unmanaged, IBinaryInteger<T>
{
    public static Insn* RegReg(Processor p, ProcessorState* s, Insn* i)
    {
        Register.Set(s, i->R0, TOp.Apply(s, Register.Get<T>(s, i->R0), Register.Get<T>(s, i->R1)));
        return i + 1;
    }

    public static Insn* RegMem(Processor p, ProcessorState* s, Insn* i)
    {
        T b = Access.Read<T>(p, s, Access.Address(s, i));
        Register.Set(s, i->R0, TOp.Apply(s, Register.Get<T>(s, i->R0), b));
        return i + 1;
    }

    public static Insn* MemReg(Processor p, ProcessorState* s, Insn* i)
    {
        ulong address = Access.Address(s, i);
        T a = Access.ReadForWrite<T>(p, s, address);
        Access.Write(p, s, address, TOp.Apply(s, a, Register.Get<T>(s, i->R0)));
        return i + 1;
    }
}
