namespace Bunraku.Engines;

/// <summary>Which pages of guest memory devices write to (DMA), while somebody wants to know. Thread-safe.</summary>
public sealed class WrittenPages
{
    private const int PagesPerWord = 64;

    private readonly ulong _pages;
    private volatile ulong[]? _bits; // by the page's place in the backing memory; null: off

    internal WrittenPages(ulong size) => _pages = size >> GuestMemory.PageShift;

    /// <summary>Switches the log on, when it begins empty, or off.</summary>
    public void Enable(bool on) => _bits = on ? new ulong[(_pages + PagesPerWord - 1) / PagesPerWord] : null;

    /// <summary>A device has written to the page of this offset in the backing memory. After the write: who takes the log and then copies the page misses nothing.</summary>
    internal void Mark(ulong offset)
    {
        if (_bits is not { } bits) return;
        ulong page = offset >> GuestMemory.PageShift;
        Interlocked.Or(ref bits[page / PagesPerWord], 1ul << (int)(page % PagesPerWord));
    }

    /// <summary>Pages of a region written since the last call, one bit each, the region's first page in bit 0 of the first word. All zeros while the log is off.</summary>
    public ulong[] Take(in MemoryRegion region)
    {
        var taken = new ulong[((region.Length >> GuestMemory.PageShift) + PagesPerWord - 1) / PagesPerWord];
        if (_bits is not { } bits) return taken;
        ulong first = region.Offset >> GuestMemory.PageShift;
        if (first % PagesPerWord != 0) throw new ArgumentException("the region does not begin at a multiple of 64 pages of the backing memory", nameof(region));
        for (int n = 0; n < taken.Length; n++) taken[n] = Interlocked.Exchange(ref bits[(int)(first / PagesPerWord) + n], 0);
        return taken;
    }
}
