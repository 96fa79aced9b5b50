using System.Buffers.Binary;
using System.Numerics;
using System.Runtime.CompilerServices;

namespace Bunraku.Processor.X86;

/// <summary>MOV in one width; also MOVNTI, whose hint we need not follow.</summary>
internal static unsafe class Move<T> where T : unmanaged, IBinaryInteger<T>
{
    public static Insn* RegReg(Processor p, ProcessorState* s, Insn* i)
    {
        Register.Set(s, i->R0, Register.Get<T>(s, i->R1));
        return i + 1;
    }

    public static Insn* RegMem(Processor p, ProcessorState* s, Insn* i) => Load<ToRegister, T>.Run(p, s, i);

    private readonly struct ToRegister : IUse<T>
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static void Use(ProcessorState* s, Insn* i, T value) => Register.Set(s, i->R0, value);
    }

    public static Insn* RegImm(Processor p, ProcessorState* s, Insn* i)
    {
        Register.Set(s, i->R0, T.CreateTruncating(i->Imm));
        return i + 1;
    }

    public static Insn* MemReg(Processor p, ProcessorState* s, Insn* i) => Store<T>.Run(p, s, i, Register.Get<T>(s, i->R0));

    public static Insn* MemImm(Processor p, ProcessorState* s, Insn* i) => Store<T>.Run(p, s, i, T.CreateTruncating(i->Imm));

    public static Insn* LoadAddress(Processor p, ProcessorState* s, Insn* i)
    {
        Register.Set(s, i->R0, T.CreateTruncating(Access.EffectiveAddress(s, i)));
        return i + 1;
    }

    /// <summary>MOVBE.</summary>
    public static Insn* RegMemSwapped(Processor p, ProcessorState* s, Insn* i)
    {
        if (!Access.ReadOrLeave(p, s, Access.Address(s, i), out T value)) return p.Exits.LeaveForExit(i);
        Register.Set(s, i->R0, Swap(value));
        return i + 1;
    }

    public static Insn* MemRegSwapped(Processor p, ProcessorState* s, Insn* i)
    {
        Access.Write(p, s, Access.Address(s, i), Swap(Register.Get<T>(s, i->R0)));
        return i + 1;
    }

    /// <summary>BSWAP; with a 16-bit operand, which the manuals leave undefined, processors store zero.</summary>
    public static Insn* SwapReg(Processor p, ProcessorState* s, Insn* i)
    {
        Register.Set(s, i->R0, sizeof(T) == 2 ? T.Zero : Swap(Register.Get<T>(s, i->R0)));
        return i + 1;
    }

    private static T Swap(T value)
    {
        if (sizeof(T) == 2) return T.CreateTruncating(BinaryPrimitives.ReverseEndianness(ushort.CreateTruncating(value)));
        if (sizeof(T) == 4) return T.CreateTruncating(BinaryPrimitives.ReverseEndianness(uint.CreateTruncating(value)));
        return T.CreateTruncating(BinaryPrimitives.ReverseEndianness(ulong.CreateTruncating(value)));
    }
}

/// <summary>MOVZX: the source's type is unsigned. MOVSX and MOVSXD: it is signed.</summary>
internal static unsafe class Extend<TFrom, TTo> where TFrom : unmanaged, IBinaryInteger<TFrom> where TTo : unmanaged, IBinaryInteger<TTo>
{
    public static Insn* RegReg(Processor p, ProcessorState* s, Insn* i)
    {
        Register.Set(s, i->R0, TTo.CreateTruncating(Register.Get<TFrom>(s, i->R1)));
        return i + 1;
    }

    public static Insn* RegMem(Processor p, ProcessorState* s, Insn* i) => Load<ToRegister, TFrom>.Run(p, s, i);

    private readonly struct ToRegister : IUse<TFrom>
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static void Use(ProcessorState* s, Insn* i, TFrom value) => Register.Set(s, i->R0, TTo.CreateTruncating(value));
    }
}

