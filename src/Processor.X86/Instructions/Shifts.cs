using System.Numerics;
using System.Runtime.CompilerServices;

namespace Bunraku.Processor.X86;

/// <summary>A shift or rotate by a count that is masked to 5 or 6 bits already and is not zero.</summary>
internal unsafe interface IShiftOperation
{
    static abstract T Apply<T>(ProcessorState* s, T a, int count) where T : unmanaged, IBinaryInteger<T>;

    static abstract HostOperation Operation { get; }

    /// <summary>How the host sets its undefined flags.</summary>
    static abstract FlagRule Rule { get; }

    /// <summary>It is a rotate: see <see cref="IntelRotates"/>.</summary>
    /// <remarks>Not virtual with a default: code for that cannot be compiled ahead of time.</remarks>
    static abstract bool IsRotate { get; }
}

/// <summary>
/// Flags of shifts and rotates. OF is defined for a count of 1 only: leftwards CF XOR the result's top bit, rightwards the XOR of the result's top two
/// bits. AMD's processors compute it so for every count; Intel's as if the count of a shift were 1, and of rotates as <see cref="IntelRotates"/> says.
/// See <see cref="SiliconFlags"/>.
/// </summary>
internal static unsafe class ShiftFlags
{
    /// <summary>A carry vector from CF and OF, each 0 or 1.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static ulong Carries(ulong cf, ulong of) => (cf << 63) | ((cf ^ of) << 62);

    /// <summary>Top bit of <paramref name="r"/>, 0 or 1.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong TopBit<T>(ulong r) where T : unmanaged => (r >> (sizeof(T) * 8 - 1)) & 1;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong OverflowRight<T>(ulong r) where T : unmanaged => ((r >> (sizeof(T) * 8 - 1)) ^ (r >> (sizeof(T) * 8 - 2))) & 1;

    /// <summary>AF after SHL, SHR and SAR, which is undefined.</summary>
    private static ulong Auxiliary
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get => SiliconFlags.Shifts == FlagRule.Intel ? 0ul : 8ul;
    }

    /// <summary>After SHL, SHR and SAR; OF is <paramref name="byOne"/> where the host computes it so.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Shifted<T>(ProcessorState* s, T result, ulong cf, ulong byResult, ulong byOne) where T : unmanaged, IBinaryInteger<T>
    {
        ulong r = Width.SignExtend(result);
        s->FlagZ = r;
        s->FlagSp = r;
        s->FlagCarries = Carries(cf, SiliconFlags.Shifts == FlagRule.Intel ? byOne : byResult) | Auxiliary;
    }

    /// <summary>After SHLD. AF is undefined and set.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Left<T>(ProcessorState* s, T result, ulong cf) where T : unmanaged, IBinaryInteger<T>
    {
        ulong r = Width.SignExtend(result);
        s->FlagZ = r;
        s->FlagSp = r;
        s->FlagCarries = Carries(cf, cf ^ (r >> 63)) | 8;
    }

    /// <summary>After SHRD. AF is undefined and set.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Right<T>(ProcessorState* s, T result, ulong cf) where T : unmanaged, IBinaryInteger<T>
    {
        ulong r = Width.SignExtend(result);
        s->FlagZ = r;
        s->FlagSp = r;
        s->FlagCarries = Carries(cf, OverflowRight<T>(r)) | 8;
    }

    /// <summary>After ROL and RCL: only CF and OF change.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void RotateLeft<T>(ProcessorState* s, ulong result, ulong cf) where T : unmanaged =>
        s->FlagCarries = Carries(cf, cf ^ TopBit<T>(result)) | (s->FlagCarries & 8);

    /// <summary>After ROR and RCR: only CF and OF change.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void RotateRight<T>(ProcessorState* s, ulong result, ulong cf) where T : unmanaged =>
        s->FlagCarries = Carries(cf, OverflowRight<T>(result)) | (s->FlagCarries & 8);
}

