using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Bunraku.Processor.X86;

/// <summary>How a host-executed instruction uses memory; the JIT removes what a form does not need.</summary>
internal interface IHostMemory
{
    static abstract bool Loads { get; }
    static abstract bool Stores { get; }
    static abstract bool Aligned { get; }
    /// <summary>The CPU model's vendor decides whether <see cref="Aligned"/> counts: SHA.</summary>
    /// <remarks>Not virtual with a default: code for that cannot be compiled ahead of time.</remarks>
    static abstract bool AlignedByVendor { get; }
}

/// <summary>The memory operand of SHA instructions.</summary>
internal readonly struct ShaLoad : IHostMemory
{
    public static bool Loads => true;
    public static bool Stores => false;
    public static bool Aligned => true;
    public static bool AlignedByVendor => true;
}

internal readonly struct NoAccess : IHostMemory
{
    public static bool Loads => false;
    public static bool Stores => false;
    public static bool Aligned => false;
    public static bool AlignedByVendor => false;
}

internal readonly struct Load : IHostMemory
{
    public static bool Loads => true;
    public static bool Stores => false;
    public static bool Aligned => false;
    public static bool AlignedByVendor => false;
}

internal readonly struct AlignedLoad : IHostMemory
{
    public static bool Loads => true;
    public static bool Stores => false;
    public static bool Aligned => true;
    public static bool AlignedByVendor => false;
}

internal readonly struct Store : IHostMemory
{
    public static bool Loads => false;
    public static bool Stores => true;
    public static bool Aligned => false;
    public static bool AlignedByVendor => false;
}

internal readonly struct AlignedStore : IHostMemory
{
    public static bool Loads => false;
    public static bool Stores => true;
    public static bool Aligned => true;
    public static bool AlignedByVendor => false;
}

/// <summary>What a host-executed instruction does besides writing registers.</summary>
internal interface IHostEffect
{
    /// <summary>Writes arithmetic flags.</summary>
    static abstract bool Flags { get; }
    /// <summary>Depends on MXCSR and may raise floating-point exceptions.</summary>
    static abstract bool Float { get; }
    /// <summary>Puts the x87 state into MMX mode.</summary>
    static abstract bool Mmx { get; }
}

internal readonly struct Plain : IHostEffect
{
    public static bool Flags => false;
    public static bool Float => false;
    public static bool Mmx => false;
}

internal readonly struct SetsFlags : IHostEffect
{
    public static bool Flags => true;
    public static bool Float => false;
    public static bool Mmx => false;
}

internal readonly struct Floating : IHostEffect
{
    public static bool Flags => false;
    public static bool Float => true;
    public static bool Mmx => false;
}

internal readonly struct FloatingSetsFlags : IHostEffect
{
    public static bool Flags => true;
    public static bool Float => true;
    public static bool Mmx => false;
}

internal readonly struct MmxMode : IHostEffect
{
    public static bool Flags => false;
    public static bool Float => false;
    public static bool Mmx => true;
}

internal readonly struct FloatingMmx : IHostEffect
{
    public static bool Flags => false;
    public static bool Float => true;
    public static bool Mmx => true;
}

/// <summary>Handlers of instructions that a thunk executes. <typeparamref name="T"/> has the size of the memory operand.</summary>
internal static unsafe class Host<T, TMemory, TEffect> where T : unmanaged where TMemory : struct, IHostMemory where TEffect : struct, IHostEffect
{
    public static Insn* Run(Processor p, ProcessorState* s, Insn* i)
    {
        if (TEffect.Mmx) X87.CheckPending(p, s);
        byte* memory = null;
        ulong address = 0;
        if (TMemory.Loads || TMemory.Stores)
        {
            address = Access.Address(s, i);
            if (TMemory.Aligned && !(TMemory.AlignedByVendor && p.Model.Behavior.TakesUnalignedShaOperand)) Simd.CheckAlignment<T>(p, address);
            if (TMemory.Loads)
            {
                memory = Simd.ReadPointer<T>(p, s, address);
            }
            else
            {
                if (TEffect.Mmx) Simd.CheckWrite<T>(p, s, address);
                memory = s->Staging;
            }
        }
        if (TEffect.Mmx) X87.EnterMmx(s);
        if (TEffect.Float) Simd.RunFloat(p, s, i, memory);
        else i->Thunk(s, memory);
        if (TEffect.Flags) Flags.SetArithmetic(s, s->ThunkFlags);
        if (TMemory.Stores) Simd.Write(p, s, address, Unsafe.ReadUnaligned<T>(s->Staging));
        return i + 1;
    }
}

/// <summary>VCVTPS2PH to memory, the one store that computes. <typeparamref name="T"/> has the size of the memory operand.</summary>
internal static unsafe class HalfStore<T> where T : unmanaged
{
    public static Insn* Run(Processor p, ProcessorState* s, Insn* i)
    {
        bool convertsFirst = p.Model.Behavior.ConvertsToHalfBeforeStore;
        if (convertsFirst) Simd.RunFloat(p, s, i, s->Staging);
        ulong address = p.Segments.LinearAddress(Implicit.Segment(i), Access.EffectiveAddress(s, i), sizeof(T), AccessKind.Write);
        if (!convertsFirst)
        {
            Simd.CheckWrite<T>(p, s, address);
            Simd.RunFloat(p, s, i, s->Staging);
        }
        Simd.Write(p, s, address, Unsafe.ReadUnaligned<T>(s->Staging));
        return i + 1;
    }
}

/// <summary>Chooses the handler of a form.</summary>
internal static unsafe class HostHandlers
{
    public static Handler Register(ThunkForm form) => Effect<byte, NoAccess>(form, form.IsMmx);

    public static Handler Memory(ThunkForm form) => form.MemorySize switch
    {
        1 => Direction<byte>(form),
        2 => Direction<ushort>(form),
        4 => Direction<uint>(form),
        8 => Direction<ulong>(form),
        16 => Direction<Vector128<byte>>(form),
        32 => Direction<Vector256<byte>>(form),
        _ => throw new InvalidOperationException($"memory operand of {form.MemorySize} bytes"),
    };

    private static Handler Direction<T>(ThunkForm form) where T : unmanaged =>
        form.IsSha ? Effect<T, ShaLoad>(form, mmx: false)
        : form.IsStore ? form.Aligned ? Effect<T, AlignedStore>(form, form.IsMmxWithMemory) : Effect<T, Store>(form, form.IsMmxWithMemory)
        : form.Aligned ? Effect<T, AlignedLoad>(form, form.IsMmxWithMemory) : Effect<T, Load>(form, form.IsMmxWithMemory);

    private static Handler Effect<T, TMemory>(ThunkForm form, bool mmx) where T : unmanaged where TMemory : struct, IHostMemory =>
        (form.IsFloat, form.WritesFlags, mmx) switch
        {
            (false, false, false) => &Host<T, TMemory, Plain>.Run,
            (false, true, false) => &Host<T, TMemory, SetsFlags>.Run,
            (true, false, false) => &Host<T, TMemory, Floating>.Run,
            (true, true, false) => &Host<T, TMemory, FloatingSetsFlags>.Run,
            (false, false, true) => &Host<T, TMemory, MmxMode>.Run,
            (true, false, true) => &Host<T, TMemory, FloatingMmx>.Run,
            _ => throw new InvalidOperationException("an MMX instruction that writes flags"),
        };
}
