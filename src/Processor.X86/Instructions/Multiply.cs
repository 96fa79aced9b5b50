using System.Numerics;
using System.Runtime.CompilerServices;
using Bunraku.Platform;

namespace Bunraku.Processor.X86;

/// <summary>
/// MUL, IMUL, DIV and IDIV in one width. Multiplications set CF and OF; for the undefined flags see <see cref="SiliconFlags"/>.
/// </summary>
internal static unsafe class Multiply<T> where T : unmanaged, IBinaryInteger<T>
{
    private static readonly int s_bits = Width.Bits<T>();

    public static Insn* MulReg(Processor p, ProcessorState* s, Insn* i)
    {
        Unsigned(s, Register.Get<T>(s, i->R0));
        return i + 1;
    }

    public static Insn* MulMem(Processor p, ProcessorState* s, Insn* i)
    {
        if (!Access.ReadOrLeave(p, s, Access.Address(s, i), out T value)) return p.Exits.LeaveForExit(i);
        Unsigned(s, value);
        return i + 1;
    }

    public static Insn* ImulReg(Processor p, ProcessorState* s, Insn* i)
    {
        Signed(s, Register.Get<T>(s, i->R0));
        return i + 1;
    }

    public static Insn* ImulMem(Processor p, ProcessorState* s, Insn* i)
    {
        if (!Access.ReadOrLeave(p, s, Access.Address(s, i), out T value)) return p.Exits.LeaveForExit(i);
        Signed(s, value);
        return i + 1;
    }

    public static Insn* ImulRegReg(Processor p, ProcessorState* s, Insn* i)
    {
        Register.Set(s, i->R0, Product(s, Register.Get<T>(s, i->R0), Register.Get<T>(s, i->R1)));
        return i + 1;
    }

    public static Insn* ImulRegMem(Processor p, ProcessorState* s, Insn* i)
    {
        if (!Access.ReadOrLeave(p, s, Access.Address(s, i), out T b)) return p.Exits.LeaveForExit(i);
        Register.Set(s, i->R0, Product(s, Register.Get<T>(s, i->R0), b));
        return i + 1;
    }

    public static Insn* ImulRegRegImm(Processor p, ProcessorState* s, Insn* i)
    {
        Register.Set(s, i->R0, Product(s, Register.Get<T>(s, i->R1), T.CreateTruncating(i->Imm)));
        return i + 1;
    }

    public static Insn* ImulRegMemImm(Processor p, ProcessorState* s, Insn* i)
    {
        if (!Access.ReadOrLeave(p, s, Access.Address(s, i), out T a)) return p.Exits.LeaveForExit(i);
        Register.Set(s, i->R0, Product(s, a, T.CreateTruncating(i->Imm)));
        return i + 1;
    }

    public static Insn* DivReg(Processor p, ProcessorState* s, Insn* i)
    {
        DivideUnsigned(p, s, Register.Get<T>(s, i->R0));
        return i + 1;
    }

    public static Insn* DivMem(Processor p, ProcessorState* s, Insn* i)
    {
        DivideUnsigned(p, s, Access.Read<T>(p, s, Access.Address(s, i)));
        return i + 1;
    }

    public static Insn* IdivReg(Processor p, ProcessorState* s, Insn* i)
    {
        DivideSigned(p, s, Register.Get<T>(s, i->R0));
        return i + 1;
    }

    public static Insn* IdivMem(Processor p, ProcessorState* s, Insn* i)
    {
        DivideSigned(p, s, Access.Read<T>(p, s, Access.Address(s, i)));
        return i + 1;
    }

    /// <summary>
    /// CF and OF tell whether the low half lost something. Of SF, ZF, AF and PF AMD's processors leave all alone; Intel's set SF and PF by the low half and
    /// clear ZF and AF.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void SetFlags(ProcessorState* s, HostOperation operation, T a, T b, T low, bool overflow)
    {
        if (SiliconFlags.Products == FlagRule.Intel)
        {
            s->FlagZ = 1;
            s->FlagSp = Width.SignExtend(low);
            s->FlagCarries = Flags.Carries(overflow, overflow);
            return;
        }
        uint before = SiliconFlags.Products == FlagRule.Ask ? Flags.Get(s) : 0;
        s->FlagCarries = Flags.Carries(overflow, overflow) | (s->FlagCarries & 8);
        if (SiliconFlags.Products == FlagRule.Ask) SiliconFlags.Ask<T>(s, operation, before, ulong.CreateTruncating(a), ulong.CreateTruncating(b), 0);
    }

    /// <summary>Low half of the signed product; CF and OF tell whether it lost something.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static T Product(ProcessorState* s, T a, T b)
    {
        if (sizeof(T) == 8)
        {
            long high = Math.BigMul((long)ulong.CreateTruncating(a), (long)ulong.CreateTruncating(b), out long low);
            SetFlags(s, HostOperation.Imul, a, b, T.CreateTruncating(low), high != low >> 63);
            return T.CreateTruncating(low);
        }
        long product = (long)Width.SignExtend(a) * (long)Width.SignExtend(b);
        T result = T.CreateTruncating(product);
        SetFlags(s, HostOperation.Imul, a, b, result, (long)Width.SignExtend(result) != product);
        return result;
    }

