using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Processor.X86;

/// <summary>What the helpers have mapped of the guest, and when it goes.</summary>
internal sealed unsafe partial class DirectExecution
{
    /// <summary>So many pages around a fault are mapped with it, if they can be: a power of two.</summary>
    private const ulong PagesAround = 16;
    /// <summary>And so many where one window after the other is touched.</summary>
    private const ulong LargestWindow = 256;
    /// <summary>Hosts do not map below (vm.mmap_min_addr, as distributions set it).</summary>
    private const ulong AddressBegin = 0x1_0000;

    private static ulong PageOf(ulong address) => address & ~(GuestMemory.PageSize - 1);

    /// <summary>A fault in a page that only the helper does not know yet: no flag of the guest's tables would change.</summary>
    private bool TryFillBefore(ulong address)
    {
        // Once it is mapped, software has to say what else is wanted.
        if (_current![PageOf(address)].Rights != HelperProtection.None) return false;
        return (_peek.Find(address).Rights & (_faultFetches ? HelperProtection.Execute : HelperProtection.Read)) != 0;
    }

    /// <summary>
    /// Maps the page of an address and what lies around it, as far as the guest's tables allow. False: the page cannot be mapped for this access.
    /// </summary>
    private bool TryFill(ulong address, bool fetches)
    {
        ShadowSpace space = _current!;
        ulong page = PageOf(address);
        if (!IsMappable(page)) return false;
        ShadowSource source = _peek.Find(page);
        if (source.Rights == HelperProtection.None) return false;
        ShadowSpace.Entry known = space[page];
        if (fetches)
        {
            if (space.MustWait(page)) return false;
            ulong[] places = [];
            if ((source.Rights & HelperProtection.Execute) == 0 || !MayExecute(page, source.Offset, out places))
            {
                Counters.PagesRefused++;
                if (places.Length > 0) space.Wait(page, places);
                else space.Refuse(page);
                return false;
            }
            if (known.Offset == source.Offset && (known.Rights & HelperProtection.Execute) != 0) return false;
            Map(page, source.Offset, HelperProtection.Read | HelperProtection.Execute);
            space.Guard(page, places);
            FillCodeAround(page);
            return true;
        }
        if (known.Offset == source.Offset && (RightsOf(source) & ~known.Rights) == 0) return false;
        FillAround(page, source.Length);
        return true;
    }

    private void Map(ulong page, ulong offset, HelperProtection rights)
    {
        if (_current!.Map(page, offset, rights)) Counters.Fills++;
    }

    /// <summary>A helper can have guest memory at this address.</summary>
    private bool IsMappable(ulong page) => page is >= AddressBegin and < DirectHelper.AddressEnd && !_current!.Helper.IsOwn(page);

    /// <summary>Rights that a helper may have to a page of data.</summary>
    private HelperProtection RightsOf(in ShadowSource source)
    {
        HelperProtection rights = source.Rights & HelperProtection.Read;
        byte* host = p.Memory.Backing.Pointer + source.Offset;
        if ((source.Rights & HelperProtection.Write) != 0 && !p.Code.IsCodePage(host)) rights |= HelperProtection.Write;
        return rights;
    }

    private readonly HashSet<int> _found = [];

    /// <summary>The code of a page may run; from here on whoever writes there tells first.</summary>
    /// <param name="places">Where the processor has to stop; known to have room in the space.</param>
    /// <param name="unguarded">Not if there are such places.</param>
    private bool MayExecute(ulong page, ulong offset, out ulong[] places, bool unguarded = false)
    {
        const int margin = NativeCode.Margin;
        ShadowSpace space = _current!;
        places = [];
        // Every other way to write there goes before the bytes are looked at.
        if (!p.Code.WatchCode(offset)) return false;
        Span<byte> code = stackalloc byte[(int)GuestMemory.PageSize + 2 * margin];
        PageAt(offset).CopyTo(code[margin..]);
        ShadowSpace.Entry behind = space[page + GuestMemory.PageSize], before = space[page - GuestMemory.PageSize];
        if ((before.Rights & HelperProtection.Execute) != 0) PageAt(before.Offset)[^margin..].CopyTo(code);
        else code[..margin].Clear();
        if ((behind.Rights & HelperProtection.Execute) != 0) PageAt(behind.Offset)[..margin].CopyTo(code[^margin..]);
        else code[^margin..].Clear();
        ulong rip = p.State->Rip;
        _found.Clear();
        SensitiveInstructions sensitive = setup.Host.Sensitive(_xcr0);
        if (!space.Helper.CpuidFaults) sensitive |= SensitiveInstructions.Cpuid;
        NativeCode.FindSensitive(code, sensitive, _found);
        // What is before is only to be decoded: it need not be mapped there.
        ShadowSource previous = _peek.Find(page - GuestMemory.PageSize), next = _peek.Find(page + GuestMemory.PageSize);
        int known = previous.Rights == HelperProtection.None ? 0 : NativeCode.RunUp;
        Span<byte> straight = stackalloc byte[NativeCode.RunUp + (int)GuestMemory.PageSize + NativeCode.LongestInstruction];
        straight = straight[..(known + (int)GuestMemory.PageSize + (next.Rights == HelperProtection.None ? 0 : NativeCode.LongestInstruction))];
        if (known > 0) PageAt(previous.Offset)[^known..].CopyTo(straight);
        PageAt(offset).CopyTo(straight[known..]);
        if (next.Rights != HelperProtection.None) PageAt(next.Offset)[..NativeCode.LongestInstruction].CopyTo(straight[^NativeCode.LongestInstruction..]);
        NativeCode.FindShort(straight, known, PageOf(rip) == page ? (int)(rip - page) : -1, _found);
        if (_found.Count == 0) return true;
        if (unguarded || _found.Count > TracedProcess.MostBreakpoints || !setup.Host.StopsAtBreakpoints) return false;
        places = [.. _found.Select(found => page + (ulong)found)];
        return space.TryMakeRoom(page, places);
    }

