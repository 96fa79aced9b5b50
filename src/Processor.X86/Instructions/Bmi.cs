using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics.X86;

namespace Bunraku.Processor.X86;

/// <summary>An operation of BMI1 or BMI2 with two sources, as the assembler orders them.</summary>
internal unsafe interface IBmiOperation
{
    static abstract T Apply<T>(ProcessorState* s, T first, T second) where T : unmanaged, IBinaryInteger<T>;

    /// <summary>For its undefined flags, null where there are none.</summary>
    /// <remarks>Not virtual with a default: code for that cannot be compiled ahead of time.</remarks>
    static abstract HostOperation? Operation { get; }
}

internal static unsafe class BmiFlags
{
    /// <summary>ZF and SF by the result, CF given, OF clear; AF clear, PF by the result on AMD's processors and clear on Intel's (both undefined).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Set<T>(ProcessorState* s, T result, bool cf) where T : unmanaged, IBinaryInteger<T>
    {
        Flags.SetLogic(s, result);
        s->FlagCarries = Flags.Carries(cf, false);
        if (SiliconFlags.Fields == FlagRule.Intel) s->FlagSp = s->FlagSp & ~0xFFul | 1;
    }
}

internal readonly unsafe struct AndNot : IBmiOperation
{
    public static HostOperation? Operation => HostOperation.Andn;

    public static T Apply<T>(ProcessorState* s, T first, T second) where T : unmanaged, IBinaryInteger<T>
    {
        T r = ~first & second;
        BmiFlags.Set(s, r, false);
        return r;
    }
}

/// <summary>BEXTR: start in bits 7:0 of the control, length in bits 15:8.</summary>
internal readonly unsafe struct ExtractField : IBmiOperation
{
    public static HostOperation? Operation => HostOperation.Bextr;

    public static T Apply<T>(ProcessorState* s, T first, T second) where T : unmanaged, IBinaryInteger<T>
    {
        int start = byte.CreateTruncating(second), length = (byte)(ushort.CreateTruncating(second) >> 8);
        ulong value = start >= 64 ? 0 : ulong.CreateTruncating(first) >> start;
        if (length < 64) value &= (1ul << length) - 1;
        T r = T.CreateTruncating(value);
        // ZF by the result, CF and OF clear; of the undefined ones SF is clear, AF set and PF by the result on AMD's processors, both clear on Intel's.
        bool intel = SiliconFlags.Fields == FlagRule.Intel;
        s->FlagZ = value;
        s->FlagSp = intel ? 1 : value & 0xFF;
        s->FlagCarries = intel ? 0ul : 8ul;
        return r;
    }
}

/// <summary>BZHI: clears the bits from the number in bits 7:0 of the index on.</summary>
internal readonly unsafe struct ZeroHigh : IBmiOperation
{
    public static HostOperation? Operation => HostOperation.Bzhi;

    public static T Apply<T>(ProcessorState* s, T first, T second) where T : unmanaged, IBinaryInteger<T>
    {
        int index = byte.CreateTruncating(second), bits = sizeof(T) * 8;
        T r = index >= bits ? first : first & ((T.One << index) - T.One);
        BmiFlags.Set(s, r, index >= bits);
        return r;
    }
}

internal readonly unsafe struct ShiftLeftNoFlags : IBmiOperation
{
    public static HostOperation? Operation => null;

    public static T Apply<T>(ProcessorState* s, T first, T second) where T : unmanaged, IBinaryInteger<T> =>
        first << (int.CreateTruncating(second) & (sizeof(T) * 8 - 1));
}

internal readonly unsafe struct ShiftRightNoFlags : IBmiOperation
{
    public static HostOperation? Operation => null;

    public static T Apply<T>(ProcessorState* s, T first, T second) where T : unmanaged, IBinaryInteger<T> =>
        first >>> (int.CreateTruncating(second) & (sizeof(T) * 8 - 1));
}

internal readonly unsafe struct ShiftArithmeticNoFlags : IBmiOperation
{
    public static HostOperation? Operation => null;

    public static T Apply<T>(ProcessorState* s, T first, T second) where T : unmanaged, IBinaryInteger<T> =>
        T.CreateTruncating((long)Width.SignExtend(first) >> (int.CreateTruncating(second) & (sizeof(T) * 8 - 1)));
}

/// <summary>RORX, the count as second source.</summary>
internal readonly unsafe struct RotateRightNoFlags : IBmiOperation
{
    public static HostOperation? Operation => null;

    public static T Apply<T>(ProcessorState* s, T first, T second) where T : unmanaged, IBinaryInteger<T> =>
        T.RotateRight(first, int.CreateTruncating(second) & (sizeof(T) * 8 - 1));
}

