using System.Runtime.CompilerServices;

namespace Bunraku.Processor.X86;

/// <summary>10 bytes: m80fp, m80bcd.</summary>
[InlineArray(10)]
internal struct Bytes10
{
    private byte _first;
}

/// <summary>Handlers of x87 instructions that a thunk executes; <typeparamref name="T"/> has the size of the memory operand.</summary>
internal static unsafe class X87Host<T, TMemory, TEffect> where T : unmanaged where TMemory : struct, IHostMemory where TEffect : struct, IHostEffect
{
    public static Insn* Run(Processor p, ProcessorState* s, Insn* i)
    {
        X87.CheckPending(p, s);
        ulong address = 0, offset = 0, data = X87.DataPointer(s);
        if (TMemory.Loads || TMemory.Stores)
        {
            address = Access.Address(s, i);
            offset = X87.DataOffset(s, i, address);
            // An unmasked exception may leave the destination alone, so that what is written back must be what was there.
            if (TMemory.Stores) Simd.CheckWrite<T>(p, s, address);
            Unsafe.WriteUnaligned(s->Staging, Simd.Read<T>(p, s, address));
        }
        if (TEffect.Flags) s->ThunkFlags = Flags.Get(s) & (uint)Rflags.Arithmetic;
        if (X87.IsPending(s)) X87.RunPending(s, i);
        else i->Thunk(s, s->Staging);
        if (TEffect.Flags) Flags.SetArithmetic(s, s->ThunkFlags);
        X87.SetPointers(s, i);
        X87.DataPointer(s) = data;
        if (TMemory.Loads || TMemory.Stores) X87.SetDataPointer(s, i, offset);
        if (TMemory.Stores) Simd.Write(p, s, address, Unsafe.ReadUnaligned<T>(s->Staging));
        return i + 1;
    }
}

/// <summary>Chooses the handler of an x87 form.</summary>
internal static unsafe class X87Handlers
{
    public static Handler Register(ThunkForm form) =>
        form.WritesFlags || form.ReadsFlags ? &X87Host<byte, NoAccess, SetsFlags>.Run : &X87Host<byte, NoAccess, Plain>.Run;

    public static Handler Memory(ThunkForm form) => form.MemorySize switch
    {
        2 => Direction<ushort>(form),
        4 => Direction<uint>(form),
        8 => Direction<ulong>(form),
        10 => Direction<Bytes10>(form),
        _ => throw new InvalidOperationException($"x87 memory operand of {form.MemorySize} bytes"),
    };

    private static Handler Direction<T>(ThunkForm form) where T : unmanaged =>
        form.IsStore ? &X87Host<T, Store, Plain>.Run : &X87Host<T, Load, Plain>.Run;
}
