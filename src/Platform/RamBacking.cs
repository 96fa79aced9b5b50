using System.Buffers.Binary;
using System.ComponentModel;
using System.Runtime.ExceptionServices;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Bunraku.Platform;

/// <summary>A piece of memory that a file holds.</summary>
/// <param name="Offset">Where it lies in the memory.</param>
/// <param name="Length">Bytes.</param>
/// <param name="Position">Where it begins in the file.</param>
public readonly record struct FileRange(ulong Offset, ulong Length, long Position);

/// <summary>
/// A guest's RAM: zero-filled memory in huge pages where the host has them. They spare misses of the host's TLB, of which software that walks a guest's memory
/// has as many as the guest. Shared memory lies behind a descriptor, so that a page of it can be seen at a second address as well
/// (<see cref="AddressWindow"/>); its huge pages must be asked for one by one (<see cref="Enlarge"/>).
/// </summary>
/// <remarks>
/// Invariant: <see cref="HostMapping.Pointer"/> addresses exactly <see cref="Length"/> bytes until <see cref="HostMapping.Dispose"/>.
/// Pages take host memory only once touched.
/// </remarks>
public sealed unsafe class RamBacking : HostMapping
{
    /// <summary>Bytes of a huge page.</summary>
    public const ulong HugePage = HugePages.Size;
    private const int PageShift = 12;
    /// <summary>What shared memory is called in lists of the host.</summary>
    private const string SharedName = "guest-ram";

    /// <summary>Not 0 for each huge page that was asked for.</summary>
    private readonly byte[] _enlarged;
    /// <summary>What a file stands behind until it is written to, by offset. Guarded by the lock: <see cref="Forget"/> takes pieces out.</summary>
    private readonly List<FileRange> _loaded = [];
    private readonly Lock _forgetLock = new();
    private int _mostLoaded;

