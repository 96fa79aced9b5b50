using System.Diagnostics;
using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Processor.X86;

/// <summary>
/// The shadow of one address space: what of it a helper has mapped, entry by entry as the guest's tables say. It is a cache, as a TLB is: entries come by
/// faults and go by INVLPG, by flushes, and when code is found on a page.
/// </summary>
/// <param name="counters">Where pages are counted that are mapped, and that are no more.</param>
internal sealed class ShadowSpace(DirectHelper helper, DirectCounters counters) : IDisposable
{
    /// <summary>A page that is mapped: what of the backing memory, and how.</summary>
    public readonly record struct Entry(ulong Offset, HelperProtection Rights);

    private readonly Dictionary<ulong, Entry> _entries = []; // by linear address
    private readonly Dictionary<ulong, List<ulong>> _byOffset = []; // linear addresses, by place in the backing memory

    private readonly HashSet<ulong> _refused = []; // linear pages whose code must not run directly
    private readonly Dictionary<ulong, ulong[]> _waiting = []; // linear pages that could, if there were room for these guards
    private readonly Dictionary<ulong, ulong[]> _guards = []; // by linear page: where the processor has to stop when code of it runs
    private readonly Dictionary<ulong, int> _visits = []; // to pages that need guards, while they had none
    private bool _guardsChanged;

    public DirectHelper Helper => helper;

    /// <summary>The page's code must not run directly, as far as is known.</summary>
    public bool IsRefused(ulong page) => _refused.Contains(page) || _waiting.ContainsKey(page);

    public void Refuse(ulong page) => _refused.Add(page);

    /// <summary>There is no room for the guards that the page needs.</summary>
    public void Wait(ulong page, ulong[] places) => _waiting[page] = places;

    /// <summary>The program comes to a page. True: it is refused, and there is nothing to be gained by looking at it again.</summary>
    public bool MustWait(ulong page)
    {
        if (_refused.Contains(page)) return true;
        if (!_waiting.TryGetValue(page, out ulong[]? places)) return false;
        _visits[page] = VisitsOf(page) + 1;
        return !HasRoom(page, places, out _);
    }

    private int VisitsOf(ulong page) => _visits.GetValueOrDefault(page);

    /// <summary>So many visits more than to another a page must have had to take its place: moving costs several of them.</summary>
    private const int WorthMoving = 4;

    private bool GivesWay(ulong guarded, int visits) => VisitsOf(guarded) + WorthMoving < visits;

    private long _checked = Stopwatch.GetTimestamp();

    /// <summary>A second has passed since the shadow was compared with the guest's tables.</summary>
    public bool IsTimeToCheck()
    {
        long now = Stopwatch.GetTimestamp();
        if (now - _checked < Stopwatch.Frequency) return false;
        _checked = now;
        return true;
    }

    /// <summary>Pages that were refused may be tried again: what was in the way may be gone.</summary>
    public void Reconsider()
    {
        _refused.Clear();
        _waiting.Clear();
    }

    /// <summary>What was visited long ago counts less.</summary>
    public void Age()
    {
        foreach ((ulong page, int visits) in _visits.ToArray())
        {
            if (visits > 1) _visits[page] = visits / 2;
            else _visits.Remove(page);
        }
    }

    /// <summary>There is room for a page's guards, if need be in place of those of pages that were visited less often.</summary>
    /// <param name="kept">Those that stay.</param>
    private bool HasRoom(ulong page, ulong[] places, out List<ulong> kept)
    {
        int visits = VisitsOf(page);
        kept = [.. _guards.Keys.OrderByDescending(VisitsOf)];
        while (kept.SelectMany(other => _guards[other]).Union(places).Count() > TracedProcess.MostBreakpoints)
        {
            if (kept.Count == 0 || !GivesWay(kept[^1], visits)) return false;
            kept.RemoveAt(kept.Count - 1);
        }
        return true;
    }

    /// <summary>Makes room for a page's guards, where there is: the processor's few breakpoints go where the program is.</summary>
    public bool TryMakeRoom(ulong page, ulong[] places)
    {
        if (!HasRoom(page, places, out List<ulong> kept)) return false;
        foreach (ulong other in _guards.Keys.Except(kept).ToArray()) Drop(other);
        return true;
    }

    /// <summary>The processor has to stop at these places from the next entry on, as long as the page is mapped. After <see cref="TryMakeRoom"/>.</summary>
    public void Guard(ulong page, ulong[] places)
    {
        if (places.Length == 0) return;
        _guards[page] = places;
        _guardsChanged = true;
    }

    /// <summary>Makes the helper what the maps say. False: it is of no use any more.</summary>
    public bool TryFinish()
    {
        if (_guardsChanged)
        {
            if (!helper.Process.TrySetBreakpoints([.. _guards.Values.SelectMany(known => known).Distinct()])) return false;
            _guardsChanged = false;
        }
        return helper.TryFinish();
    }