internal readonly unsafe struct ShlOperation : IShiftOperation
{
    public static bool IsRotate => false;

    public static HostOperation Operation => HostOperation.Shl;

    public static FlagRule Rule => SiliconFlags.Shifts;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Apply<T>(ProcessorState* s, T value, int count) where T : unmanaged, IBinaryInteger<T>
    {
        ulong a = ulong.CreateTruncating(value);
        // The bit above the width is the last one shifted out; for 64 bits it is fetched from below.
        ulong cf = sizeof(T) == 8 ? (a >> (64 - count)) & 1 : (a << count >> (sizeof(T) * 8)) & 1;
        T r = T.CreateTruncating(a << count);
        ShiftFlags.Shifted(s, r, cf, cf ^ ShiftFlags.TopBit<T>(ulong.CreateTruncating(r)), ShiftFlags.OverflowRight<T>(a));
        return r;
    }
}

internal readonly unsafe struct ShrOperation : IShiftOperation
{
    public static bool IsRotate => false;

    public static HostOperation Operation => HostOperation.Shr;

    public static FlagRule Rule => SiliconFlags.Shifts;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Apply<T>(ProcessorState* s, T value, int count) where T : unmanaged, IBinaryInteger<T>
    {
        ulong a = ulong.CreateTruncating(value);
        T r = T.CreateTruncating(a >> count);
        ShiftFlags.Shifted(s, r, (a >> (count - 1)) & 1, ShiftFlags.OverflowRight<T>(ulong.CreateTruncating(r)), ShiftFlags.TopBit<T>(a));
        return r;
    }
}

internal readonly unsafe struct SarOperation : IShiftOperation
{
    public static bool IsRotate => false;

    public static HostOperation Operation => HostOperation.Sar;

    public static FlagRule Rule => SiliconFlags.Shifts;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Apply<T>(ProcessorState* s, T value, int count) where T : unmanaged, IBinaryInteger<T>
    {
        long a = (long)Width.SignExtend(value);
        T r = T.CreateTruncating(a >> count);
        ShiftFlags.Shifted(s, r, (ulong)(a >> (count - 1)) & 1, ShiftFlags.OverflowRight<T>(ulong.CreateTruncating(r)), 0);
        return r;
    }
}

internal readonly unsafe struct RolOperation : IShiftOperation
{
    public static HostOperation Operation => HostOperation.Rol;

    public static FlagRule Rule => SiliconFlags.Rotates;

    public static bool IsRotate => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Apply<T>(ProcessorState* s, T value, int count) where T : unmanaged, IBinaryInteger<T>
    {
        int bits = sizeof(T) * 8;
        ulong a = ulong.CreateTruncating(value);
        count &= bits - 1;
        ulong r = count == 0 ? a : (a << count) | (a >> (bits - count));
        ShiftFlags.RotateLeft<T>(s, r, r & 1);
        return T.CreateTruncating(r);
    }
}

internal readonly unsafe struct RorOperation : IShiftOperation
{
    public static HostOperation Operation => HostOperation.Ror;

    public static FlagRule Rule => SiliconFlags.Rotates;

    public static bool IsRotate => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Apply<T>(ProcessorState* s, T value, int count) where T : unmanaged, IBinaryInteger<T>
    {
        int bits = sizeof(T) * 8;
        ulong a = ulong.CreateTruncating(value);
        count &= bits - 1;
        ulong r = count == 0 ? a : (a >> count) | (a << (bits - count));
        ShiftFlags.RotateRight<T>(s, r, ShiftFlags.TopBit<T>(r));
        return T.CreateTruncating(r);
    }
}

internal readonly unsafe struct RclOperation : IShiftOperation
{
    public static HostOperation Operation => HostOperation.Rcl;

    public static FlagRule Rule => SiliconFlags.Rotates;

    public static bool IsRotate => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Apply<T>(ProcessorState* s, T value, int count) where T : unmanaged, IBinaryInteger<T> => CarryRotation.Rotate(s, value, count, left: true);
}

