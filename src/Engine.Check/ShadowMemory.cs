using System.Diagnostics;
using Bunraku.Engines;

namespace Bunraku.Engine.Check;

/// <summary>
/// The reference's own guest memory, kept equal to the VM's. Writes of devices and loaders go to both. What the reference writes is compared at each stop, page
/// by page; that the subject wrote nowhere else is seen by a sweep which compares some pages at each stop and all within about a second. One thread, except for
/// device writes: those of other threads wait for the next stop, so that both see them at the same place.
/// </summary>
internal sealed unsafe class ShadowMemory : IDisposable
{
    private const int PageSize = (int)GuestMemory.PageSize;
    /// <summary>Pages that the sweep compares at one stop: some microseconds.</summary>
    private const int SweptPages = 64;
    private static readonly TimeSpan s_fullComparison = TimeSpan.FromSeconds(1);

    private readonly GuestMemory _real;
    private readonly IFollowingCpu _reference;
    private readonly object _lock = new(); // a device's thread has it from before its write until the write is in both memories
    private readonly List<(ulong Offset, byte[] Bytes)> _late = []; // written by a pointer while the subject ran; under the lock
    private bool _running; // under the lock
    private int _waiting; // writers; under the lock
    private int _runner; // whose thread the subject runs on
    private readonly Dictionary<ulong, byte[]> _before = []; // what pages held at the last checkpoint that were written since
    private readonly Stack<byte[]> _buffers = [];
    private IReadOnlyList<(ulong Offset, ulong Length)> _allocated = [];
    private int _sweptRange;
    private ulong _sweptOffset;
    private long _lastFull = Stopwatch.GetTimestamp();

    public ShadowMemory(GuestMemory real, GuestMemory own, IFollowingCpu reference)
    {
        (_real, Own, _reference) = (real, own, reference);
        reference.WatchWrites(Save);
        Listen(true);
    }

    /// <summary>The reference's memory.</summary>
    public GuestMemory Own { get; }

    private void Listen(bool on)
    {
        lock (_lock)
        {
            _real.BeforeDeviceWrite = on ? DeviceWrites : null;
            _real.OnDeviceWrite = on ? DeviceWrote : null;
        }
    }

    /// <summary>Waits for a stop; the subject does not go on before <see cref="DeviceWrote"/>.</summary>
    private void DeviceWrites()
    {
        Monitor.Enter(_lock);
        _waiting++;
        while (_running && Environment.CurrentManagedThreadId != _runner) Monitor.Wait(_lock);
        _waiting--;
    }

    private void DeviceWrote(ulong offset, ReadOnlySpan<byte> bytes)
    {
        bool waited = Monitor.IsEntered(_lock);
        lock (_lock)
        {
            // Its exact time is not known; devices write so where the guest looks only when a write that waits has told it.
            if (_running) _late.Add((offset, bytes.ToArray()));
            else Own.WriteBacking(offset, bytes);
            if (!waited) return;
            Monitor.PulseAll(_lock);
        }
        Monitor.Exit(_lock);
    }

    /// <summary>The subject is going to run, on this thread: what both memories hold now can be restored.</summary>
    public void Checkpoint()
    {
        _reference.WatchAnew();
        foreach (byte[] buffer in _before.Values) _buffers.Push(buffer);
        _before.Clear();
        lock (_lock)
        {
            while (_waiting > 0) Monitor.Wait(_lock); // else the stops would be too short for who waits
            (_running, _runner) = (true, Environment.CurrentManagedThreadId);
        }
    }

    private void Save(ulong page)
    {
        if (_before.ContainsKey(page)) return;
        byte[] buffer = _buffers.TryPop(out byte[]? used) ? used : new byte[PageSize];
        new ReadOnlySpan<byte>(Own.Backing.Pointer + page, PageSize).CopyTo(buffer);
        _before.Add(page, buffer);
    }

    /// <summary>The reference has come to where the subject is. Lines for what differs.</summary>
    /// <param name="everything">Compare all memory that was ever touched.</param>
    public IReadOnlyList<string> Compare(bool everything)
    {
        lock (_lock) // no write is in one of them only
        {
            _running = false;
            Monitor.PulseAll(_lock);
            foreach ((ulong offset, byte[] bytes) in _late) Own.WriteBacking(offset, bytes);
            _late.Clear();
            bool equal = _before.Keys.All(page => MemoryComparer.PagesEqual(_real, Own, page))
                && (everything || Stopwatch.GetElapsedTime(_lastFull) > s_fullComparison ? FullyEqual() : Sweep());
            return equal ? [] : MemoryComparer.Differences(_real, Own, Allocated(_real, Own));
        }
    }

    /// <summary>The subject does not run any more, and is not compared.</summary>
    public void End()
    {
        lock (_lock)
        {
            _running = false;
            Monitor.PulseAll(_lock);
        }
    }

    private bool FullyEqual()
    {
        _allocated = Allocated(_real, Own);
        (_sweptRange, _sweptOffset) = (0, 0);
        foreach ((ulong offset, ulong length) in _allocated)
        {
            for (ulong at = offset; at < offset + length; at += (ulong)PageSize)
            {
                if (!MemoryComparer.PagesEqual(_real, Own, at)) return false;
            }
        }
        _lastFull = Stopwatch.GetTimestamp();
        return true;
    }

    private bool Sweep()
    {
        for (int n = 0; n < SweptPages && _allocated.Count > 0; n++)
        {
            (ulong offset, ulong length) = _allocated[_sweptRange];
            if (!MemoryComparer.PagesEqual(_real, Own, offset + _sweptOffset)) return false;
            _sweptOffset += (ulong)PageSize;
            if (_sweptOffset < length) continue;
            (_sweptRange, _sweptOffset) = ((_sweptRange + 1) % _allocated.Count, 0);
        }
        return true;
    }

    /// <summary>Ranges that one of the memories has touched, by offset in the backing memory; they may overlap.</summary>
    private static IReadOnlyList<(ulong Offset, ulong Length)> Allocated(GuestMemory a, GuestMemory b) => [.. a.Backing.Allocated(), .. b.Backing.Allocated()];

    /// <summary>Makes the shadow equal to the VM's memory: before the guest runs.</summary>
    public void CopyAll()
    {
        lock (_lock)
        {
            foreach ((ulong offset, ulong length) in _real.Backing.Allocated())
            {
                for (ulong at = offset; at < offset + length; at += (ulong)PageSize)
                {
                    if (!MemoryComparer.PagesEqual(_real, Own, at)) CopyPage(_real, Own, at);
                }
            }
        }
    }

    /// <summary>Takes both memories back to the last checkpoint.</summary>
    public void Rewind()
    {
        Listen(false);
        foreach ((ulong page, byte[] bytes) in _before) Own.WriteBacking(page, bytes);
        foreach ((ulong offset, ulong length) in Allocated(_real, Own))
        {
            for (ulong at = offset; at < offset + length; at += (ulong)PageSize)
            {
                if (!MemoryComparer.PagesEqual(_real, Own, at)) CopyPage(Own, _real, at);
            }
        }
        Listen(true);
        Checkpoint();
    }

    private static void CopyPage(GuestMemory from, GuestMemory to, ulong offset) =>
        to.WriteBacking(offset, new ReadOnlySpan<byte>(from.Backing.Pointer + offset, PageSize));

    public void Dispose()
    {
        Listen(false);
        Own.Dispose();
    }
}
