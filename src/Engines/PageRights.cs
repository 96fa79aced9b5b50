using System.Numerics;

namespace Bunraku.Engines;

/// <summary>What may be done with a page of guest memory.</summary>
[Flags]
public enum PageRights : byte
{
    /// <summary>Nothing.</summary>
    None = 0,
    /// <summary>Reads of data.</summary>
    Read = 1,
    /// <summary>Writes; only together with reads.</summary>
    Write = 2,
    /// <summary>Instruction fetches.</summary>
    Execute = 4,
    /// <summary>What a page has that nobody took anything from.</summary>
    All = Read | Write | Execute,
}

/// <summary>A cache of mappings: a vCPU of a software engine. Told when rights were taken away, or memory lies elsewhere.</summary>
public interface IPageRightsObserver
{
    /// <summary>
    /// Rights to some pages were taken away, or the map has changed: every cached mapping must go, and then be reported. Any thread, must not wait.
    /// </summary>
    void RightsTaken(Revocation revocation);
}

/// <summary>
/// What the vCPUs of a VM and its devices may do with each page of guest memory, whatever the guest's own tables say. All is allowed until something is taken
/// away: then a vCPU's access to the page exits with <see cref="ExitKind.Refused"/> before it has any effect, and a device's write calls
/// <see cref="DeviceWriteRefused"/> first. For dirty page logs, copies on write, watching. Thread-safe.
/// </summary>
/// <remarks>Engines that do not look at it say so: <see cref="IEngineVm.HonoursPageRights"/>.</remarks>
public sealed class PageRightsTable
{
    private readonly ulong _size;
    private readonly Lock _lock = new(); // outermost; held until all vCPUs have reported
    private volatile byte[]? _taken; // a byte for each page of the backing memory; null: nothing was ever taken
    private volatile IPageRightsObserver[] _observers = [];

    internal PageRightsTable(ulong size) => _size = size;

    /// <summary>Called before a device writes to a page without <see cref="PageRights.Write"/>, with the page's offset in the backing memory. The write happens
    /// in any case. On the thread that writes. That may be a vCPU's inside <see cref="IVirtualCpu.Enter"/>, with the interrupt controllers' lock held: do not
    /// call <see cref="Set(ulong, ulong, PageRights)"/> there.</summary>
    public Action<ulong>? DeviceWriteRefused { get; set; }

    /// <summary>Rights were taken away at some time, and may have been given back.</summary>
    public bool WereTaken => _taken != null;

    /// <summary>The rights to the page of this offset in the backing memory.</summary>
    public PageRights this[ulong offset] =>
        _taken is { } taken ? PageRights.All & ~(PageRights)Volatile.Read(ref taken[offset >> GuestMemory.PageShift]) : PageRights.All;

    /// <summary>
    /// Sets the rights to pages. When it returns, no vCPU makes use of rights that were taken away; a device may be in the middle of a write that it began
    /// before. Any thread but one inside
    /// <see cref="IVirtualCpu.Enter"/>, and without a lock that a vCPU may want there (that of the interrupt controllers).
    /// </summary>
    /// <param name="offset">Where the range begins in the backing memory: a multiple of 4096.</param>
    /// <param name="length">Bytes, a multiple of 4096.</param>
    /// <exception cref="ArgumentException">Writing without reading: no processor has that (Intel SDM vol. 3C, "EPT Misconfigurations").</exception>
    /// <exception cref="ArgumentOutOfRangeException">The range is not inside the memory, or not made of whole pages.</exception>
    public void Set(ulong offset, ulong length, PageRights rights)
    {
        const ulong inPage = GuestMemory.PageSize - 1;
        if (offset > _size || length > _size - offset || ((offset | length) & inPage) != 0)
            throw new ArgumentOutOfRangeException(nameof(offset), $"{offset:X}, {length:X} bytes, are no pages of the memory");
        if ((rights & (PageRights.Read | PageRights.Write)) == PageRights.Write)
            throw new ArgumentException("the right to write needs the right to read", nameof(rights));
        // Who takes the same rights at the same time waits for the vCPUs as well.
        lock (_lock)
        {
            if (Store(offset, length, rights)) Revoke();
        }
    }

    /// <summary>The same for single pages, all at once.</summary>
    /// <param name="offset">Of the first page in the backing memory: a multiple of 4096.</param>
    /// <param name="pages">One bit for each page, the first one's in bit 0 of the first word. Those whose bit is clear keep their rights.</param>
    public void Set(ulong offset, ReadOnlySpan<ulong> pages, PageRights rights)
    {
        const int pagesPerWord = 64;
        lock (_lock)
        {
            bool isLess = false;
            for (int word = 0; word < pages.Length; word++)
            {
                for (ulong left = pages[word]; left != 0; left &= left - 1)
                {
                    ulong page = (ulong)(word * pagesPerWord + BitOperations.TrailingZeroCount(left));
                    isLess |= Store(offset + (page << GuestMemory.PageShift), GuestMemory.PageSize, rights);
                }
            }
            if (isLess) Revoke();
        }
    }

    /// <summary>True when something was taken away.</summary>
    private bool Store(ulong offset, ulong length, PageRights rights)
    {
        bool isLess = false;
        byte[] taken = _taken ??= new byte[_size >> GuestMemory.PageShift];
        byte now = (byte)(PageRights.All & ~rights);
        for (ulong page = offset >> GuestMemory.PageShift; page < (offset + length) >> GuestMemory.PageShift; page++)
        {
            isLess |= (now & ~taken[page]) != 0;
            Volatile.Write(ref taken[page], now);
        }
        return isLess;
    }

    /// <summary>The map has changed: when this returns, no vCPU makes use of a mapping that it had cached before.</summary>
    internal void ForgetMappings()
    {
        lock (_lock) Revoke();
    }

    private void Revoke()
    {
        // A vCPU that fills its TLB from now on sees the new rights; what it has it gives up before it reports.
        Interlocked.MemoryBarrier();
        var revocation = new Revocation();
        foreach (IPageRightsObserver observer in _observers) observer.RightsTaken(revocation);
        for (var spin = new SpinWait(); !revocation.IsComplete;) spin.SpinOnce();
    }

    /// <summary>Registers an observer. Not while guests run.</summary>
    public void Add(IPageRightsObserver observer)
    {
        lock (_lock) _observers = [.. _observers, observer];
    }

    /// <summary>Forgets an observer, whose vCPU does not run any more.</summary>
    public void Remove(IPageRightsObserver observer)
    {
        lock (_lock) _observers = [.. _observers.Where(o => o != observer)];
    }

    /// <summary>To be called before a device writes to the page of this offset in the backing memory.</summary>
    public void BeforeDeviceWrite(ulong offset)
    {
        if (_taken != null && (this[offset] & PageRights.Write) == 0) DeviceWriteRefused?.Invoke(offset & ~(GuestMemory.PageSize - 1));
    }
}
