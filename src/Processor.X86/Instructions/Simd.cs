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
        if (sizeof(T) <= 8) return p.Mmu.ReadSlow<T>(address);
        p.Mmu.ReadBytes(address, new Span<byte>(s->Staging, sizeof(T)));
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
        if (sizeof(T) <= 8) p.Mmu.WriteSlow(address, value);
        else p.Mmu.WriteBytes(address, new ReadOnlySpan<byte>(&value, sizeof(T)));
    }

    /// <summary>Raises what a write of this size would raise.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void CheckWrite<T>(Processor p, ProcessorState* s, ulong address) where T : unmanaged
    {
        if (Access.Entry(s, address)->WriteTag != (((address + (ulong)(sizeof(T) - 1)) & PageMask) | s->TlbContext)) p.Mmu.CheckWrite(address, sizeof(T));
    }

    /// <summary>
    /// Host pointer to a memory operand that is read: guest memory itself when its translation is cached, else a copy in <see cref="ProcessorState.Staging"/>.
    /// </summary>
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

    /// <summary>Exceptions whose masks are clear in <paramref name="mxcsr"/>, in the bits of the flags.</summary>
    public static Mxcsr Unmasked(uint mxcsr) => (Mxcsr)~(mxcsr >> MaskShift) & Mxcsr.Flags;

    /// <summary>
    /// Runs a thunk that computes floating point when the guest has unmasked exceptions: with every exception masked, then acts on what was raised.
    /// </summary>
    /// <remarks>SDM vol. 1, "SIMD Floating-Point Exceptions" and "Handling SIMD Floating-Point Exceptions in Software".</remarks>
    private static void RunUnmasked(Processor p, ProcessorState* s, Insn* i, byte* memory)
    {
        uint guest = s->Mxcsr, control = (guest & ~(uint)Mxcsr.Flags) | (uint)Mxcsr.Masks;
        Mxcsr unmasked = Unmasked(guest);
        var code = (Iced.Intel.Code)i->Code;
        if (SimdExceptions.IsDotProduct(code))
        {
            RaiseUnmasked(p, s, new SimdExceptions(p, s, i, memory).DotProduct());
        }
        else if ((unmasked & (Mxcsr.Oe | Mxcsr.Ue)) != 0)
        {
            // Unmasked, underflow is raised for a tiny result even if it is exact, and FZ has no effect; masked, only FZ tells of an exact one.
            bool asksForTiny = (unmasked & Mxcsr.Ue) != 0;
            s->ThunkMxcsr = asksForTiny ? control | (uint)Mxcsr.Fz : control;
            s->ThunkUnmasked = (uint)Mxcsr.Masks; // always set: nothing is stored
            i->Thunk(s, memory);
            if (asksForTiny) control &= ~(uint)Mxcsr.Fz;
            Mxcsr trial = (Mxcsr)s->ThunkMxcsr & Mxcsr.Flags;
            if ((trial & unmasked & Mxcsr.PreComputation) == 0 && ((trial & unmasked & (Mxcsr.Oe | Mxcsr.Ue)) != 0 || SimdExceptions.IsConversionToHalf(code)))
                RaiseUnmasked(p, s, (trial & Mxcsr.PreComputation) | new SimdExceptions(p, s, i, memory).Arithmetic());
        }
        s->ThunkMxcsr = control;
        s->ThunkUnmasked = (uint)unmasked;
        i->Thunk(s, memory);
        Mxcsr raised = (Mxcsr)s->ThunkMxcsr & Mxcsr.Flags;
        if ((raised & unmasked & Mxcsr.PreComputation) != 0) raised &= Mxcsr.PreComputation;
        RaiseUnmasked(p, s, raised);
        s->Mxcsr = guest | (uint)raised;
    }

    /// <summary>#XM when one of the exceptions is unmasked; all of them are noted then.</summary>
    private static void RaiseUnmasked(Processor p, ProcessorState* s, Mxcsr raised)
    {
        if ((raised & Unmasked(s->Mxcsr)) == 0) return;
        s->Mxcsr |= (uint)raised;
        throw (s->Cr4 & (ulong)Cr4.Osxmmexcpt) != 0 ? p.Fault(Vector.Xm) : p.InvalidOpcode();
    }
}