    /// <summary>Maps <paramref name="length"/> bytes (rounded up to 4 KiB), aligned to 2 MiB.</summary>
    /// <param name="shared">Pages can be seen at a second address.</param>
    /// <exception cref="Win32Exception">The host refuses: no address space, no descriptors.</exception>
    public RamBacking(ulong length, bool shared)
    {
        Length = (length + 0xFFF) & ~0xFFFul;
        _enlarged = new byte[(Length + HugePage - 1) >> HugePages.Shift];
        if (shared)
        {
            Descriptor = Libc.MemfdCreate(SharedName, Libc.MemfdCloseOnExec);
            if (Descriptor < 0 || Libc.Ftruncate(Descriptor, (long)Length) != 0) throw Failed(new Win32Exception(Marshal.GetLastPInvokeError()));
        }
        try
        {
            const int noMemory = Libc.MapPrivate | Libc.MapAnonymous | Libc.MapNoReserve;
            HugePages.Mapping made = HugePages.Map(Length, Libc.ProtRead | Libc.ProtWrite, shared ? Libc.MapShared : noMemory, Descriptor);
            Own((void*)made.Reserved, made.ReservedLength, (byte*)made.First);
        }
        catch (Win32Exception e)
        {
            throw Failed(e);
        }
        // A host without huge pages says no, and nothing is lost.
        _ = Libc.Madvise(Pointer, (nuint)Length, Libc.AdviceHugePage);

        Win32Exception Failed(Win32Exception error)
        {
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
    /// time on this costs next to nothing. Any thread.
    /// </summary>
    public void Enlarge(byte* page)
    {
        ref byte enlarged = ref _enlarged[(ulong)(page - Pointer) >> HugePages.Shift];
        if (enlarged != 0) return;
        enlarged = 1;
        if (!IsShared) return;
        // Only what has a page already can be made a larger one.
        _ = Volatile.Read(ref *page);
        HugePages.Collapse(page);
    }

    /// <summary>
    /// Makes the memory what a file says: what lies in no range is zero. Memory that is not shared shows the file's pages from then on, and a page is read when
    /// it is touched, and copied when it is written to; so the file must stay as it is for as long as this lives (it can be unlinked). Shared memory is read
    /// in. Nobody uses the memory meanwhile.
    /// </summary>
    /// <param name="file">To be read. Can be closed afterwards.</param>
    /// <param name="ranges">By ascending offset, made of pages of 4096 bytes at positions that are multiples of that, none in another, each inside.</param>
    /// <exception cref="ArgumentException">The ranges are not like that.</exception>
    /// <exception cref="Win32Exception">The host refuses; what the memory holds is not defined then.</exception>
    /// <exception cref="IOException">The file cannot be read, or is too short.</exception>
    public void Load(SafeFileHandle file, IReadOnlyList<FileRange> ranges)
    {
        const ulong inPage = (1ul << PageShift) - 1;
        ulong end = 0;
        foreach (FileRange range in ranges)
        {
            if (range.Length == 0 || ((range.Offset | range.Length | (ulong)range.Position) & inPage) != 0 || range.Position < 0 || range.Offset < end
                || range.Offset > Length || range.Length > Length - range.Offset)
                throw new ArgumentException($"the range of {range.Length:X} bytes at {range.Offset:X} is not inside, not in order, or not made of pages",
                    nameof(ranges));
            end = range.Offset + range.Length;
        }
        if (IsShared)
        {
            if (Libc.Ftruncate(Descriptor, 0) != 0 || Libc.Ftruncate(Descriptor, (long)Length) != 0)
                throw new Win32Exception(Marshal.GetLastPInvokeError());
            foreach (FileRange range in ranges) ReadIn(file, range);
            return;
        }
        const int noMemory = Libc.MapPrivate | Libc.MapAnonymous | Libc.MapNoReserve | Libc.MapFixed;
        Require(Libc.Mmap(Pointer, (nuint)Length, Libc.ProtRead | Libc.ProtWrite, noMemory, -1, 0));
        _ = Libc.Madvise(Pointer, (nuint)Length, Libc.AdviceHugePage);
        bool held = false;
        try
        {
            file.DangerousAddRef(ref held);
            foreach (FileRange range in ranges)
                Require(Libc.Mmap(Pointer + range.Offset, (nuint)range.Length, Libc.ProtRead | Libc.ProtWrite,
                    Libc.MapPrivate | Libc.MapNoReserve | Libc.MapFixed, (int)file.DangerousGetHandle(), range.Position));
        }
        finally
        {
            if (held) file.DangerousRelease();
        }
        lock (_forgetLock)
        {
            _loaded.Clear();
            _loaded.AddRange(ranges);
            _mostLoaded = ranges.Count + MostCuts;
        }

        static void Require(void* mapped)
        {
            if (mapped == Libc.MapFailed) throw new Win32Exception(Marshal.GetLastPInvokeError());
        }
    }

    /// <summary>
    /// Makes the memory shared where it was not, at the same address and with what it holds. Nobody uses it meanwhile. No-op if it is shared.
    /// </summary>
    /// <exception cref="Win32Exception">The host refuses; the memory is as it was.</exception>
    /// <exception cref="IOException">Likewise: no room, or the file behind the memory cannot be read.</exception>
    public void Share()
    {
        if (IsShared) return;
        int descriptor = Libc.MemfdCreate(SharedName, Libc.MemfdCloseOnExec);
        if (descriptor < 0) throw new Win32Exception(Marshal.GetLastPInvokeError());
        try
        {
            if (Libc.Ftruncate(descriptor, (long)Length) != 0) throw new Win32Exception(Marshal.GetLastPInvokeError());
            using var file = new SafeFileHandle(descriptor, ownsHandle: false);
            Parallel.ForEach(Pieces(Allocated()), piece =>
                RandomAccess.Write(file, new ReadOnlySpan<byte>(Pointer + piece.Offset, (int)piece.Length), (long)piece.Offset));
            if (Libc.Mmap(Pointer, (nuint)Length, Libc.ProtRead | Libc.ProtWrite, Libc.MapShared | Libc.MapFixed, descriptor, 0) == Libc.MapFailed)
                throw new Win32Exception(Marshal.GetLastPInvokeError());
        }
        catch (Exception e)
        {
            _ = Libc.Close(descriptor);
            // One piece's failure says enough.
            if (e is AggregateException { InnerException: { } inner }) ExceptionDispatchInfo.Throw(inner);
            throw;
        }
        _ = Libc.Madvise(Pointer, (nuint)Length, Libc.AdviceHugePage);
        _enlarged.AsSpan().Clear();
        Descriptor = descriptor;
        lock (_forgetLock) _loaded.Clear();

        static IEnumerable<(ulong Offset, ulong Length)> Pieces(IEnumerable<(ulong Offset, ulong Length)> ranges)
        {
            const ulong most = 4 << 20;
            foreach ((ulong offset, ulong length) in ranges)
                for (ulong done = 0; done < length; done += most) yield return (offset + done, Math.Min(most, length - done));
        }
    }

    /// <summary>
    /// Gives the host back what a range takes: all of it is zero then, and takes memory again where it is touched. Where the host refuses, it is zero all the
    /// same. Any thread; who uses the range meanwhile finds either.
    /// </summary>
    /// <param name="offset">A multiple of 4096.</param>
    /// <param name="length">Likewise, with <paramref name="offset"/> at most <see cref="Length"/>.</param>
    public void Forget(ulong offset, ulong length)
    {
        const ulong inPage = (1ul << PageShift) - 1;
        if (((offset | length) & inPage) != 0 || offset > Length || length > Length - offset) throw new ArgumentOutOfRangeException(nameof(offset));
        lock (_forgetLock)
        {
            if (IsShared)
            {
                // A huge page with a hole must not be made one again, which would fill the hole; one that is gone begins anew.
                for (ulong page = offset >> HugePages.Shift; page <= (offset + length - 1) >> HugePages.Shift; page++)
                {
                    ulong start = page << HugePages.Shift;
                    _enlarged[page] = offset <= start && offset + length >= Math.Min(start + HugePage, Length) ? (byte)0 : (byte)1;
                }
                if (Libc.Fallocate(Descriptor, Libc.PunchHole | Libc.KeepSize, (long)offset, (long)length) == 0) return;
            }
            else if (FirstLoaded(offset) is { } first && (first == _loaded.Count || _loaded[first].Offset >= offset + length))
            {
                if (Libc.Madvise(Pointer + offset, (nuint)length, Libc.AdviceDontNeed) == 0) return;
            }
            else if (_loaded.Count < _mostLoaded)
            {
                // The file's contents would come back: other memory comes in its place, in one step for all who use it.
                const int noMemory = Libc.MapPrivate | Libc.MapAnonymous | Libc.MapNoReserve | Libc.MapFixed;
                if (Libc.Mmap(Pointer + offset, (nuint)length, Libc.ProtRead | Libc.ProtWrite, noMemory, -1, 0) != Libc.MapFailed)
                {
                    TakeOut(first, offset, offset + length);
                    return;
                }
            }
            for (ulong done = 0; done < length; done += 1 << PageShift) new Span<byte>(Pointer + offset + done, 1 << PageShift).Clear();
        }
    }

    /// <summary>
    /// So many more ranges than were loaded may there be. Each is a mapping, and what is between two is another one: Linux gives a process 65530 for all of
    /// its memories, and for all else.
    /// </summary>
    private const int MostCuts = 4096;

    /// <summary>Number of the first loaded range that ends behind an offset; their count: there is none.</summary>
    private int FirstLoaded(ulong offset)
    {
        int low = 0, high = _loaded.Count;
        while (low < high)
        {
            int middle = low + high >>> 1;
            if (_loaded[middle].Offset + _loaded[middle].Length > offset) high = middle;
            else low = middle + 1;
        }
        return low;
    }

    /// <summary>No file stands behind a range any more.</summary>
    /// <param name="first">The first loaded range that ends behind <paramref name="from"/>, which begins before <paramref name="to"/>.</param>
    private void TakeOut(int first, ulong from, ulong to)
    {
        int end = first;
        while (end < _loaded.Count && _loaded[end].Offset < to) end++;
        (FileRange head, FileRange tail) = (_loaded[first], _loaded[end - 1]);
        _loaded.RemoveRange(first, end - first);
        ulong tailEnd = tail.Offset + tail.Length;
        if (tailEnd > to) _loaded.Insert(first, new FileRange(to, tailEnd - to, tail.Position + (long)(to - tail.Offset)));
        if (head.Offset < from) _loaded.Insert(first, head with { Length = from - head.Offset });
    }

    private void ReadIn(SafeFileHandle file, FileRange range)
    {
        const ulong most = 1 << 30;
        for (ulong done = 0; done < range.Length;)
        {
            var piece = new Span<byte>(Pointer + range.Offset + done, (int)Math.Min(most, range.Length - done));
            if (HostFile.Read(file, piece, range.Position + (long)done) < piece.Length) throw new EndOfStreamException("the file ends too early");
            done += (ulong)piece.Length;
        }
    }

    /// <summary>
    /// Ranges that take host memory or swap, or that a file stands behind (<see cref="Load"/>), by offset; all other bytes are zero, and to read them would
    /// take memory for them.
    /// </summary>
    /// <exception cref="IOException">/proc/self/pagemap cannot be read.</exception>
    /// <exception cref="Win32Exception">The host does not tell.</exception>
    public IReadOnlyList<(ulong Offset, ulong Length)> Allocated()
    {
        if (IsShared) return AllocatedInFile();
        List<(ulong Offset, ulong Length)> touched = AllocatedInProcess();
        FileRange[] loaded;
        lock (_forgetLock) loaded = [.. _loaded];
        if (loaded.Length == 0) return touched;
        var all = new List<(ulong Offset, ulong Length)>();
        foreach ((ulong offset, ulong length) in touched.Concat(loaded.Select(r => (r.Offset, r.Length))).OrderBy(r => r.Offset))
        {
            ulong last = all.Count == 0 ? 0 : all[^1].Offset + all[^1].Length;
            if (all.Count == 0 || offset > last) all.Add((offset, length));
            else if (offset + length > last) all[^1] = (all[^1].Offset, offset + length - all[^1].Offset);
        }
        return all;
    }

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
