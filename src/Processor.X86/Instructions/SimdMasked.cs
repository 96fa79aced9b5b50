using System.Numerics;
using System.Runtime.Intrinsics;

namespace Bunraku.Processor.X86;

/// <summary>
/// VMASKMOVPS, VMASKMOVPD, VPMASKMOVD, VPMASKMOVQ: <typeparamref name="T"/> is the element, <typeparamref name="TVector"/> has the vector's size.
/// Only elements whose mask has its sign bit set are accessed or can fault.
/// </summary>
internal static unsafe class MaskedMove<T, TVector> where T : unmanaged, IBinaryInteger<T>, ISignedNumber<T> where TVector : unmanaged
{
    private static int Count => sizeof(TVector) / sizeof(T);

    public static Insn* Load(Processor p, ProcessorState* s, Insn* i)
    {
        T* mask = (T*)((byte*)s + i->R1);
        TVector result = default;
        ulong* addresses = stackalloc ulong[32 / sizeof(T)];
        Addresses(p, s, i, mask, AccessKind.Read, addresses);
        for (int n = 0; n < Count; n++)
            if (T.IsNegative(mask[n])) ((T*)&result)[n] = Access.Read<T>(p, s, addresses[n]);
        Register.Set(s, i->R0, Vector256<byte>.Zero);
        *(TVector*)((byte*)s + i->R0) = result;
        return i + 1;
    }

    public static Insn* Store(Processor p, ProcessorState* s, Insn* i)
    {
        T* mask = (T*)((byte*)s + i->R0), source = (T*)((byte*)s + i->R1);
        ulong* addresses = stackalloc ulong[32 / sizeof(T)];
        Addresses(p, s, i, mask, AccessKind.Write, addresses);
        for (int n = 0; n < Count; n++)
            if (T.IsNegative(mask[n])) Simd.CheckWrite<T>(p, s, addresses[n]);
        for (int n = 0; n < Count; n++)
            if (T.IsNegative(mask[n])) Access.Write(p, s, addresses[n], source[n]);
        return i + 1;
    }

    /// <summary>
    /// Linear addresses of the elements to be accessed. What segmentation or canonicality says of any of them comes before the page faults of the others.
    /// </summary>
    private static void Addresses(Processor p, ProcessorState* s, Insn* i, T* mask, AccessKind kind, ulong* addresses)
    {
        ulong start = Access.EffectiveAddress(s, i);
        for (int n = 0; n < Count; n++)
            if (T.IsNegative(mask[n])) addresses[n] = p.Segments.LinearAddress(Implicit.Segment(i), start + (ulong)(n * sizeof(T)), sizeof(T), kind);
    }
}

/// <summary>MASKMOVDQU and MASKMOVQ: bytes with a set mask bit 7 go to [rDI].</summary>
internal static unsafe class MaskedBytes
{
    public static Insn* Maskmovdqu(Processor p, ProcessorState* s, Insn* i)
    {
        Store(p, s, i, (byte*)s + i->R0, (byte*)s + i->R1, 16);
        return i + 1;
    }

    public static Insn* Maskmovq(Processor p, ProcessorState* s, Insn* i)
    {
        X87.CheckPending(p, s);
        // The operands are MMX registers, where they lie once the top of stack is 0.
        int top = X87.Top(s);
        byte* data = X87.St(s, (i->R0 - top) & 7), mask = X87.St(s, (i->R1 - top) & 7);
        Store(p, s, i, data, mask, 8);
        X87.EnterMmx(s);
        return i + 1;
    }

    private static void Store(Processor p, ProcessorState* s, Insn* i, byte* data, byte* mask, int count)
    {
        Seg segment = (Seg)((int)(i->Flags & InsnFlags.SegmentMask) >> 9);
        ulong* addresses = stackalloc ulong[16];
        for (int n = 0; n < count; n++)
        {
            if ((sbyte)mask[n] >= 0) continue;
            addresses[n] = p.Segments.LinearAddress(segment, (s->Rdi + (ulong)n) & i->AddressMask, 1, AccessKind.Write);
        }
        for (int n = 0; n < count; n++)
            if ((sbyte)mask[n] < 0) Simd.CheckWrite<byte>(p, s, addresses[n]);
        for (int n = 0; n < count; n++)
            if ((sbyte)mask[n] < 0) Access.Write(p, s, addresses[n], data[n]);
    }
}

/// <summary>What a gather's handler needs beside the operands, packed in <see cref="Insn.Extra"/> by <see cref="Thunks.Prepare"/>.</summary>
/// <param name="Index">Offset of the vector index register.</param>
/// <param name="Scale">log2 of the index scale.</param>
/// <param name="Count">Elements.</param>
internal readonly record struct GatherOperands(int Index, int Scale, int Count)
{
    public ulong Packed => (ulong)(uint)Index | (ulong)Scale << 16 | (ulong)Count << 24;

    public static GatherOperands Unpack(ulong value) => new((ushort)value, (byte)(value >> 16), (byte)(value >> 24));
}

/// <summary>AVX2 gathers: <typeparamref name="TIndex"/> is int or long, <typeparamref name="T"/> the element.</summary>
/// <remarks>
/// Elements are read from the lowest up; on a fault those before it are done and have their mask cleared, as the manual allows and processors do.
/// </remarks>
internal static unsafe class Gather<TIndex, T> where TIndex : unmanaged, IBinaryInteger<TIndex> where T : unmanaged, IBinaryInteger<T>, ISignedNumber<T>
{
    public static Insn* Run(Processor p, ProcessorState* s, Insn* i)
    {
        GatherOperands g = GatherOperands.Unpack(i->Extra);
        Seg segment = (Seg)((int)(i->Flags & InsnFlags.SegmentMask) >> 9);
        TIndex* index = (TIndex*)((byte*)s + g.Index);
        T* destination = (T*)((byte*)s + i->R0), mask = (T*)((byte*)s + i->R1);
        ulong start = Access.EffectiveAddress(s, i);
        for (int n = 0; n < g.Count; n++)
        {
            if (T.IsNegative(mask[n]))
            {
                ulong offset = (start + ((ulong)long.CreateTruncating(index[n]) << g.Scale)) & i->AddressMask;
                destination[n] = Access.Read<T>(p, s, p.Segments.LinearAddress(segment, offset, sizeof(T), AccessKind.Read));
            }
            mask[n] = T.Zero; // of elements passed over as well
        }
        for (int n = g.Count; n < 32 / sizeof(T); n++) destination[n] = T.Zero;
        Register.Set(s, i->R1, Vector256<byte>.Zero);
        return i + 1;
    }
}