internal readonly unsafe struct Deposit : IBmiOperation
{
    public static HostOperation? Operation => null;

    public static T Apply<T>(ProcessorState* s, T first, T second) where T : unmanaged, IBinaryInteger<T> =>
        T.CreateTruncating(BitField.Deposit(ulong.CreateTruncating(first), ulong.CreateTruncating(second)));
}

internal readonly unsafe struct Extract : IBmiOperation
{
    public static HostOperation? Operation => null;

    public static T Apply<T>(ProcessorState* s, T first, T second) where T : unmanaged, IBinaryInteger<T> =>
        T.CreateTruncating(BitField.Extract(ulong.CreateTruncating(first), ulong.CreateTruncating(second)));
}

/// <summary>BLSR: resets the lowest set bit. Its first source is not used (all of BLS* have one source).</summary>
internal readonly unsafe struct ResetLowest : IBmiOperation
{
    public static HostOperation? Operation => HostOperation.Blsr;

    public static T Apply<T>(ProcessorState* s, T first, T second) where T : unmanaged, IBinaryInteger<T>
    {
        T r = first & (first - T.One);
        BmiFlags.Set(s, r, first == T.Zero);
        return r;
    }
}

internal readonly unsafe struct MaskToLowest : IBmiOperation
{
    public static HostOperation? Operation => HostOperation.Blsmsk;

    public static T Apply<T>(ProcessorState* s, T first, T second) where T : unmanaged, IBinaryInteger<T>
    {
        T r = first ^ (first - T.One);
        BmiFlags.Set(s, r, first == T.Zero);
        return r;
    }
}

internal readonly unsafe struct IsolateLowest : IBmiOperation
{
    public static HostOperation? Operation => HostOperation.Blsi;

    public static T Apply<T>(ProcessorState* s, T first, T second) where T : unmanaged, IBinaryInteger<T>
    {
        T r = first & (T.Zero - first);
        BmiFlags.Set(s, r, first != T.Zero);
        return r;
    }
}

internal static class BitField
{
    public static ulong Deposit(ulong source, ulong mask)
    {
        if (Bmi2.X64.IsSupported) return Bmi2.X64.ParallelBitDeposit(source, mask);
        ulong r = 0;
        for (; mask != 0; mask &= mask - 1, source >>= 1)
        {
            if ((source & 1) != 0) r |= mask & (0 - mask);
        }
        return r;
    }

    public static ulong Extract(ulong source, ulong mask)
    {
        if (Bmi2.X64.IsSupported) return Bmi2.X64.ParallelBitExtract(source, mask);
        ulong r = 0;
        for (int n = 0; mask != 0; mask &= mask - 1, n++)
        {
            if ((source & mask & (0 - mask)) != 0) r |= 1ul << n;
        }
        return r;
    }
}

/// <summary>Handlers of BMI1 and BMI2 by the order of their operands.</summary>
internal static unsafe class BmiHandlers<TOp, T> where TOp : struct, IBmiOperation where T : unmanaged, IBinaryInteger<T>
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static T Run(ProcessorState* s, T first, T second)
    {
        if (TOp.Operation is not { } operation || SiliconFlags.Fields != FlagRule.Ask) return TOp.Apply(s, first, second);
        uint before = Flags.Get(s);
        T r = TOp.Apply(s, first, second);
        SiliconFlags.Ask<T>(s, operation, before, ulong.CreateTruncating(first), ulong.CreateTruncating(second), 0);
        return r;
    }

    /// <summary><c>op r, r, r/m</c>: ANDN, PDEP, PEXT.</summary>
    public static Insn* RegRegReg(Processor p, ProcessorState* s, Insn* i)
    {
        Register.Set(s, i->R0, Run(s, Register.Get<T>(s, i->R1), Register.Get<T>(s, i->R2)));
        return i + 1;
    }

    public static Insn* RegRegMem(Processor p, ProcessorState* s, Insn* i)
    {
        T second = Access.Read<T>(p, s, Access.Address(s, i));
        Register.Set(s, i->R0, Run(s, Register.Get<T>(s, i->R1), second));
        return i + 1;
    }

    /// <summary><c>op r, m, r</c>: BEXTR, BZHI, SHLX and their like.</summary>
    public static Insn* RegMemReg(Processor p, ProcessorState* s, Insn* i)
    {
        T first = Access.Read<T>(p, s, Access.Address(s, i));
        Register.Set(s, i->R0, Run(s, first, Register.Get<T>(s, i->R1)));
        return i + 1;
    }

    /// <summary><c>op r, r/m</c> and <c>op r, r/m, imm</c>: BLSI, BLSMSK, BLSR, RORX.</summary>
    public static Insn* RegRegImm(Processor p, ProcessorState* s, Insn* i)
    {
        Register.Set(s, i->R0, Run(s, Register.Get<T>(s, i->R1), T.CreateTruncating(i->Imm)));
        return i + 1;
    }

    public static Insn* RegMemImm(Processor p, ProcessorState* s, Insn* i)
    {
        T first = Access.Read<T>(p, s, Access.Address(s, i));
        Register.Set(s, i->R0, Run(s, first, T.CreateTruncating(i->Imm)));
        return i + 1;
    }
}

