using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Bunraku.Processor.X86;

/// <summary>How far a write to a vector register reaches.</summary>
internal unsafe interface IVectorEncoding
{
    /// <summary>Clears the bits above the <paramref name="width"/> bytes (16 or 32) just written at state offset <paramref name="register"/>.</summary>
    static abstract void ClearAbove(ProcessorState* s, int register, int width);
}

/// <summary>Legacy SSE: bits 255:128 stay.</summary>
internal readonly unsafe struct Legacy : IVectorEncoding
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void ClearAbove(ProcessorState* s, int register, int width) { }
}

/// <summary>VEX: everything above the vector length becomes zero.</summary>
internal readonly unsafe struct Vex : IVectorEncoding
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void ClearAbove(ProcessorState* s, int register, int width)
    {
        if (width == 16) *(Vector128<byte>*)((byte*)s + register + 16) = default;
    }
}

/// <summary>Whole-register moves; <typeparamref name="T"/> is Vector128 or Vector256.</summary>
internal static unsafe class VectorMove<T, TEncoding> where T : unmanaged where TEncoding : struct, IVectorEncoding
{
    public static Insn* Registers(Processor p, ProcessorState* s, Insn* i)
    {
        Register.Set(s, i->R0, Register.Get<T>(s, i->R1));
        TEncoding.ClearAbove(s, i->R0, sizeof(T));
        return i + 1;
    }

    public static Insn* Load(Processor p, ProcessorState* s, Insn* i)
    {
        Register.Set(s, i->R0, Simd.Read<T>(p, s, Access.Address(s, i)));
        TEncoding.ClearAbove(s, i->R0, sizeof(T));
        return i + 1;
    }

    public static Insn* LoadAligned(Processor p, ProcessorState* s, Insn* i)
    {
        ulong address = Access.Address(s, i);
        Simd.CheckAlignment<T>(p, address);
        Register.Set(s, i->R0, Simd.Read<T>(p, s, address));
        TEncoding.ClearAbove(s, i->R0, sizeof(T));
        return i + 1;
    }

    public static Insn* Store(Processor p, ProcessorState* s, Insn* i)
    {
        Simd.Write(p, s, Access.Address(s, i), Register.Get<T>(s, i->R0));
        return i + 1;
    }

    public static Insn* StoreAligned(Processor p, ProcessorState* s, Insn* i)
    {
        ulong address = Access.Address(s, i);
        Simd.CheckAlignment<T>(p, address);
        Simd.Write(p, s, address, Register.Get<T>(s, i->R0));
        return i + 1;
    }
}

/// <summary>Moves of the lowest 32 or 64 bits: MOVD, MOVQ and the memory forms of MOVSS, MOVSD. The rest of the destination becomes zero.</summary>
internal static unsafe class ScalarMove<T, TEncoding> where T : unmanaged where TEncoding : struct, IVectorEncoding
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Set(ProcessorState* s, int register, T value)
    {
        Vector128<byte>* d = (Vector128<byte>*)((byte*)s + register);
        *d = sizeof(T) == 4 ? Vector128.CreateScalar(*(uint*)&value).AsByte() : Vector128.CreateScalar(*(ulong*)&value).AsByte();
        TEncoding.ClearAbove(s, register, 16);
    }

    /// <summary>From a general or vector register.</summary>
    public static Insn* FromRegister(Processor p, ProcessorState* s, Insn* i)
    {
        Set(s, i->R0, Register.Get<T>(s, i->R1));
        return i + 1;
    }

    public static Insn* ToGeneral(Processor p, ProcessorState* s, Insn* i)
    {
        T value = Register.Get<T>(s, i->R1);
        *(ulong*)((byte*)s + i->R0) = sizeof(T) == 4 ? *(uint*)&value : *(ulong*)&value;
        return i + 1;
    }

    public static Insn* Load(Processor p, ProcessorState* s, Insn* i)
    {
        if (!Access.ReadOrLeave(p, s, Access.Address(s, i), out T value)) return p.Exits.LeaveForExit(i);
        Set(s, i->R0, value);
        return i + 1;
    }

    public static Insn* Store(Processor p, ProcessorState* s, Insn* i)
    {
        Access.Write(p, s, Access.Address(s, i), Register.Get<T>(s, i->R0));
        return i + 1;
    }
}

/// <summary>LDMXCSR, STMXCSR, VZEROUPPER, VZEROALL, MOVNTI.</summary>
internal static unsafe class SimdControl
{
    public static Insn* Ldmxcsr(Processor p, ProcessorState* s, Insn* i)
    {
        uint value = Access.Read<uint>(p, s, Access.Address(s, i));
        if ((value & ~Simd.MxcsrMask) != 0) throw p.GeneralProtection();
        s->Mxcsr = value;
        return i + 1;
    }

    public static Insn* Stmxcsr(Processor p, ProcessorState* s, Insn* i)
    {
        Access.Write(p, s, Access.Address(s, i), s->Mxcsr);
        return i + 1;
    }

    private static int Registers(ProcessorState* s) => (s->Mode & ModeKey.CodeSizeMask) == ModeKey.Code64 ? 16 : 8;

    public static Insn* Vzeroupper(Processor p, ProcessorState* s, Insn* i)
    {
        for (int n = 0, count = Registers(s); n < count; n++) *(Vector128<byte>*)(ProcessorState.SimdRegister(s, n) + 16) = default;
        return i + 1;
    }

    public static Insn* Vzeroall(Processor p, ProcessorState* s, Insn* i)
    {
        for (int n = 0, count = Registers(s); n < count; n++) *(Vector256<byte>*)ProcessorState.SimdRegister(s, n) = default;
        return i + 1;
    }

    /// <summary>MOVNTI and the scalar non-temporal stores from vector registers: plain stores.</summary>
    public static Insn* StoreRegister<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged
    {
        Access.Write(p, s, Access.Address(s, i), Register.Get<T>(s, i->R0));
        return i + 1;
    }
}