/// <summary>Sign extensions of the accumulator, table look-up, flag moves.</summary>
internal static unsafe class AccumulatorMoves
{
    public static Insn* Cbw(Processor p, ProcessorState* s, Insn* i)
    {
        *(short*)&s->Rax = (sbyte)s->Rax;
        return i + 1;
    }

    public static Insn* Cwde(Processor p, ProcessorState* s, Insn* i)
    {
        s->Rax = (uint)(short)s->Rax;
        return i + 1;
    }

    public static Insn* Cdqe(Processor p, ProcessorState* s, Insn* i)
    {
        s->Rax = (ulong)(int)s->Rax;
        return i + 1;
    }

    public static Insn* Cwd(Processor p, ProcessorState* s, Insn* i)
    {
        *(short*)&s->Rdx = (short)((short)s->Rax >> 15);
        return i + 1;
    }

    public static Insn* Cdq(Processor p, ProcessorState* s, Insn* i)
    {
        s->Rdx = (uint)((int)s->Rax >> 31);
        return i + 1;
    }

    public static Insn* Cqo(Processor p, ProcessorState* s, Insn* i)
    {
        s->Rdx = (ulong)((long)s->Rax >> 63);
        return i + 1;
    }

    /// <summary>XLAT: AL = [seg:(E/R)BX + AL].</summary>
    public static Insn* Xlat(Processor p, ProcessorState* s, Insn* i)
    {
        ulong offset = (s->Rbx + (byte)s->Rax) & Implicit.AddressMask(i);
        byte value = Access.Read<byte>(p, s, Implicit.Linear(p, s, Implicit.Segment(i), offset, 1, AccessKind.Read));
        *(byte*)&s->Rax = value;
        return i + 1;
    }

    public static Insn* Lahf(Processor p, ProcessorState* s, Insn* i)
    {
        *((byte*)&s->Rax + 1) = (byte)Flags.Get(s);
        return i + 1;
    }

    public static Insn* Sahf(Processor p, ProcessorState* s, Insn* i)
    {
        uint overflow = Flags.Of(s) ? (uint)Rflags.Of : 0;
        Flags.SetArithmetic(s, (byte)(s->Rax >> 8) | overflow);
        return i + 1;
    }

    /// <summary>SALC: AL = CF ? FFH : 0.</summary>
    public static Insn* Salc(Processor p, ProcessorState* s, Insn* i)
    {
        *(byte*)&s->Rax = Flags.Cf(s) ? (byte)0xFF : (byte)0;
        return i + 1;
    }
}

/// <summary>Instructions that address memory without a ModRM operand, in every mode.</summary>
internal static unsafe class Implicit
{
    /// <summary>All ones in the bits of the instruction's address size.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong AddressMask(Insn* i) =>
        (i->Flags & InsnFlags.Address16) != 0 ? 0xFFFF : (i->Flags & InsnFlags.Address32) != 0 ? 0xFFFF_FFFF : ulong.MaxValue;

    /// <summary>The segment of the memory operand.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Seg Segment(Insn* i) => (Seg)((int)(i->Flags & InsnFlags.SegmentMask) / (int)InsnFlags.SegmentShift9);

    /// <summary>Linear address of <paramref name="size"/> bytes at an offset that is truncated to the address size already.</summary>
    /// <exception cref="GuestFault">#SS(0) or #GP(0) by the checks of segmentation; canonical checks are the access's own.</exception>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Linear(Processor p, ProcessorState* s, Seg segment, ulong offset, int size, AccessKind kind)
    {
        if (segment < Seg.Fs && IsFlat(s) && (Is64Bit(s) || (segment != Seg.Cs && offset + (ulong)(size - 1) <= uint.MaxValue))) return offset;
        return p.Segments.LinearAddress(segment, offset, size, kind);
    }

    // Outside 64-bit mode a write through CS faults, however flat it is.
    private static bool Is64Bit(ProcessorState* s) => (s->Mode & ModeKey.CodeSizeMask) == ModeKey.Code64;

    /// <summary>ES, CS, SS and DS neither move nor limit an address.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool IsFlat(ProcessorState* s) => (s->Mode & ModeKey.Flat) != 0;
}
