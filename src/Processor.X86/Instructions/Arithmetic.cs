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

internal readonly unsafe struct AdcOperation : IBinaryOperation
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Apply<T>(ProcessorState* s, T a, T b) where T : unmanaged, IBinaryInteger<T>
    {
        T r = a + b + T.CreateTruncating(s->FlagCarries >> 63);
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

internal readonly unsafe struct SbbOperation : IBinaryOperation
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Apply<T>(ProcessorState* s, T a, T b) where T : unmanaged, IBinaryInteger<T>
    {
        T r = a - b - T.CreateTruncating(s->FlagCarries >> 63);
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

internal readonly unsafe struct OrOperation : IBinaryOperation
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Apply<T>(ProcessorState* s, T a, T b) where T : unmanaged, IBinaryInteger<T>
    {
        T r = a | b;
        Flags.SetLogic(s, r);
        return r;
    }
}

internal readonly unsafe struct XorOperation : IBinaryOperation
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Apply<T>(ProcessorState* s, T a, T b) where T : unmanaged, IBinaryInteger<T>
    {
        T r = a ^ b;
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

    public static Insn* RegMem(Processor p, ProcessorState* s, Insn* i) => Load<IntoRegister, T>.Run(p, s, i);

    private readonly struct IntoRegister : IUse<T>
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static void Use(ProcessorState* s, Insn* i, T value) => Register.Set(s, i->R0, TOp.Apply(s, Register.Get<T>(s, i->R0), value));
    }

    public static Insn* RegImm(Processor p, ProcessorState* s, Insn* i)
    {
        Register.Set(s, i->R0, TOp.Apply(s, Register.Get<T>(s, i->R0), T.CreateTruncating(i->Imm)));
        return i + 1;
    }

    public static Insn* MemReg(Processor p, ProcessorState* s, Insn* i)
    {
        ulong address = Access.Address(s, i);
        if (!Access.ReadForWriteOrLeave(p, s, address, out T a)) return p.Exits.LeaveForExit(i);
        Access.Write(p, s, address, TOp.Apply(s, a, Register.Get<T>(s, i->R0)));
        return i + 1;
    }

    public static Insn* MemImm(Processor p, ProcessorState* s, Insn* i)
    {
        ulong address = Access.Address(s, i);
        if (!Access.ReadForWriteOrLeave(p, s, address, out T a)) return p.Exits.LeaveForExit(i);
        Access.Write(p, s, address, TOp.Apply(s, a, T.CreateTruncating(i->Imm)));
        return i + 1;
    }

    public static Insn* LockedReg(Processor p, ProcessorState* s, Insn* i)
    {
        Atomic<WithSourceRegister, T>.Run(p, s, i, Access.Address(s, i));
        return i + 1;
    }

    public static Insn* LockedImm(Processor p, ProcessorState* s, Insn* i)
    {
        Atomic<WithImmediate, T>.Run(p, s, i, Access.Address(s, i));
        return i + 1;
    }

    private readonly struct WithSourceRegister : IAtomicChange<T>
    {
        public static T Next(ProcessorState* s, Insn* i, T old) => TOp.Apply(s, old, Register.Get<T>(s, i->R0));
    }

    private readonly struct WithImmediate : IAtomicChange<T>
    {
        public static T Next(ProcessorState* s, Insn* i, T old) => TOp.Apply(s, old, T.CreateTruncating(i->Imm));
    }
}

/// <summary>Handlers of CMP and TEST: the operation's result goes to the flags only.</summary>
internal static unsafe class Compare<TOp, T> where TOp : struct, IBinaryOperation where T : unmanaged, IBinaryInteger<T>
{
    public static Insn* RegReg(Processor p, ProcessorState* s, Insn* i)
    {
        TOp.Apply(s, Register.Get<T>(s, i->R0), Register.Get<T>(s, i->R1));
        return i + 1;
    }

    public static Insn* RegMem(Processor p, ProcessorState* s, Insn* i) => Load<WithRegister, T>.Run(p, s, i);

