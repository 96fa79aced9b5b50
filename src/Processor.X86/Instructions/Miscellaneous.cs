using System.Numerics;
using System.Runtime.InteropServices;
using System.Security.Cryptography;

namespace Bunraku.Processor.X86;

/// <summary>Flag instructions, no-operations, fences, BOUND, random numbers.</summary>
internal static unsafe class Miscellaneous
{
    /// <summary>NOP, fences, prefetches, ENDBR: nothing that software could observe. The host is a processor with the same memory ordering.</summary>
    public static Insn* Nop(Processor p, ProcessorState* s, Insn* i) => i + 1;

    /// <summary>PAUSE: the vCPU waits for another one, which may not be running, as the host has fewer processors or others to serve.</summary>
    public static Insn* Pause(Processor p, ProcessorState* s, Insn* i)
    {
        p.PauseLoops.Paused();
        return i + 1;
    }

    /// <summary>MFENCE, LFENCE, SFENCE; stores of other vCPUs' threads are ordered by the host's fence.</summary>
    public static Insn* Fence(Processor p, ProcessorState* s, Insn* i)
    {
        Interlocked.MemoryBarrier();
        return i + 1;
    }

    /// <summary>CLFLUSH, CLFLUSHOPT, CLWB: checked as a read of one byte; our memory has no caches that could differ.</summary>
    public static Insn* FlushLine(Processor p, ProcessorState* s, Insn* i)
    {
        Access.Read<byte>(p, s, Access.Address(s, i));
        return i + 1;
    }

    /// <summary>UD0, UD1, UD2.</summary>
    public static Insn* Undefined(Processor p, ProcessorState* s, Insn* i) => throw p.InvalidOpcode();

    public static Insn* Clc(Processor p, ProcessorState* s, Insn* i)
    {
        Flags.SetCf(s, false);
        return i + 1;
    }

    public static Insn* Stc(Processor p, ProcessorState* s, Insn* i)
    {
        Flags.SetCf(s, true);
        return i + 1;
    }

    public static Insn* Cmc(Processor p, ProcessorState* s, Insn* i)
    {
        Flags.SetCf(s, !Flags.Cf(s));
        return i + 1;
    }

    public static Insn* Cld(Processor p, ProcessorState* s, Insn* i)
    {
        s->FlagsOther &= ~(uint)Rflags.Df;
        s->Direction = 1;
        return i + 1;
    }

    public static Insn* Std(Processor p, ProcessorState* s, Insn* i)
    {
        s->FlagsOther |= (uint)Rflags.Df;
        s->Direction = -1;
        return i + 1;
    }

    /// <summary>BOUND: two signed words or doublewords in memory, lower bound first.</summary>
    public static Insn* Bound<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, IBinaryInteger<T>
    {
        ulong offset = Access.EffectiveAddress(s, i);
        long index = (long)Width.SignExtend(Register.Get<T>(s, i->R0));
        // Two accesses: the upper bound may wrap around to offset 0.
        long lower = Limit(offset), upper = Limit((offset + (ulong)sizeof(T)) & i->AddressMask);
        if (index < lower || index > upper) throw p.Fault(Vector.Br);
        return i + 1;

        long Limit(ulong at) => (long)Width.SignExtend(Access.Read<T>(p, s, Implicit.Linear(p, s, Implicit.Segment(i), at, sizeof(T), AccessKind.Read)));
    }

    /// <summary>RDRAND, RDSEED: always ready, so CF is set; the other flags are cleared.</summary>
    public static Insn* Random<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, IBinaryInteger<T>
    {
        T value = default;
        RandomNumberGenerator.Fill(MemoryMarshal.AsBytes(new Span<T>(ref value)));
        Register.Set(s, i->R0, value);
        Flags.SetArithmetic(s, (uint)Rflags.Cf);
        return i + 1;
    }
}

/// <summary>Decimal arithmetic: AAA, AAS, AAM, AAD, DAA, DAS. Intel SDM vol. 2.</summary>
internal static unsafe class DecimalAdjust
{
    public static Insn* Daa(Processor p, ProcessorState* s, Insn* i)
    {
        byte al = (byte)s->Rax;
        bool carry = Flags.Cf(s) || al > 0x99, adjust = Flags.Af(s) || (al & 0xF) > 9;
        byte r = AddOperation.Apply(s, al, Correction(carry, adjust));
        return Finish(s, i, r, carry, adjust);
    }

    public static Insn* Das(Processor p, ProcessorState* s, Insn* i)
    {
        byte al = (byte)s->Rax;
        bool carry = Flags.Cf(s) || al > 0x99, adjust = Flags.Af(s) || (al & 0xF) > 9;
        byte r = SubOperation.Apply(s, al, Correction(carry, adjust));
        // A borrow out of the lower digit's correction counts, too.
        return Finish(s, i, r, carry || (adjust && al < 6), adjust);
    }

    private static byte Correction(bool carry, bool adjust) => (byte)((carry ? 0x60 : 0) + (adjust ? 6 : 0));

    /// <summary>SF, ZF, PF and OF (undefined) are those of the correction; CF and AF tell of decimal carries.</summary>
    private static Insn* Finish(ProcessorState* s, Insn* i, byte result, bool carry, bool adjust)
    {
        *(byte*)&s->Rax = result;
        s->FlagCarries = Flags.Carries(carry, Flags.Of(s)) | (adjust ? 8ul : 0);
        return i + 1;
    }

    public static Insn* Aaa(Processor p, ProcessorState* s, Insn* i)
    {
        bool adjust = (s->Rax & 0xF) > 9 || Flags.Af(s);
        return FinishAscii(s, i, AddOperation.Apply(s, (ushort)s->Rax, (ushort)(adjust ? 0x106 : 0)), adjust);
    }

    public static Insn* Aas(Processor p, ProcessorState* s, Insn* i)
    {
        bool adjust = (s->Rax & 0xF) > 9 || Flags.Af(s);
        return FinishAscii(s, i, SubOperation.Apply(s, (ushort)s->Rax, (ushort)(adjust ? 0x106 : 0)), adjust);
    }

    /// <summary>The undefined flags are those of the 16-bit correction before the upper digit is cleared.</summary>
    private static Insn* FinishAscii(ProcessorState* s, Insn* i, ushort ax, bool adjust)
    {
        *(ushort*)&s->Rax = (ushort)(ax & 0xFF0F);
        s->FlagCarries = Flags.Carries(adjust, Flags.Of(s)) | (adjust ? 8ul : 0);
        return i + 1;
    }

    /// <exception cref="GuestFault">#DE when the base is zero.</exception>
    public static Insn* Aam(Processor p, ProcessorState* s, Insn* i)
    {
        byte al = (byte)s->Rax, radix = (byte)i->Imm;
        if (radix == 0) throw p.Fault(Vector.De);
        *(ushort*)&s->Rax = (ushort)((al / radix << 8) | (al % radix));
        Flags.SetLogic(s, (byte)s->Rax);
        return i + 1;
    }

    public static Insn* Aad(Processor p, ProcessorState* s, Insn* i)
    {
        // All flags are those of the addition.
        *(ushort*)&s->Rax = AddOperation.Apply(s, (byte)s->Rax, (byte)((byte)(s->Rax >> 8) * (byte)i->Imm));
        return i + 1;
    }
}
