using System.ComponentModel;
using System.Runtime.InteropServices;

namespace Bunraku.Platform;

/// <summary>
/// Mappings that huge pages of the host fit into. Memory behind a descriptor gets them only when asked for them one by one (<see cref="Collapse"/>), since
/// hosts commonly have /sys/kernel/mm/transparent_hugepage/shmem_enabled at "never".
/// </summary>
internal static unsafe class HugePages
{
    /// <summary>Bytes of a huge page.</summary>
    public const ulong Size = 1ul << Shift;
    public const int Shift = 21;

    /// <summary>What was mapped: <paramref name="Reserved"/> and its length are to be given back, the memory begins at <paramref name="First"/>.</summary>
    public readonly record struct Mapping(nint Reserved, ulong ReservedLength, nint First);

    /// <summary>Maps <paramref name="length"/> bytes, a multiple of 4096, at a multiple of 2 MiB.</summary>
    /// <param name="flags">Of mmap.</param>
    /// <param name="descriptor">What is mapped from its beginning; -1 with MAP_ANONYMOUS.</param>
    /// <exception cref="Win32Exception">The host refuses; nothing is left mapped.</exception>
    public static Mapping Map(ulong length, int protection, int flags, int descriptor)
    {
        Mapping mapping = Reserve(length);
        if (Libc.Mmap((void*)mapping.First, (nuint)length, protection, flags | Libc.MapFixed, descriptor, 0) != Libc.MapFailed) return mapping;
        throw Failed(mapping);
    }

    /// <summary>Maps the memory behind a shared mapping once more, at another multiple of 2 MiB.</summary>
    /// <param name="first">The first mapping's first byte; it stays.</param>
    /// <exception cref="Win32Exception">The host refuses; nothing more is left mapped.</exception>
    /// <remarks>mremap(2): an old size of zero makes another mapping of the same pages of a shareable one.</remarks>
    public static Mapping MapAgain(nint first, ulong length, int protection)
    {
        Mapping mapping = Reserve(length);
        void* again = Libc.Mremap((void*)first, 0, (nuint)length, Libc.MremapMayMove | Libc.MremapFixed, (void*)mapping.First);
        if (again != Libc.MapFailed && Libc.Mprotect(again, (nuint)length, protection) == 0) return mapping;
        throw Failed(mapping);
    }

    private static Mapping Reserve(ulong length)
    {
        ulong reservedLength = length + Size;
        void* reserved = Libc.Mmap(null, (nuint)reservedLength, Libc.ProtNone, Libc.MapPrivate | Libc.MapAnonymous | Libc.MapNoReserve, -1, 0);
        if (reserved == Libc.MapFailed) throw new Win32Exception(Marshal.GetLastPInvokeError());
        return new Mapping((nint)reserved, reservedLength, (nint)(((ulong)reserved + Size - 1) & ~(Size - 1)));
    }

    private static Win32Exception Failed(Mapping mapping)
    {
        int error = Marshal.GetLastPInvokeError();
        Unmap(ref mapping);
        return new Win32Exception(error);
    }

    /// <summary>Gives back what <see cref="Map"/> has mapped; of nothing, nothing.</summary>
    public static void Unmap(ref Mapping mapping)
    {
        if (mapping.Reserved != 0) _ = Libc.Munmap((void*)mapping.Reserved, (nuint)mapping.ReservedLength);
        mapping = default;
    }

    /// <summary>
    /// Makes the 2 MiB around <paramref name="page"/> of a memory behind a descriptor one huge page, if the host can (madvise's MADV_COLLAPSE, since Linux
    /// 6.1); an older host says no, and nothing is lost. A host page must be there already.
    /// </summary>
    public static void Collapse(byte* page) => _ = Libc.Madvise((byte*)((ulong)page & ~(Size - 1)), (nuint)Size, Libc.AdviceCollapse);
}