internal readonly unsafe struct RcrOperation : IShiftOperation
{
    public static HostOperation Operation => HostOperation.Rcr;

    public static FlagRule Rule => SiliconFlags.Rotates;

    public static bool IsRotate => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Apply<T>(ProcessorState* s, T value, int count) where T : unmanaged, IBinaryInteger<T> =>
        CarryRotation.Rotate(s, value, count, left: false);
}

/// <summary>RCL and RCR: the operand and CF go around together, one bit more than the operand has.</summary>
internal static unsafe class CarryRotation
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Rotate<T>(ProcessorState* s, T value, int count, bool left) where T : unmanaged, IBinaryInteger<T>
    {
        int bits = sizeof(T) * 8;
        ulong a = ulong.CreateTruncating(value), r = a, cf = s->FlagCarries >> 63;
        if (sizeof(T) <= 2) count %= bits + 1;
        if (count > 0)
        {
            // What is left in place, CF behind it, and what comes around.
            int around = bits + 1 - count;
            r = left ? (a << count) | (cf << (count - 1)) | (count > 1 ? a >> around : 0)
                : (a >> count) | (cf << (bits - count)) | (count > 1 ? a << around : 0);
            cf = (a >> (left ? bits - count : count - 1)) & 1;
        }
        if (left) ShiftFlags.RotateLeft<T>(s, r, cf);
        else ShiftFlags.RotateRight<T>(s, r, cf);
        return T.CreateTruncating(r);
    }
}

/// <summary>Handlers of <c>op dst, count</c>. The count is masked to 5 bits, with 64-bit operands to 6; zero changes nothing.</summary>
internal static unsafe class Shift<TOp, T> where TOp : struct, IShiftOperation where T : unmanaged, IBinaryInteger<T>
{
    public static Insn* RegImm(Processor p, ProcessorState* s, Insn* i) => Reg(s, i, (int)i->Imm & ShiftCount.Mask<T>(), immediate: true);

    public static Insn* RegCl(Processor p, ProcessorState* s, Insn* i) => Reg(s, i, (int)s->Rcx & ShiftCount.Mask<T>(), immediate: false);

    public static Insn* MemImm(Processor p, ProcessorState* s, Insn* i) => Mem(p, s, i, (int)i->Imm & ShiftCount.Mask<T>(), immediate: true);

    public static Insn* MemCl(Processor p, ProcessorState* s, Insn* i) => Mem(p, s, i, (int)s->Rcx & ShiftCount.Mask<T>(), immediate: false);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Insn* Reg(ProcessorState* s, Insn* i, int count, bool immediate)
    {
        T a = Register.Get<T>(s, i->R0);
        // A count of zero still writes the register: that clears the upper half in 32-bit operations.
        Register.Set(s, i->R0, count == 0 ? a : Run(s, a, count, immediate, memory: false));
        return i + 1;
    }