    private readonly struct WithRegister : IUse<T>
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static void Use(ProcessorState* s, Insn* i, T value) => TOp.Apply(s, Register.Get<T>(s, i->R0), value);
    }

    public static Insn* RegImm(Processor p, ProcessorState* s, Insn* i)
    {
        TOp.Apply(s, Register.Get<T>(s, i->R0), T.CreateTruncating(i->Imm));
        return i + 1;
    }

    public static Insn* MemReg(Processor p, ProcessorState* s, Insn* i) => Load<RegisterFrom, T>.Run(p, s, i);

    private readonly struct RegisterFrom : IUse<T>
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static void Use(ProcessorState* s, Insn* i, T value) => TOp.Apply(s, value, Register.Get<T>(s, i->R0));
    }

    public static Insn* MemImm(Processor p, ProcessorState* s, Insn* i) => Load<ImmediateFrom, T>.Run(p, s, i);

    private readonly struct ImmediateFrom : IUse<T>
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static void Use(ProcessorState* s, Insn* i, T value) => TOp.Apply(s, value, T.CreateTruncating(i->Imm));
    }
}

/// <summary>A one-operand integer operation.</summary>
internal unsafe interface IUnaryOperation
{
    /// <summary>Computes the result and sets the flags that the operation sets.</summary>
    static abstract T Apply<T>(ProcessorState* s, T a) where T : unmanaged, IBinaryInteger<T>;
}

internal readonly unsafe struct IncOperation : IUnaryOperation
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Apply<T>(ProcessorState* s, T a) where T : unmanaged, IBinaryInteger<T>
    {
        ulong before = s->FlagCarries;
        T r = a + T.One;
        Flags.SetResult(s, r, a & ~r);
        Carry.Keep(s, before);
        return r;
    }
}

internal readonly unsafe struct DecOperation : IUnaryOperation
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Apply<T>(ProcessorState* s, T a) where T : unmanaged, IBinaryInteger<T>
    {
        ulong before = s->FlagCarries;
        T r = a - T.One;
        Flags.SetResult(s, r, ~a & r);
        Carry.Keep(s, before);
        return r;
    }
}

internal readonly unsafe struct NegOperation : IUnaryOperation
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Apply<T>(ProcessorState* s, T a) where T : unmanaged, IBinaryInteger<T> => SubOperation.Apply(s, T.Zero, a);
}

internal readonly unsafe struct NotOperation : IUnaryOperation
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Apply<T>(ProcessorState* s, T a) where T : unmanaged, IBinaryInteger<T> => ~a;
}

/// <summary>Handlers of <c>op dst</c> for one operation and one width.</summary>
internal static unsafe class Unary<TOp, T> where TOp : struct, IUnaryOperation where T : unmanaged, IBinaryInteger<T>
{
    public static Insn* Reg(Processor p, ProcessorState* s, Insn* i)
    {
        Register.Set(s, i->R0, TOp.Apply(s, Register.Get<T>(s, i->R0)));
        return i + 1;
    }

    public static Insn* Mem(Processor p, ProcessorState* s, Insn* i)
    {
        ulong address = Access.Address(s, i);
        if (!Access.ReadForWriteOrLeave(p, s, address, out T a)) return p.Exits.LeaveForExit(i);
        Access.Write(p, s, address, TOp.Apply(s, a));
        return i + 1;
    }

    public static Insn* Locked(Processor p, ProcessorState* s, Insn* i)
    {
        Atomic<Change, T>.Run(p, s, i, Access.Address(s, i));
        return i + 1;
    }

    private readonly struct Change : IAtomicChange<T>
    {
        public static T Next(ProcessorState* s, Insn* i, T old) => TOp.Apply(s, old);
    }
}

/// <summary>Parts of the lazy carry vector.</summary>
internal static unsafe class Carry
{
    /// <summary>
    /// Gives CF the value it has in the carry vector <paramref name="before"/>; OF and AF stay. OF is bit 63 XOR bit 62, so both flip together.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Keep(ProcessorState* s, ulong before)
    {
        ulong flip = (before ^ s->FlagCarries) & (1ul << 63);
        s->FlagCarries ^= flip | (flip >> 1);
    }
}
