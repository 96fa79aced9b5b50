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
        ulong reservedLength = length + Size;
        void* reserved = Libc.Mmap(null, (nuint)reservedLength, Libc.ProtNone, Libc.MapPrivate | Libc.MapAnonymous | Libc.MapNoReserve, -1, 0);
        if (reserved == Libc.MapFailed) throw new Win32Exception(Marshal.GetLastPInvokeError());
        void* first = (void*)(((ulong)reserved + Size - 1) & ~(Size - 1));
        if (Libc.Mmap(first, (nuint)length, protection, flags | Libc.MapFixed, descriptor, 0) == Libc.MapFailed)
        {
            int error = Marshal.GetLastPInvokeError();
            _ = Libc.Munmap(reserved, (nuint)reservedLength);
            throw new Win32Exception(error);
        }
        return new Mapping((nint)reserved, reservedLength, (nint)first);
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