    private static Insn* Mem(Processor p, ProcessorState* s, Insn* i, int count, bool immediate)
    {
        ulong address = Access.Address(s, i);
        if (!Access.ReadForWriteOrLeave(p, s, address, out T a)) return p.Exits.LeaveForExit(i);
        if (count != 0) Access.Write(p, s, address, Run(s, a, count, immediate, memory: true));
        return i + 1;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static T Run(ProcessorState* s, T a, int count, bool immediate, bool memory)
    {
        if (TOp.Rule == FlagRule.Ask) return Asked(s, a, count, immediate, memory);
        if (!TOp.IsRotate || TOp.Rule != FlagRule.Intel) return TOp.Apply(s, a, count);
        ulong carries = s->FlagCarries;
        T r = TOp.Apply(s, a, count);
        ulong of = IntelRotates.Overflow(TOp.Operation, sizeof(T) * 8, ulong.CreateTruncating(a), count, carries >> 63, (carries >> 63 ^ carries >> 62) & 1,
            immediate && !memory);
        s->FlagCarries = s->FlagCarries & ~(1ul << 62) | ((s->FlagCarries >> 63 ^ of) << 62);
        return r;
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static T Asked(ProcessorState* s, T a, int count, bool immediate, bool memory)
    {
        uint before = Flags.Get(s);
        T r = TOp.Apply(s, a, count);
        SiliconFlags.Ask<T>(s, TOp.Operation, before, ulong.CreateTruncating(a), 0, (ulong)count, immediate, memory);
        return r;
    }
}

/// <summary>OF after rotates by more than 1 on Intel's Golden Cove, where the manual leaves it undefined.</summary>
internal static class IntelRotates
{
    /// <summary>
    /// It is what a count of 1 leaves; but ROL and ROR of a register by an immediate leave it as it was, and so does a rotate through CF that comes round to
    /// where it began.
    /// </summary>
    /// <param name="bits">Width of the operand.</param>
    /// <param name="a">The operand.</param>
    /// <param name="count">Masked, not 0.</param>
    /// <param name="cf">CF before, 0 or 1.</param>
    /// <param name="of">OF before, 0 or 1.</param>
    /// <param name="immediate">Of a register, by an immediate.</param>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Overflow(HostOperation operation, int bits, ulong a, int count, ulong cf, ulong of, bool immediate)
    {
        ulong top = a >> (bits - 1) & 1;
        bool throughCarry = operation is HostOperation.Rcl or HostOperation.Rcr;
        if (throughCarry ? count % (bits + 1) == 0 : immediate && count != 1) return of;
        return operation switch
        {
            HostOperation.Rol or HostOperation.Rcl => top ^ (a >> (bits - 2) & 1),
            HostOperation.Ror => top ^ (a & 1),
            _ => top ^ cf,
        };
    }
}

internal static unsafe class ShiftCount
{
    /// <summary>What the processor keeps of a shift count.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static int Mask<T>() where T : unmanaged => sizeof(T) == 8 ? 63 : 31;
}

/// <summary>SHLD and SHRD: <c>op dst, src, count</c>.</summary>
internal static unsafe class DoubleShift<T> where T : unmanaged, IBinaryInteger<T>
{
    public static Insn* LeftRegImm(Processor p, ProcessorState* s, Insn* i) => LeftReg(s, i, (int)i->Imm & ShiftCount.Mask<T>(), immediate: true);

    public static Insn* LeftRegCl(Processor p, ProcessorState* s, Insn* i) => LeftReg(s, i, (int)s->Rcx & ShiftCount.Mask<T>(), immediate: false);

    public static Insn* LeftMemImm(Processor p, ProcessorState* s, Insn* i) => LeftMem(p, s, i, (int)i->Imm & ShiftCount.Mask<T>(), immediate: true);

    public static Insn* LeftMemCl(Processor p, ProcessorState* s, Insn* i) => LeftMem(p, s, i, (int)s->Rcx & ShiftCount.Mask<T>(), immediate: false);

    public static Insn* RightRegImm(Processor p, ProcessorState* s, Insn* i) => RightReg(s, i, (int)i->Imm & ShiftCount.Mask<T>(), immediate: true);

    public static Insn* RightRegCl(Processor p, ProcessorState* s, Insn* i) => RightReg(s, i, (int)s->Rcx & ShiftCount.Mask<T>(), immediate: false);

    public static Insn* RightMemImm(Processor p, ProcessorState* s, Insn* i) => RightMem(p, s, i, (int)i->Imm & ShiftCount.Mask<T>(), immediate: true);

    public static Insn* RightMemCl(Processor p, ProcessorState* s, Insn* i) => RightMem(p, s, i, (int)s->Rcx & ShiftCount.Mask<T>(), immediate: false);

    private static Insn* LeftReg(ProcessorState* s, Insn* i, int count, bool immediate)
    {
        T a = Register.Get<T>(s, i->R0);
        Register.Set(s, i->R0, count == 0 ? a : Run(s, HostOperation.Shld, a, Register.Get<T>(s, i->R1), count, immediate, memory: false));
        return i + 1;
    }

    private static Insn* RightReg(ProcessorState* s, Insn* i, int count, bool immediate)
    {
        T a = Register.Get<T>(s, i->R0);
        Register.Set(s, i->R0, count == 0 ? a : Run(s, HostOperation.Shrd, a, Register.Get<T>(s, i->R1), count, immediate, memory: false));
        return i + 1;
    }

    private static Insn* LeftMem(Processor p, ProcessorState* s, Insn* i, int count, bool immediate)
    {
        ulong address = Access.Address(s, i);
        if (!Access.ReadForWriteOrLeave(p, s, address, out T a)) return p.Exits.LeaveForExit(i);
        if (count != 0) Access.Write(p, s, address, Run(s, HostOperation.Shld, a, Register.Get<T>(s, i->R0), count, immediate, memory: true));
        return i + 1;
    }

    private static Insn* RightMem(Processor p, ProcessorState* s, Insn* i, int count, bool immediate)
    {
        ulong address = Access.Address(s, i);
        if (!Access.ReadForWriteOrLeave(p, s, address, out T a)) return p.Exits.LeaveForExit(i);
        if (count != 0) Access.Write(p, s, address, Run(s, HostOperation.Shrd, a, Register.Get<T>(s, i->R0), count, immediate, memory: true));
        return i + 1;
    }

    private static T Run(ProcessorState* s, HostOperation operation, T dst, T src, int count, bool immediate, bool memory)
    {
        uint before = SiliconFlags.DoubleShifts == FlagRule.Ask ? Flags.Get(s) : 0;
        T result = operation == HostOperation.Shld ? Left(s, dst, src, count) : Right(s, dst, src, count);
        if (SiliconFlags.DoubleShifts != FlagRule.Ask) return result;
        ulong its = SiliconFlags.Ask<T>(s, operation, before, ulong.CreateTruncating(dst), ulong.CreateTruncating(src), (ulong)count, immediate, memory);
        // The result is undefined then, too.
        return count > sizeof(T) * 8 ? T.CreateTruncating(its) : result;
    }

    private static T Left(ProcessorState* s, T dst, T src, int count)
    {
        int bits = sizeof(T) * 8;
        ulong a = ulong.CreateTruncating(dst), b = ulong.CreateTruncating(src);
        ulong r, cf;
        if (count <= bits)
        {
            r = count == bits ? b : (a << count) | (b >> (bits - count));
            cf = (a >> (bits - count)) & 1;
        }
        else
        {
            // 16-bit operands with a count above 16: undefined; the source follows once more.
            r = (b << (count - bits)) | (b >> (2 * bits - count));
            cf = 0;
        }
        T result = T.CreateTruncating(r);
        ShiftFlags.Left(s, result, cf);
        // Nothing of the destination is left then, and OF follows CF alone (undefined).
        if (count >= bits) s->FlagCarries = Flags.Carries(cf != 0, cf != 0) | 8;
        return result;
    }

    private static T Right(ProcessorState* s, T dst, T src, int count)
    {
        int bits = sizeof(T) * 8;
        ulong a = ulong.CreateTruncating(dst), b = ulong.CreateTruncating(src);
        ulong r, cf;
        if (count <= bits)
        {
            r = count == bits ? b : (a >> count) | (b << (bits - count));
            cf = (a >> (count - 1)) & 1;
        }
        else
        {
            r = (b >> (count - bits)) | (b << (2 * bits - count));
            cf = 0;
        }
        T result = T.CreateTruncating(r);
        ShiftFlags.Right(s, result, cf);
        return result;
    }
}
