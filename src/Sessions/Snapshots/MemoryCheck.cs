using System.ComponentModel;
using Bunraku.Platform;
using Microsoft.Win32.SafeHandles;

namespace Bunraku.Sessions.Snapshots;

/// <summary>
/// Compares the memory of a snapshot that is mapped with its checksums while the guest runs: each piece before the guest or a device uses it for the first
/// time, the rest on threads beside. So the guest never sees what was not written.
/// </summary>
/// <remarks>
/// The file is read, not the memory, which the guest may have changed by then. A file that changes afterwards is as one that changes behind any mapping:
/// docs/snapshots.md asks for it to stay as it is.
/// </remarks>
internal sealed class MemoryCheck : IContentCheck, IDisposable
{
    private const int MostWorkers = 4, Nicest = 19;
    private const byte Good = 1, Bad = 2; // 0: nobody has looked

    private readonly GuestMemory _memory;
    private readonly SafeFileHandle _file;
    private readonly SnapshotRange[] _ranges; // by offset, none in another
    private readonly ulong[] _checksums;
    private readonly long _end; // of the memory in the file
    private readonly byte[] _chunks; // what is known of each
    private readonly Action<string> _damaged;
    private Thread[] _workers = [];
    private int _next = -1, _left; // chunks: the last one that a worker has taken; those that nobody has looked at
    private volatile bool _stops;
    private string? _damage;

    /// <param name="memory">Where the file is mapped. Who asks it for pages finds this from here on.</param>
    /// <param name="file">Is this object's from here on.</param>
    /// <param name="end">Where the memory ends in the file.</param>
    /// <param name="damaged">See <see cref="SnapshotFile.VerifyLater"/>.</param>
    public MemoryCheck(GuestMemory memory, SafeFileHandle file, SnapshotManifest manifest, long end, Action<string> damaged)
    {
        _damaged = damaged;
        (_memory, _file, _ranges, _checksums, _end) = (memory, file, manifest.Memory, manifest.Checksums, end);
        _chunks = new byte[_checksums.Length];
        _left = _chunks.Length;
        if (_left > 0) memory.CheckBeforeUse(this);
        // Firmware and the picture of a display are looked at by devices that ask nobody.
        foreach (MemoryRegion r in memory.InitialRegions)
        {
            if (r.IsReadOnly || r.IsDevice) _ = IsGood(r.Offset, r.Length);
        }
    }

    /// <summary>What is wrong, once something is: the end of a line.</summary>
    public string? Damage => Volatile.Read(ref _damage);

    /// <summary>Looks at all of it from now on. Once; who makes the VM needs the processors before.</summary>
    public void Begin()
    {
        _workers = new Thread[Math.Clamp(Environment.ProcessorCount - 1, 1, MostWorkers)]; // one processor is left to the guest
        for (int n = 0; n < _workers.Length; n++)
        {
            _workers[n] = new Thread(WorkBeside) { IsBackground = true, Name = "memory-check" };
            _workers[n].Start();
        }
    }

    /// <summary>The guest goes before: what its vCPUs need, they look at themselves.</summary>
    private void WorkBeside()
    {
        try
        {
            HostScheduling.SetNice(Nicest);
        }
        catch (Win32Exception)
        {
            // Then it takes its share.
        }
        Work();
    }

    private void Work()
    {
        for (int n; !_stops && (n = Interlocked.Increment(ref _next)) < _chunks.Length && IsGood(n);) { }
    }

    /// <inheritdoc/>
    public bool Complete()
    {
        Work();
        for (int n = 0; n < _chunks.Length; n++) // those that others are at
        {
            if (!IsGood(n)) return false;
        }
        return true;
    }

    /// <inheritdoc/>
    public bool IsGood(ulong offset, ulong length)
    {
        int low = 0, high = _ranges.Length;
        while (low < high)
        {
            int middle = (low + high) / 2;
            if (_ranges[middle].Offset + _ranges[middle].Length <= offset) low = middle + 1;
            else high = middle;
        }
        for (; low < _ranges.Length && _ranges[low].Offset < offset + length; low++)
        {
            SnapshotRange r = _ranges[low];
            ulong from = Math.Max(r.Offset, offset), to = Math.Min(r.Offset + r.Length, offset + length);
            long first = r.Position + (long)(from - r.Offset) - SnapshotFile.FirstPage, last = r.Position + (long)(to - 1 - r.Offset) - SnapshotFile.FirstPage;
            for (long n = first / SnapshotFile.Chunk; n <= last / SnapshotFile.Chunk; n++)
            {
                if (!IsGood((int)n)) return false;
            }
        }
        return true;
    }

    private bool IsGood(int chunk)
    {
        byte known = Volatile.Read(ref _chunks[chunk]);
        if (known == Good) return true;
        if (known != Bad)
        {
            string? wrong = SnapshotFile.ChunkProblem(_file, chunk, _end, _checksums[chunk]);
            if (wrong is null)
            {
                // Two may have looked at the same time.
                if (Interlocked.CompareExchange(ref _chunks[chunk], Good, 0) == 0 && Interlocked.Decrement(ref _left) == 0) _memory.IsChecked();
                return Volatile.Read(ref _chunks[chunk]) == Good;
            }
            Interlocked.CompareExchange(ref _damage, wrong, null); // before anybody can see that it is bad
            Interlocked.CompareExchange(ref _chunks[chunk], Bad, 0);
        }
        // Everybody who sees it tells: a guest that goes on without the page must not do much, however slow the one is who has found it.
        _damaged(_damage!);
        return false;
    }

    /// <summary>Nobody uses the memory any more.</summary>
    public void Dispose()
    {
        _stops = true;
        foreach (Thread worker in _workers) worker.Join();
        _file.Dispose();
    }
}
