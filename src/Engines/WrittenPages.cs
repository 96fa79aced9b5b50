namespace Bunraku.Engines;

/// <summary>Which pages of guest memory are written to, while somebody wants to know; by devices (DMA), or by whom the owner notes. Thread-safe.</summary>
public sealed class WrittenPages
{
    private const int PagesPerWord = 64;

    private readonly ulong _pages;
    private volatile ulong[]? _bits; // by the page's place in the backing memory; null: off

    /// <param name="size">Bytes of the backing memory.</param>
    public WrittenPages(ulong size) => _pages = size >> GuestMemory.PageShift;

    /// <summary>Switches the log on, when it begins empty, or off.</summary>
    public void Enable(bool on) => _bits = on ? new ulong[(_pages + PagesPerWord - 1) / PagesPerWord] : null;

    /// <summary>
    /// The page of this offset in the backing memory was written to. After the write: who takes the log and then copies the page misses nothing.
    /// </summary>
    public void Mark(ulong offset)
    {
        if (_bits is not { } bits) return;
        ulong page = offset >> GuestMemory.PageShift;
        Interlocked.Or(ref bits[page / PagesPerWord], 1ul << (int)(page % PagesPerWord));
    }

    /// <summary>
    /// Pages of a region written since the last call, one bit each, the region's first page in bit 0 of the first word. All zeros while the log is off.
    /// </summary>
    /// <param name="region">A region of the memory.</param>
    public ulong[] Take(in MemoryRegion region)
    {
        ulong first = region.Offset >> GuestMemory.PageShift, count = region.Length >> GuestMemory.PageShift;
        var taken = new ulong[(count + PagesPerWord - 1) / PagesPerWord];
        if (_bits is not { } bits) return taken;
        // A word of the log may hold pages of two regions: those of the other one stay.
        for (ulong page = first, end = first + count; page < end;)
        {
            int bit = (int)(page % PagesPerWord), pages = (int)Math.Min((ulong)(PagesPerWord - bit), end - page);
            ulong mask = (pages == PagesPerWord ? ulong.MaxValue : (1ul << pages) - 1) << bit;
            ulong written = (Interlocked.And(ref bits[page / PagesPerWord], ~mask) & mask) >> bit;
            ulong at = page - first;
            int shift = (int)(at % PagesPerWord);
            taken[at / PagesPerWord] |= written << shift;
            if (shift + pages > PagesPerWord) taken[at / PagesPerWord + 1] |= written >> (PagesPerWord - shift);
            page += (ulong)pages;
        }
        return taken;
    }
}
