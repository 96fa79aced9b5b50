using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Processor.X86;

/// <summary>What the helpers have mapped of the guest, and when it goes.</summary>
internal sealed unsafe partial class DirectExecution
{
    /// <summary>So many pages around a fault are mapped with it, if they can be: a power of two.</summary>
    private const ulong PagesAround = 16;
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
            if ((source.Rights & HelperProtection.Execute) == 0 || !MayExecute(page, source.Offset, out ulong[] places))
            {
                Counters.PagesRefused++;
                space.Refuse(page);
                return false;
            }
            if (known.Offset == source.Offset && (known.Rights & HelperProtection.Execute) != 0) return false;
            space.Map(page, GuestMemory.PageSize, source.Offset, HelperProtection.Read | HelperProtection.Execute);
            space.Guard(page, places);
            Counters.Fills++;
            return true;
        }
        if (known.Offset == source.Offset && (RightsOf(source) & ~known.Rights) == 0) return false;
        FillAround(space, page, source.Length);
        return true;
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
    private bool MayExecute(ulong page, ulong offset, out ulong[] places)
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
        NativeCode.FindSensitive(code, space.Helper.CpuidFaults, _found);
        NativeCode.FindShort(code[margin..^margin], PageOf(rip) == page ? (int)(rip - page) : 0, _found);
        if (_found.Count == 0) return true;
        if (_found.Count > TracedProcess.MostBreakpoints || !CanGuard(space)) return false;
        places = [.. _found.Select(found => page + (ulong)found)];
        return space.TryMakeRoom(places);
    }

    private ReadOnlySpan<byte> PageAt(ulong offset) => new(p.Memory.Backing.Pointer + offset, (int)GuestMemory.PageSize);

    /// <summary>The host's processor stops at places where it is told to; tried out once for each helper.</summary>
    private static bool CanGuard(ShadowSpace space) => space.Helper.StopsAtBreakpoints ??= space.Helper.TryStopAtBreakpoint();

    /// <summary>Maps the pages of an aligned window that lead to RAM, as few mappings as will do. Nothing there becomes executable, nor loses that.</summary>
    private void FillAround(ShadowSpace space, ulong page, ulong length)
    {
        ulong window = Math.Clamp(length, PagesAround * GuestMemory.PageSize, 512 * GuestMemory.PageSize);
        ulong from = page & ~(window - 1), to = Math.Min(from + window, DirectHelper.AddressEnd);
        ulong start = 0, mapped = 0, offset = 0;
        HelperProtection rights = HelperProtection.None;
        for (ulong at = from; at < to; at += GuestMemory.PageSize)
        {
            ShadowSource source = IsMappable(at) ? _peek.Find(at) : default;
            ShadowSpace.Entry known = space[at];
            HelperProtection wanted = source.Rights == HelperProtection.None || (known.Rights & HelperProtection.Execute) != 0 ? HelperProtection.None
                : RightsOf(source);
            if (at == page && wanted == HelperProtection.None && source.Rights != HelperProtection.None) wanted = RightsOf(source);
            if (known.Offset == source.Offset && known.Rights == wanted) wanted = HelperProtection.None; // as it should be
            if (mapped != 0 && wanted == rights && source.Offset == offset + mapped)
            {
                mapped += GuestMemory.PageSize;
                continue;
            }
            Flush();
            if (wanted == HelperProtection.None) continue;
            (start, mapped, offset, rights) = (at, GuestMemory.PageSize, source.Offset, wanted);
        }
        Flush();

        void Flush()
        {
            if (mapped == 0) return;
            space.Map(start, mapped, offset, rights);
            Counters.Fills++;
            mapped = 0;
        }
    }

    /// <summary>
    /// Operating systems clear accessed flags and do not say so, counting on entries that do not stay for ever; and a page may be another one since.
    /// </summary>
    private void CheckFlags()
    {
        ShadowSpace space = _current!;
        if (!_policy.IsTimeToCheck(Root)) return;
        space.Reconsider();
        foreach (ulong page in space.Pages.ToArray())
        {
            ShadowSpace.Entry known = space[page];
            ShadowSource source = _peek.Find(page);
            if (source.Offset != known.Offset || (known.Rights & ~source.Rights) != 0) space.Drop(page);
        }
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
}
