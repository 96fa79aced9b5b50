using System.Diagnostics;
using Bunraku.Engines;

namespace Bunraku.Engine.Check;

/// <summary>
/// The reference's own guest memory, kept equal to the VM's. Writes of devices and loaders go to both. What the reference writes is compared at each stop, page
/// by page; that the subject wrote nowhere else is seen by a sweep which compares some pages at each stop and all within about a second. One thread, except for
/// device writes.
/// </summary>
internal sealed unsafe class ShadowMemory : IDisposable
{
    private const int PageSize = (int)GuestMemory.PageSize;
    /// <summary>Pages that the sweep compares at one stop: some microseconds.</summary>
    private const int SweptPages = 64;
    private static readonly TimeSpan s_fullComparison = TimeSpan.FromSeconds(1);

    private readonly GuestMemory _real;
    private readonly IFollowingCpu _reference;
    private readonly Lock _lock = new();
    private readonly List<(ulong Offset, byte[] Bytes)> _late = []; // device writes while the subject ran; under the lock
    private bool _running; // under the lock
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
        real.OnDeviceWrite = DeviceWrote;
    }

    /// <summary>The reference's memory.</summary>
    public GuestMemory Own { get; }

    private void DeviceWrote(ulong offset, ReadOnlySpan<byte> bytes)
    {
        lock (_lock)
        {
            if (_running) _late.Add((offset, bytes.ToArray()));
            else Own.WriteBacking(offset, bytes);
        }
    }

    /// <summary>The subject is going to run: what both memories hold now can be restored.</summary>
    public void Checkpoint()
    {
        _reference.WatchAnew();
        foreach (byte[] buffer in _before.Values) _buffers.Push(buffer);
        _before.Clear();
        lock (_lock) _running = true;
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
        lock (_lock)
        {
            _running = false;
            // When exactly they came, nobody knows: a guest that looked at the place at the same time may have seen either.
            foreach ((ulong offset, byte[] bytes) in _late) Own.WriteBacking(offset, bytes);
            _late.Clear();
        }
        foreach (ulong page in _before.Keys)
        {
            if (!MemoryComparer.PagesEqual(_real, Own, page)) return MemoryComparer.Differences(_real, Own, Allocated(_real, Own));
        }
        bool equal = everything || Stopwatch.GetElapsedTime(_lastFull) > s_fullComparison ? FullyEqual() : Sweep();
        return equal ? [] : MemoryComparer.Differences(_real, Own, Allocated(_real, Own));
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
        foreach ((ulong offset, ulong length) in _real.Backing.Allocated())
        {
            for (ulong at = offset; at < offset + length; at += (ulong)PageSize)
            {
                if (!MemoryComparer.PagesEqual(_real, Own, at)) CopyPage(_real, Own, at);
            }
        }
    }

    /// <summary>Takes both memories back to the last checkpoint.</summary>
    public void Rewind()
    {
        _real.OnDeviceWrite = null;
        foreach ((ulong page, byte[] bytes) in _before) Own.WriteBacking(page, bytes);
        foreach ((ulong offset, ulong length) in Allocated(_real, Own))
        {
            for (ulong at = offset; at < offset + length; at += (ulong)PageSize)
            {
                if (!MemoryComparer.PagesEqual(_real, Own, at)) CopyPage(Own, _real, at);
            }
        }
        _real.OnDeviceWrite = DeviceWrote;
        Checkpoint();
    }

    private static void CopyPage(GuestMemory from, GuestMemory to, ulong offset) =>
        to.WriteBacking(offset, new ReadOnlySpan<byte>(from.Backing.Pointer + offset, PageSize));

    public void Dispose()
    {
        _real.OnDeviceWrite = null;
        Own.Dispose();
    }
}