    private static void Unsigned(ProcessorState* s, T b)
    {
        T factor = Register.Get<T>(s, 0);
        ulong a = ulong.CreateTruncating(factor), m = ulong.CreateTruncating(b);
        if (sizeof(T) == 8)
        {
            s->Rdx = Math.BigMul(a, m, out ulong low);
            s->Rax = low;
            SetFlags(s, HostOperation.Mul, factor, b, T.CreateTruncating(low), s->Rdx != 0);
            return;
        }
        ulong product = a * m;
        Store(s, T.CreateTruncating(product), T.CreateTruncating(product >> s_bits));
        SetFlags(s, HostOperation.Mul, factor, b, T.CreateTruncating(product), product >> s_bits != 0);
    }

    private static void Signed(ProcessorState* s, T b)
    {
        T factor = Register.Get<T>(s, 0);
        if (sizeof(T) == 8)
        {
            long high = Math.BigMul((long)s->Rax, (long)ulong.CreateTruncating(b), out long low);
            s->Rdx = (ulong)high;
            s->Rax = (ulong)low;
            SetFlags(s, HostOperation.ImulWide, factor, b, T.CreateTruncating(low), high != low >> 63);
            return;
        }
        long product = (long)Width.SignExtend(factor) * (long)Width.SignExtend(b);
        T result = T.CreateTruncating(product);
        Store(s, result, T.CreateTruncating(product >> s_bits));
        SetFlags(s, HostOperation.ImulWide, factor, b, result, (long)Width.SignExtend(result) != product);
    }

    /// <summary>Stores a double-width value: AX, DX:AX, EDX:EAX or RDX:RAX.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Store(ProcessorState* s, T low, T high)
    {
        if (sizeof(T) == 1) *((byte*)&s->Rax + 1) = byte.CreateTruncating(high);
        else Register.Set(s, (int)((byte*)&s->Rdx - (byte*)s), high);
        Register.Set(s, 0, low);
    }

    /// <summary>The high half of the dividend.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static T High(ProcessorState* s) => sizeof(T) == 1 ? T.CreateTruncating(s->Rax >> 8) : T.CreateTruncating(s->Rdx);

    private static void DivideUnsigned(Processor p, ProcessorState* s, T divisor)
    {
        ulong d = ulong.CreateTruncating(divisor), high = ulong.CreateTruncating(High(s)), low = ulong.CreateTruncating(Register.Get<T>(s, 0));
        // The quotient fits exactly when the high half is below the divisor; this covers division by zero.
        if (high >= d) throw p.Fault(Vector.De);
        ulong rax = s->Rax, rdx = s->Rdx;
        if (sizeof(T) == 8)
        {
            if (high == 0)
            {
                (s->Rax, s->Rdx) = Math.DivRem(low, d);
            }
            else
            {
                s->Rax = WideMath.Divide(high, low, d, out s->Rdx);
            }
        }
        else
        {
            (ulong q, ulong r) = Math.DivRem((high << s_bits) | low, d);
            Store(s, T.CreateTruncating(q), T.CreateTruncating(r));
        }
        SetAfterDivision(s, HostOperation.Div, divisor, rax, rdx);
    }

    private static void DivideSigned(Processor p, ProcessorState* s, T divisor)
    {
        long d = (long)Width.SignExtend(divisor);
        if (d == 0) throw p.Fault(Vector.De);
        ulong rax = s->Rax, rdx = s->Rdx;
        if (sizeof(T) == 8)
        {
            if ((long)s->Rdx == (long)s->Rax >> 63 && d != -1)
            {
                (long q, long r) = Math.DivRem((long)s->Rax, d);
                s->Rax = (ulong)q;
                s->Rdx = (ulong)r;
            }
            else
            {
                bool isNegative = (long)rdx < 0, differs = isNegative != d < 0;
                ulong low = isNegative ? 0 - rax : rax, high = isNegative ? ~rdx + (rax == 0 ? 1ul : 0) : rdx, by = d < 0 ? 0 - (ulong)d : (ulong)d;
                if (high >= by) throw p.Fault(Vector.De);
                ulong q = WideMath.Divide(high, low, by, out ulong r);
                if (q > (differs ? 1ul << 63 : long.MaxValue)) throw p.Fault(Vector.De);
                s->Rdx = isNegative ? 0 - r : r;
                s->Rax = differs ? 0 - q : q;
            }
        }
        else
        {
            long dividend = (long)(Width.SignExtend(High(s)) << s_bits | ulong.CreateTruncating(Register.Get<T>(s, 0)));
            if (d == -1 && dividend == long.MinValue) throw p.Fault(Vector.De);
            (long q, long r) = Math.DivRem(dividend, d);
            if (q != (long)Width.SignExtend(T.CreateTruncating(q))) throw p.Fault(Vector.De);
            Store(s, T.CreateTruncating(q), T.CreateTruncating(r));
        }
        SetAfterDivision(s, HostOperation.Idiv, divisor, rax, rdx);
    }

    /// <summary>All six flags are undefined; AMD's processors keep CF and OF, set AF and clear SF, ZF and PF.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void SetAfterDivision(ProcessorState* s, HostOperation operation, T divisor, ulong rax, ulong rdx)
    {
        if (SiliconFlags.Quotients == FlagRule.Ask)
        {
            SiliconFlags.Ask<T>(s, operation, Flags.Get(s), rax, ulong.CreateTruncating(divisor), rdx);
            return;
        }
        s->FlagZ = 1;
        s->FlagSp = 1;
        s->FlagCarries |= 8;
    }
}
