using System.Runtime.CompilerServices;

namespace Bunraku.Processor.X86;

/// <summary>MXCSR bits. Intel SDM vol. 1, "MXCSR Control and Status Register".</summary>
[Flags]
internal enum Mxcsr : uint
{
    Ie = 1, De = 2, Ze = 4, Oe = 8, Ue = 0x10, Pe = 0x20,
    Daz = 0x40,
    Masks = 0x1F80,
    Um = 0x800,
    Fz = 0x8000,
    Flags = Ie | De | Ze | Oe | Ue | Pe,
    /// <summary>Found before the operation is computed; an unmasked one means that nothing is computed.</summary>
    PreComputation = Ie | De | Ze,
}

/// <summary>What SSE and AVX handlers share: memory operands of up to 32 bytes and floating-point exceptions.</summary>
internal static unsafe class Simd
{
    public const uint DefaultMxcsr = 0x1F80;
    /// <summary>MXCSR_MASK: DAZ is there, misaligned exceptions (bit 17) are not.</summary>
    public const uint MxcsrMask = 0xFFFF;
    private const int MaskShift = 7;

    private const ulong PageMask = ~0xFFFul;

    /// <summary>Reads 1 to 32 bytes.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Read<T>(Processor p, ProcessorState* s, ulong address) where T : unmanaged
    {
        TlbEntry* e = Access.Entry(s, address);
        if (e->ReadTag == (((address + (ulong)(sizeof(T) - 1)) & PageMask) | s->TlbContext))
            return Unsafe.ReadUnaligned<T>((byte*)address + e->Addend);
        return ReadSlow<T>(p, s, address);
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static T ReadSlow<T>(Processor p, ProcessorState* s, ulong address) where T : unmanaged
    {
        if (sizeof(T) <= 8) return p.ReadSlow<T>(address);
        p.ReadBytes(address, new Span<byte>(s->Staging, sizeof(T)));
        return Unsafe.ReadUnaligned<T>(s->Staging);
    }

    /// <summary>Writes 1 to 32 bytes.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Write<T>(Processor p, ProcessorState* s, ulong address, T value) where T : unmanaged
    {
        TlbEntry* e = Access.Entry(s, address);
        if (e->WriteTag == (((address + (ulong)(sizeof(T) - 1)) & PageMask) | s->TlbContext))
            Unsafe.WriteUnaligned((byte*)address + e->Addend, value);
        else
            WriteSlow(p, address, value);
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void WriteSlow<T>(Processor p, ulong address, T value) where T : unmanaged
    {
        if (sizeof(T) <= 8) p.WriteSlow(address, value);
        else p.WriteBytes(address, new ReadOnlySpan<byte>(&value, sizeof(T)));
    }

    /// <summary>Raises what a write of this size would raise.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void CheckWrite<T>(Processor p, ProcessorState* s, ulong address) where T : unmanaged
    {
        if (Access.Entry(s, address)->WriteTag != (((address + (ulong)(sizeof(T) - 1)) & PageMask) | s->TlbContext)) p.CheckWrite(address, sizeof(T));
    }

    /// <summary>Host pointer to a memory operand that is read: guest memory itself when its translation is cached, else a copy in <see cref="ProcessorState.Staging"/>.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static byte* ReadPointer<T>(Processor p, ProcessorState* s, ulong address) where T : unmanaged
    {
        TlbEntry* e = Access.Entry(s, address);
        if (e->ReadTag == (((address + (ulong)(sizeof(T) - 1)) & PageMask) | s->TlbContext)) return (byte*)address + e->Addend;
        Unsafe.WriteUnaligned(s->Staging, ReadSlow<T>(p, s, address));
        return s->Staging;
    }

    /// <summary>#GP(0) unless <paramref name="address"/> is aligned to the size of <typeparamref name="T"/>.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void CheckAlignment<T>(Processor p, ulong address) where T : unmanaged
    {
        if ((address & (ulong)(sizeof(T) - 1)) != 0) ThrowUnaligned(p);
    }

    private static void ThrowUnaligned(Processor p) => throw p.GeneralProtection();

    /// <summary>Runs a thunk that computes floating point under the guest's MXCSR, and acts on the exceptions raised.</summary>
    /// <exception cref="GuestFault">#XM or #UD; the destination is as before and MXCSR has the flags.</exception>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void RunFloat(Processor p, ProcessorState* s, Insn* i, byte* memory)
    {
        if ((s->Mxcsr & (uint)Mxcsr.Masks) != (uint)Mxcsr.Masks)
        {
            RunUnmasked(p, s, i, memory);
            return;
        }
        s->ThunkMxcsr = s->Mxcsr;
        s->ThunkUnmasked = 0;
        i->Thunk(s, memory);
        s->Mxcsr = s->ThunkMxcsr;
    }

    /// <summary>True when a conversion of single precision to half precision meets a result that is tiny after rounding.</summary>
    private static bool TinyHalf(uint* source, int lanes, uint mxcsr, int immediate)
    {
        const uint leastNormal = 0x3880_0000, leastSingle = 0x0080_0000; // 2^-14, 2^-126
        int rounding = (immediate & 4) != 0 ? (int)(mxcsr >> 13) & 3 : immediate & 3;
        for (int n = 0; n < lanes; n++)
        {
            uint magnitude = source[n] & 0x7FFF_FFFF;
            bool negative = magnitude != source[n];
            if (magnitude == 0 || magnitude < leastSingle && (mxcsr & (uint)Mxcsr.Daz) != 0) continue;
            // Of 24 bits 11 remain: what is closer to 2^-14 than the last of them can tell becomes 2^-14.
            uint limit = rounding switch
            {
                0 => leastNormal - 0x1000,
                1 when negative => leastNormal - 0x1FFF,
                2 when !negative => leastNormal - 0x1FFF,
                _ => leastNormal,
            };
            if (magnitude < limit) return true;
        }
        return false;
    }

    /// <summary>
    /// Runs a thunk that computes floating point when the guest has unmasked exceptions: with every exception masked, then acts on what was raised.
    /// </summary>
    /// <remarks>SDM vol. 1, "SIMD Floating-Point Exceptions" and "Handling SIMD Floating-Point Exceptions in Software".</remarks>
    private static void RunUnmasked(Processor p, ProcessorState* s, Insn* i, byte* memory)
    {
        uint guest = s->Mxcsr, unmasked = ~(guest >> MaskShift) & (uint)Mxcsr.Flags, tiny = 0;
        uint control = (guest & ~(uint)Mxcsr.Flags) | (uint)Mxcsr.Masks;
        if ((unmasked & (uint)Mxcsr.Ue) != 0 && (Iced.Intel.Code)i->Code is Iced.Intel.Code.VEX_Vcvtps2ph_xmmm64_xmm_imm8 or Iced.Intel.Code.VEX_Vcvtps2ph_xmmm128_ymm_imm8)
        {
            // This one ignores FZ.
            int lanes = (Iced.Intel.Code)i->Code == Iced.Intel.Code.VEX_Vcvtps2ph_xmmm64_xmm_imm8 ? 4 : 8;
            tiny = TinyHalf((uint*)((byte*)s + (memory != null ? i->R0 : i->R1)), lanes, guest, (int)i->Imm) ? (uint)Mxcsr.Ue : 0;
        }
        else if ((unmasked & (uint)Mxcsr.Ue) != 0)
        {
            // Unmasked, underflow is raised for a tiny result even if it is exact, and FZ has no effect; masked, only FZ tells of an exact one.
            s->ThunkMxcsr = control | (uint)Mxcsr.Fz;
            s->ThunkUnmasked = (uint)Mxcsr.Masks; // always set: nothing is stored
            i->Thunk(s, memory);
            tiny = s->ThunkMxcsr & (uint)Mxcsr.Ue;
            control &= ~(uint)Mxcsr.Fz;
        }
        s->ThunkMxcsr = control;
        s->ThunkUnmasked = tiny != 0 ? (uint)Mxcsr.Masks : unmasked;
        i->Thunk(s, memory);
        uint raised = (s->ThunkMxcsr & (uint)Mxcsr.Flags) | tiny;
        if ((raised & unmasked) == 0)
        {
            s->Mxcsr = guest | raised;
            return;
        }
        if ((raised & unmasked & (uint)Mxcsr.PreComputation) != 0) raised &= (uint)Mxcsr.PreComputation;
        s->Mxcsr = guest | raised;
        throw (s->Cr4 & (ulong)Cr4.Osxmmexcpt) != 0 ? p.Fault(Vector.Xm) : p.InvalidOpcode();
    }
}
