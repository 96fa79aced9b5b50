using System.Numerics;
using System.Runtime.CompilerServices;

namespace Bunraku.Processor.X86;

/// <summary>What BT, BTS, BTR and BTC do with the selected bit.</summary>
internal interface IBitOperation
{
    /// <summary>False for BT, which only reads.</summary>
    static abstract bool Modifies { get; }

    static abstract T Apply<T>(T value, T mask) where T : unmanaged, IBinaryInteger<T>;
}

internal readonly struct BitTest : IBitOperation
{
    public static bool Modifies => false;

    public static T Apply<T>(T value, T mask) where T : unmanaged, IBinaryInteger<T> => value;
}

internal readonly struct BitSet : IBitOperation
{
    public static bool Modifies => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Apply<T>(T value, T mask) where T : unmanaged, IBinaryInteger<T> => value | mask;
}

internal readonly struct BitReset : IBitOperation
{
    public static bool Modifies => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Apply<T>(T value, T mask) where T : unmanaged, IBinaryInteger<T> => value & ~mask;
}

internal readonly struct BitComplement : IBitOperation
{
    public static bool Modifies => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Apply<T>(T value, T mask) where T : unmanaged, IBinaryInteger<T> => value ^ mask;
}

/// <summary>BT, BTS, BTR, BTC in one width. CF is the old bit; the other flags stay (undefined by the manuals except ZF).</summary>
internal static unsafe class Bit<TOp, T> where TOp : struct, IBitOperation where T : unmanaged, IBinaryInteger<T>
{
    public static Insn* RegReg(Processor p, ProcessorState* s, Insn* i) => Reg(s, i, (int)*(byte*)((byte*)s + i->R1));

    public static Insn* RegImm(Processor p, ProcessorState* s, Insn* i) => Reg(s, i, (int)i->Imm);

    public static Insn* MemImm(Processor p, ProcessorState* s, Insn* i) => Mem(p, s, Access.Address(s, i), (int)i->Imm, i);

    /// <summary>The bit number addresses a string of bits that reaches in both directions from the operand (SDM vol. 1, "Bit String").</summary>
    public static Insn* MemReg(Processor p, ProcessorState* s, Insn* i) => Mem(p, s, StringAddress(p, s, i), (int)*(byte*)((byte*)s + i->R0), i);

    public static Insn* LockedImm(Processor p, ProcessorState* s, Insn* i) => Locked<ImmediateNumber>(p, s, i, Access.Address(s, i));

    public static Insn* LockedReg(Processor p, ProcessorState* s, Insn* i) => Locked<RegisterNumber>(p, s, i, StringAddress(p, s, i));

    private static ulong StringAddress(Processor p, ProcessorState* s, Insn* i)
    {
        long bit = (long)Width.SignExtend(Register.Get<T>(s, i->R0));
        long displacement = (bit >> BitOperations.Log2((uint)sizeof(T) * 8)) * sizeof(T);
        ulong offset = (Access.EffectiveAddress(s, i) + (ulong)displacement) & i->AddressMask;
        return Implicit.Linear(p, s, Implicit.Segment(i), offset, sizeof(T), TOp.Modifies ? AccessKind.Write : AccessKind.Read);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static T MaskOf(int bit) => T.One << (bit & (sizeof(T) * 8 - 1));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Insn* Reg(ProcessorState* s, Insn* i, int bit)
    {
        T value = Register.Get<T>(s, i->R0), mask = MaskOf(bit);
        if (TOp.Modifies) Register.Set(s, i->R0, TOp.Apply(value, mask));
        Flags.SetCf(s, (value & mask) != T.Zero);
        return i + 1;
    }

    private static Insn* Mem(Processor p, ProcessorState* s, ulong address, int bit, Insn* i)
    {
        T mask = MaskOf(bit), value;
        if (TOp.Modifies)
        {
            if (!Access.ReadForWriteOrLeave(p, s, address, out value)) return p.Exits.LeaveForExit(i);
            Access.Write(p, s, address, TOp.Apply(value, mask));
        }
        else
        {
            if (!Access.ReadOrLeave(p, s, address, out value)) return p.Exits.LeaveForExit(i);
        }
        Flags.SetCf(s, (value & mask) != T.Zero);
        return i + 1;
    }

    private static Insn* Locked<TNumber>(Processor p, ProcessorState* s, Insn* i, ulong address) where TNumber : struct, IBitNumber
    {
        T old = Atomic<Change<TNumber>, T>.Run(p, s, i, address);
        Flags.SetCf(s, (old & MaskOf(TNumber.Of(s, i))) != T.Zero);
        return i + 1;
    }

    private interface IBitNumber
    {
        static abstract int Of(ProcessorState* s, Insn* i);
    }

    private readonly struct ImmediateNumber : IBitNumber
    {
        public static int Of(ProcessorState* s, Insn* i) => (int)i->Imm;
    }

    private readonly struct RegisterNumber : IBitNumber
    {
        public static int Of(ProcessorState* s, Insn* i) => *((byte*)s + i->R0);
    }

    private readonly struct Change<TNumber> : IAtomicChange<T> where TNumber : struct, IBitNumber
    {
        public static T Next(ProcessorState* s, Insn* i, T old) => TOp.Apply(old, MaskOf(TNumber.Of(s, i)));
    }
}

/// <summary>A one-source bit count or scan that writes its destination.</summary>
internal unsafe interface IBitCount
{
    /// <summary>Computes the result and sets the flags.</summary>
    static abstract T Apply<T>(ProcessorState* s, T source) where T : unmanaged, IBinaryInteger<T>;