/// <summary>MULX, ADCX, ADOX in one width.</summary>
internal static unsafe class WideArithmetic<T> where T : unmanaged, IBinaryInteger<T>
{
    /// <summary>MULX high, low, r/m: multiplies by (E/R)DX without touching flags. When both destinations are one register, the high half stays.</summary>
    public static Insn* MulxReg(Processor p, ProcessorState* s, Insn* i) => Mulx(s, i, Register.Get<T>(s, i->R2));

    public static Insn* MulxMem(Processor p, ProcessorState* s, Insn* i) => Mulx(s, i, Access.Read<T>(p, s, Access.Address(s, i)));

    private static Insn* Mulx(ProcessorState* s, Insn* i, T b)
    {
        ulong high, low;
        if (sizeof(T) == 8)
        {
            high = Math.BigMul(s->Rdx, ulong.CreateTruncating(b), out low);
        }
        else
        {
            low = (ulong)(uint)s->Rdx * ulong.CreateTruncating(b);
            high = low >> 32;
        }
        Register.Set(s, i->R1, T.CreateTruncating(low));
        Register.Set(s, i->R0, T.CreateTruncating(high));
        return i + 1;
    }

    public static Insn* AdcxReg(Processor p, ProcessorState* s, Insn* i) => Adcx(s, i, Register.Get<T>(s, i->R1));

    public static Insn* AdcxMem(Processor p, ProcessorState* s, Insn* i) => Adcx(s, i, Access.Read<T>(p, s, Access.Address(s, i)));

    public static Insn* AdoxReg(Processor p, ProcessorState* s, Insn* i) => Adox(s, i, Register.Get<T>(s, i->R1));

    public static Insn* AdoxMem(Processor p, ProcessorState* s, Insn* i) => Adox(s, i, Access.Read<T>(p, s, Access.Address(s, i)));

    /// <summary>Adds with CF as carry in and out; the other flags stay.</summary>
    private static Insn* Adcx(ProcessorState* s, Insn* i, T b)
    {
        bool carry = Add(s, i, b, Flags.Cf(s));
        Flags.SetCf(s, carry);
        return i + 1;
    }

    /// <summary>The same with OF.</summary>
    private static Insn* Adox(ProcessorState* s, Insn* i, T b)
    {
        bool carry = Add(s, i, b, Flags.Of(s));
        s->FlagCarries = Flags.Carries(Flags.Cf(s), carry) | (s->FlagCarries & 8);
        return i + 1;
    }

    private static bool Add(ProcessorState* s, Insn* i, T b, bool carry)
    {
        T a = Register.Get<T>(s, i->R0), r = a + b + (carry ? T.One : T.Zero);
        Register.Set(s, i->R0, r);
        return carry ? r <= a : r < a;
    }
}

/// <summary>CRC32 (polynomial 11EDC6F41H, reflected). T is the source, the destination is a 32-bit register whatever its written size.</summary>
internal static unsafe class Crc32<T> where T : unmanaged, IBinaryInteger<T>
{
    public static Insn* Reg(Processor p, ProcessorState* s, Insn* i) => Finish(s, i, Register.Get<T>(s, i->R1));

    public static Insn* Mem(Processor p, ProcessorState* s, Insn* i) => Finish(s, i, Access.Read<T>(p, s, Access.Address(s, i)));

    private static Insn* Finish(ProcessorState* s, Insn* i, T data)
    {
        uint crc = Register.Get<uint>(s, i->R0);
        if (sizeof(T) == 1) crc = BitOperations.Crc32C(crc, byte.CreateTruncating(data));
        else if (sizeof(T) == 2) crc = BitOperations.Crc32C(crc, ushort.CreateTruncating(data));
        else if (sizeof(T) == 4) crc = BitOperations.Crc32C(crc, uint.CreateTruncating(data));
        else crc = BitOperations.Crc32C(crc, ulong.CreateTruncating(data));
        Register.Set(s, i->R0, crc);
        return i + 1;
    }
}