    /// <summary>When the space that is shadowed got its number; another one: nothing of this is worth anything.</summary>
    public ulong Birth { get; private set; }

    /// <summary>Address of the tables that are shadowed.</summary>
    public ulong Root { get; private set; }

    /// <summary>When it was entered last, in turns.</summary>
    public ulong Used { get; set; }

    public int Count => _entries.Count;

    public Entry this[ulong page] => _entries.GetValueOrDefault(page);

    public IEnumerable<ulong> Pages => _entries.Keys;

    /// <summary>The shadow is one of another space from now on.</summary>
    public void BeginAnew(ulong birth, ulong root)
    {
        (Birth, Root) = (birth, root);
        Clear();
    }

    /// <summary>The space of the same tables after a flush: what is mapped has to be compared with them.</summary>
    public void Refresh(ulong birth)
    {
        Birth = birth;
        Reconsider();
    }

    /// <summary>Nothing is mapped any more.</summary>
    public void Clear()
    {
        Reconsider();
        _visits.Clear();
        if (_entries.Count == 0) return;
        counters.PagesDropped += (ulong)_entries.Count;
        _entries.Clear();
        _byOffset.Clear();
        _guardsChanged |= _guards.Count > 0;
        _guards.Clear();
        helper.UnmapLater();
    }

    private ulong _windowEnd, _windowPages; // of the last one

    /// <summary>How many pages to map around one: twice as many where it lies behind the last window.</summary>
    public ulong PagesWanted(ulong page, ulong least, ulong most)
    {
        bool isNext = page >= _windowEnd && page - _windowEnd < least * GuestMemory.PageSize;
        _windowPages = isNext ? Math.Min(2 * _windowPages, most) : least;
        _windowEnd = (page & ~(_windowPages * GuestMemory.PageSize - 1)) + _windowPages * GuestMemory.PageSize;
        return _windowPages;
    }

    /// <summary>Maps a page. False: by the same call as the page before.</summary>
    /// <param name="page">Linear address.</param>
    /// <param name="offset">In the backing memory.</param>
    public bool Map(ulong page, ulong offset, HelperProtection rights)
    {
        Forget(page);
        counters.PagesMapped++;
        _entries[page] = new Entry(offset, rights);
        if (!_byOffset.TryGetValue(offset, out List<ulong>? places)) _byOffset[offset] = places = new List<ulong>(1);
        places.Add(page);
        return helper.MapLater(page, offset, rights);
    }

    private bool Forget(ulong page)
    {
        if (!_entries.Remove(page, out Entry known)) return false;
        _guardsChanged |= _guards.Remove(page);
        List<ulong> places = _byOffset[known.Offset];
        places.Remove(page);
        if (places.Count == 0) _byOffset.Remove(known.Offset);
        return true;
    }

    /// <summary>A linear page is mapped no more.</summary>
    public void Drop(ulong page)
    {
        _refused.Remove(page);
        _waiting.Remove(page);
        if (!Forget(page)) return;
        counters.PagesDropped++;
        helper.Later(HelperImage.Unmap(page, GuestMemory.PageSize));
    }

    /// <summary>A page of the backing memory is nowhere mapped with these rights any more.</summary>
    public void DropOffset(ulong offset, HelperProtection rights)
    {
        // Where the page was refused nobody remembers: it was because of what was written over now.
        if ((rights & HelperProtection.Execute) != 0) Reconsider();
        if (!_byOffset.TryGetValue(offset, out List<ulong>? places)) return;
        foreach (ulong page in places.ToArray())
        {
            if ((_entries[page].Rights & rights) != 0) Drop(page);
        }
    }

    /// <summary>Nothing is mapped with these rights any more.</summary>
    public void DropAll(HelperProtection rights)
    {
        foreach ((ulong page, Entry e) in _entries.ToArray())
        {
            if ((e.Rights & rights) != 0) Drop(page);
        }
    }

    /// <summary>The page of the backing memory is mapped with these rights somewhere.</summary>
    public bool Holds(ulong offset, HelperProtection rights)
    {
        if (!_byOffset.TryGetValue(offset, out List<ulong>? places)) return false;
        foreach (ulong page in places)
        {
            if ((_entries[page].Rights & rights) != 0) return true;
        }
        return false;
    }

    /// <summary>The places of a page where the processor has to stop.</summary>
    public IReadOnlyList<ulong> GuardsOf(ulong page) => _guards.GetValueOrDefault(page) ?? [];

    /// <summary>Pages whose code must not run directly.</summary>
    public IEnumerable<ulong> RefusedPages => _refused.Union(_waiting.Keys);

    public void Dispose() => helper.Dispose();
}