    private ReadOnlySpan<byte> PageAt(ulong offset) => new(p.Memory.Backing.Pointer + offset, (int)GuestMemory.PageSize);

    /// <summary>The aligned window of pages that a fault is answered with.</summary>
    private static (ulong From, ulong To) Window(ulong page, ulong pages)
    {
        ulong length = pages * GuestMemory.PageSize, from = page & ~(length - 1);
        return (from, Math.Min(from + length, DirectHelper.AddressEnd));
    }

    /// <summary>Maps the pages of data around one. Nothing there becomes executable, nor loses that.</summary>
    /// <param name="length">Bytes that the guest maps with it.</param>
    private void FillAround(ulong page, ulong length)
    {
        ShadowSpace space = _current!;
        ulong most = LargestWindow, pages = Math.Clamp(length / GuestMemory.PageSize, space.PagesWanted(page, PagesAround, most), 2 * most);
        (ulong from, ulong to) = Window(page, pages);
        for (ulong at = from; at < to; at += GuestMemory.PageSize)
        {
            if (!IsMappable(at)) continue;
            ShadowSource source = _peek.Find(at);
            ShadowSpace.Entry known = space[at];
            if (source.Rights == HelperProtection.None || ((known.Rights & HelperProtection.Execute) != 0 && at != page)) continue;
            HelperProtection wanted = RightsOf(source);
            if (known.Offset == source.Offset && known.Rights == wanted) continue; // as it should be
            Map(at, source.Offset, wanted);
        }
    }

    /// <summary>Maps the pages of code around one that has been mapped, but for those that need guards or are written to.</summary>
    private void FillCodeAround(ulong page)
    {
        ShadowSpace space = _current!;
        (ulong from, ulong to) = Window(page, PagesAround);
        for (ulong at = from; at < to; at += GuestMemory.PageSize)
        {
            if (!IsMappable(at) || (space[at].Rights & HelperProtection.Execute) != 0) continue;
            ShadowSource source = _peek.Find(at);
            if ((source.Rights & (HelperProtection.Execute | HelperProtection.Write)) != HelperProtection.Execute) continue;
            if (MayExecute(at, source.Offset, out ulong[] places, unguarded: true))
                Map(at, source.Offset, HelperProtection.Read | HelperProtection.Execute);
        }
    }

    /// <summary>
    /// Operating systems clear accessed flags and do not say so, counting on entries that do not stay for ever; and a page may be another one since.
    /// </summary>
    private void CheckFlags()
    {
        ShadowSpace space = _current!;
        if (!space.IsTimeToCheck()) return;
        space.Reconsider();
        space.Age();
        Compare(space);
    }

    private readonly List<ulong> _gone = [];

    /// <summary>
    /// Drops what the guest's tables do not say any more, and rights to write where code is known since: of many such pages at once a flush is all that tells.
    /// </summary>
    private void Compare(ShadowSpace space)
    {
        _gone.Clear();
        foreach (ulong page in space.Pages)
        {
            ShadowSpace.Entry known = space[page];
            ShadowSource source = _peek.Find(page);
            HelperProtection rights = source.Rights == HelperProtection.None ? HelperProtection.None
                : RightsOf(source) | source.Rights & HelperProtection.Execute;
            if (source.Offset != known.Offset || (known.Rights & ~rights) != 0) _gone.Add(page);
        }
        // Page by page is a call of the host for each.
        if (_gone.Count > space.Count / 2) space.Clear();
        else foreach (ulong page in _gone) space.Drop(page);
    }

    /// <summary>INVLPG.</summary>
    public void DropPage(ulong page)
    {
        foreach (ShadowSpace space in _spaces) space.Drop(page);
    }

    /// <summary>The page of the backing memory holds code from now on: programs must not write to it without software's knowing.</summary>
    public void RevokeWrites(ulong offset)
    {
        foreach (ShadowSpace space in _spaces) space.DropOffset(offset, HelperProtection.Write);
    }

    /// <summary>The page of the backing memory was written to: what was known of its code is not true any more.</summary>
    public void CodeWritten(ulong offset)
    {
        foreach (ShadowSpace space in _spaces) space.DropOffset(offset, HelperProtection.Execute);
    }

    /// <summary>No page's writes are watched any more.</summary>
    public void CodeForgotten()
    {
        foreach (ShadowSpace space in _spaces) space.DropAll(HelperProtection.Execute);
    }

    /// <summary>A program may execute the page of the backing memory directly: its writes must stay watched.</summary>
    public bool Executes(ulong offset)
    {
        foreach (ShadowSpace space in _spaces)
        {
            if (space.Holds(offset, HelperProtection.Execute)) return true;
        }
        return false;
    }

    /// <summary>What the shadows hold, for people.</summary>
    public IReadOnlyList<ShadowTable> Read()
    {
        ulong inForce = p.Tlb.SpaceBirth;
        return [.. _spaces.Where(space => p.Tlb.IsAlive(space.Birth)).Select(space => new ShadowTable(space.Birth, space.Birth == inForce,
            [.. space.Pages.Select(page => new ShadowMapping(page, space[page].Offset, (ShadowRights)space[page].Rights, space.GuardsOf(page)))],
            [.. space.RefusedPages]))];
    }
}