    /// <summary>True when a zero source leaves the destination as it is.</summary>
    static abstract bool KeepsOnZero { get; }

    static abstract HostOperation Operation { get; }

    /// <summary>How the host sets the undefined flags.</summary>
    static abstract FlagRule Rule { get; }
}

/// <summary>BSF and BSR: ZF for a zero source; of the undefined ones PF follows the index (even for a zero source) and the others are cleared.</summary>
internal readonly unsafe struct ScanForward : IBitCount
{
    public static HostOperation Operation => HostOperation.Bsf;

    public static FlagRule Rule => SiliconFlags.Scans;

    public static bool KeepsOnZero => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Apply<T>(ProcessorState* s, T source) where T : unmanaged, IBinaryInteger<T>
    {
        T r = T.TrailingZeroCount(source);
        CountFlags.Scan(s, source == T.Zero, byte.CreateTruncating(r));
        return r;
    }
}

internal readonly unsafe struct ScanReverse : IBitCount
{
    public static HostOperation Operation => HostOperation.Bsr;

    public static FlagRule Rule => SiliconFlags.Scans;

    public static bool KeepsOnZero => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Apply<T>(ProcessorState* s, T source) where T : unmanaged, IBinaryInteger<T>
    {
        T r = T.CreateTruncating(sizeof(T) * 8 - 1) - T.LeadingZeroCount(source);
        CountFlags.Scan(s, source == T.Zero, byte.CreateTruncating(r));
        return r;
    }
}

internal readonly unsafe struct TrailingZeros : IBitCount
{
    public static HostOperation Operation => HostOperation.Tzcnt;

    public static FlagRule Rule => SiliconFlags.Counts;

    public static bool KeepsOnZero => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Apply<T>(ProcessorState* s, T source) where T : unmanaged, IBinaryInteger<T>
    {
        T r = T.TrailingZeroCount(source);
        CountFlags.Count(s, source == T.Zero, r == T.Zero);
        return r;
    }
}

internal readonly unsafe struct LeadingZeros : IBitCount
{
    public static HostOperation Operation => HostOperation.Lzcnt;

    public static FlagRule Rule => SiliconFlags.Counts;

    public static bool KeepsOnZero => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Apply<T>(ProcessorState* s, T source) where T : unmanaged, IBinaryInteger<T>
    {
        T r = T.LeadingZeroCount(source);
        CountFlags.Count(s, source == T.Zero, r == T.Zero);
        return r;
    }
}

internal readonly unsafe struct PopulationCount : IBitCount
{
    // All its flags are defined, so that nobody is asked.
    public static HostOperation Operation => default;

    public static FlagRule Rule => FlagRule.Amd;

    public static bool KeepsOnZero => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Apply<T>(ProcessorState* s, T source) where T : unmanaged, IBinaryInteger<T>
    {
        // All flags but ZF are cleared; bit 0 alone is odd parity.
        s->FlagZ = source == T.Zero ? 0ul : 1ul;
        s->FlagSp = 1;
        s->FlagCarries = 0;
        return T.PopCount(source);
    }
}

internal static unsafe class CountFlags
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Scan(ProcessorState* s, bool zero, byte index)
    {
        s->FlagZ = zero ? 0ul : 1ul;
        s->FlagSp = zero ? 0ul : index;
        s->FlagCarries = 0;
    }

    /// <summary>
    /// TZCNT and LZCNT: CF for a zero source, ZF for a zero result; SF, PF and AF are cleared, OF stays on AMD's processors and is cleared on Intel's (all
    /// undefined).
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Count(ProcessorState* s, bool cf, bool zf)
    {
        s->FlagZ = zf ? 0ul : 1ul;
        s->FlagSp = 1;
        s->FlagCarries = Flags.Carries(cf, SiliconFlags.Counts != FlagRule.Intel && Flags.Of(s));
    }
}

/// <summary>Handlers of bit scans and counts.</summary>
internal static unsafe class BitCount<TOp, T> where TOp : struct, IBitCount where T : unmanaged, IBinaryInteger<T>
{
    public static Insn* Reg(Processor p, ProcessorState* s, Insn* i) => Finish(s, i, Register.Get<T>(s, i->R1));

    public static Insn* Mem(Processor p, ProcessorState* s, Insn* i) =>
        Access.ReadOrLeave(p, s, Access.Address(s, i), out T value) ? Finish(s, i, value) : p.Exits.LeaveForExit(i);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Insn* Finish(ProcessorState* s, Insn* i, T source)
    {
        uint before = TOp.Rule == FlagRule.Ask ? Flags.Get(s) : 0;
        T r = TOp.Apply(s, source);
        if (TOp.Rule == FlagRule.Ask) SiliconFlags.Ask<T>(s, TOp.Operation, before, ulong.CreateTruncating(source), 0, 0);
        // Not even the upper half of a 32-bit destination is cleared then.
        if (!TOp.KeepsOnZero || source != T.Zero) Register.Set(s, i->R0, r);
        return i + 1;
    }
}
