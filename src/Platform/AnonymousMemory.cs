using System.Buffers.Binary;
using System.ComponentModel;
using System.Runtime.InteropServices;

namespace Bunraku.Platform;

/// <summary>
/// Zero-filled private memory, readable and writable, in huge pages where the host gives them on request: a guest's RAM. Huge pages spare misses of the
/// host's TLB, of which software that walks a guest's memory has as many as the guest, and page faults. (Memory behind a descriptor would not get them:
/// hosts commonly have /sys/kernel/mm/transparent_hugepage/shmem_enabled at "never".)
/// </summary>
/// <remarks>
/// Invariant: <see cref="Pointer"/> addresses exactly <see cref="Length"/> bytes until <see cref="Dispose"/>.
/// Pages take host memory only once touched.
/// </remarks>
public sealed unsafe class AnonymousMemory : IDisposable
{
    private const ulong HugePage = 1ul << 21;
    private const int PageShift = 12;

    private readonly void* _mapping;
    private readonly ulong _mappingLength;

    /// <summary>Maps <paramref name="length"/> bytes (rounded up to 4 KiB), aligned to 2 MiB.</summary>
    /// <exception cref="Win32Exception">The host refuses: no address space.</exception>
    public AnonymousMemory(ulong length)
    {
        Length = (length + 0xFFF) & ~0xFFFul;
        _mappingLength = Length + HugePage;
        _mapping = Libc.Mmap(null, (nuint)_mappingLength, Libc.ProtRead | Libc.ProtWrite, Libc.MapPrivate | Libc.MapAnonymous | Libc.MapNoReserve, -1, 0);
        if (_mapping == Libc.MapFailed)
        {
            GC.SuppressFinalize(this);
            throw new Win32Exception(Marshal.GetLastPInvokeError());
        }
        Pointer = (byte*)(((ulong)_mapping + HugePage - 1) & ~(HugePage - 1));
        // A host without huge pages says no, and nothing is lost.
        _ = Libc.Madvise(Pointer, (nuint)Length, Libc.AdviceHugePage);
    }

    ~AnonymousMemory() => Release();

    /// <summary>First byte; null after disposal.</summary>
    public byte* Pointer { get; private set; }

    /// <summary>Size in bytes, a multiple of 4096.</summary>
    public ulong Length { get; }

    /// <summary>
    /// Ranges that take host memory or swap, by offset; all other bytes are zero, and to read them would take memory for them. By the kernel's
    /// Documentation/admin-guide/mm/pagemap.rst: bits 63 and 62 of a page's word.
    /// </summary>
    /// <exception cref="IOException">/proc/self/pagemap cannot be read.</exception>
    public IReadOnlyList<(ulong Offset, ulong Length)> Allocated()
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

    public void Dispose()
    {
        Release();
        GC.SuppressFinalize(this);
    }

    private void Release()
    {
        if (Pointer != null) _ = Libc.Munmap(_mapping, (nuint)_mappingLength);
        Pointer = null;
    }
}
