using System.Buffers.Binary;
using System.ComponentModel;
using System.Runtime.InteropServices;

namespace Bunraku.Platform;

/// <summary>
/// A guest's RAM: zero-filled memory in huge pages where the host has them. They spare misses of the host's TLB, of which software that walks a guest's memory
/// has as many as the guest. Shared memory lies behind a descriptor, so that a page of it can be seen at a second address as well
/// (<see cref="AddressWindow"/>); its huge pages must be asked for one by one (<see cref="Enlarge"/>), since hosts commonly have
/// /sys/kernel/mm/transparent_hugepage/shmem_enabled at "never".
/// </summary>
/// <remarks>
/// Invariant: <see cref="HostMapping.Pointer"/> addresses exactly <see cref="Length"/> bytes until <see cref="HostMapping.Dispose"/>.
/// Pages take host memory only once touched.
/// </remarks>
public sealed unsafe class RamBacking : HostMapping
{
    /// <summary>Bytes of a huge page.</summary>
    public const ulong HugePage = 1ul << HugeShift;
    private const int HugeShift = 21, PageShift = 12;

    /// <summary>Not 0 for each huge page that was asked for.</summary>
    private readonly byte[] _enlarged;

    /// <summary>Maps <paramref name="length"/> bytes (rounded up to 4 KiB), aligned to 2 MiB.</summary>
    /// <param name="shared">Pages can be seen at a second address.</param>
    /// <exception cref="Win32Exception">The host refuses: no address space, no descriptors.</exception>
    public RamBacking(ulong length, bool shared)
    {
        Length = (length + 0xFFF) & ~0xFFFul;
        _enlarged = new byte[(Length + HugePage - 1) >> HugeShift];
        ulong reservedLength = Length + HugePage;
        const int noMemory = Libc.MapPrivate | Libc.MapAnonymous | Libc.MapNoReserve, rights = Libc.ProtRead | Libc.ProtWrite;
        void* reserved = Libc.Mmap(null, (nuint)reservedLength, Libc.ProtNone, noMemory, -1, 0);
        if (reserved == Libc.MapFailed) throw Failed();
        Own(reserved, reservedLength, (byte*)(((ulong)reserved + HugePage - 1) & ~(HugePage - 1)));
        if (shared)
        {
            Descriptor = Libc.MemfdCreate("guest-ram", Libc.MemfdCloseOnExec);
            if (Descriptor < 0 || Libc.Ftruncate(Descriptor, (long)Length) != 0) throw Failed();
        }
        if (Libc.Mmap(Pointer, (nuint)Length, rights, Libc.MapFixed | (shared ? Libc.MapShared : noMemory), Descriptor, 0) == Libc.MapFailed) throw Failed();
        // A host without huge pages says no, and nothing is lost.
        _ = Libc.Madvise(Pointer, (nuint)Length, Libc.AdviceHugePage);

        Win32Exception Failed()
        {
            var error = new Win32Exception(Marshal.GetLastPInvokeError());
            Dispose();
            return error;
        }
    }

    /// <summary>Size in bytes, a multiple of 4096.</summary>
    public ulong Length { get; }

    /// <summary>Pages can be seen at a second address.</summary>
    public bool IsShared => Descriptor >= 0;

    internal int Descriptor { get; private set; } = -1;

    /// <summary>
    /// The memory around <paramref name="page"/>, which lies inside, is in use: if shared, it becomes a huge page where the host can make one. From the second
    /// time on this costs next to nothing. Any thread. (madvise's MADV_COLLAPSE, since Linux 6.1; an older host says no, and nothing is lost.)
    /// </summary>
    public void Enlarge(byte* page)
    {
        ref byte enlarged = ref _enlarged[(ulong)(page - Pointer) >> HugeShift];
        if (enlarged != 0) return;
        enlarged = 1;
        if (!IsShared) return;
        // Only what has a page already can be made a larger one.
        _ = Volatile.Read(ref *page);
        _ = Libc.Madvise((byte*)((ulong)page & ~(HugePage - 1)), (nuint)HugePage, Libc.AdviceCollapse);
    }

    /// <summary>Ranges that take host memory or swap, by offset; all other bytes are zero, and to read them would take memory for them.</summary>
    /// <exception cref="IOException">/proc/self/pagemap cannot be read.</exception>
    /// <exception cref="Win32Exception">The host does not tell.</exception>
    public IReadOnlyList<(ulong Offset, ulong Length)> Allocated() => IsShared ? AllocatedInFile() : AllocatedInProcess();

    private List<(ulong Offset, ulong Length)> AllocatedInFile()
    {
        var ranges = new List<(ulong, ulong)>();
        for (long offset = 0; (ulong)offset < Length;)
        {
            long start = Libc.Lseek(Descriptor, offset, Libc.SeekData);
            if (start < 0 && Marshal.GetLastPInvokeError() == Libc.NoSuchAddress) break;
            long end = start < 0 ? -1 : Libc.Lseek(Descriptor, start, Libc.SeekHole);
            if (end < 0) throw new Win32Exception(Marshal.GetLastPInvokeError());
            ranges.Add(((ulong)start, (ulong)(end - start)));
            offset = end;
        }
        return ranges;
    }

    /// <summary>By the kernel's Documentation/admin-guide/mm/pagemap.rst: bits 63 and 62 of a page's word.</summary>
    private List<(ulong Offset, ulong Length)> AllocatedInProcess()
    {
        var ranges = new List<(ulong, ulong)>();
        using var map = new FileStream("/proc/self/pagemap", FileMode.Open, FileAccess.Read, FileShare.ReadWrite, bufferSize: 0);
        map.Position = (long)((ulong)Pointer >> PageShift) * sizeof(ulong);
        byte[] words = new byte[512 * sizeof(ulong)];
        ulong start = 0;
        bool inside = false;
        for (ulong offset = 0; offset < Length;)
        {
            int pages = (int)Math.Min((Length - offset) >> PageShift, 512);
            map.ReadExactly(words, 0, pages * sizeof(ulong));
            for (int n = 0; n < pages; n++, offset += 1ul << PageShift)
            {
                bool there = BinaryPrimitives.ReadUInt64LittleEndian(words.AsSpan(n * sizeof(ulong))) >> 62 != 0;
                if (there == inside) continue;
                if (inside) ranges.Add((start, offset - start));
                (start, inside) = (offset, there);
            }
        }
        if (inside) ranges.Add((start, Length - start));
        return ranges;
    }

    private protected override void Release()
    {
        base.Release();
        if (IsShared) _ = Libc.Close(Descriptor);
        Descriptor = -1;
    }
}
