using Bunraku.Engines;

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
        HelperProtection rights = RightsOf(page, source, fetches);
        if (fetches && (rights & HelperProtection.Execute) == 0)
        {
            Counters.PagesRefused++;
            space.Refuse(page);
            return false;
        }
        ShadowSpace.Entry known = space[page];
        if (known.Offset == source.Offset && (rights & ~known.Rights) == 0) return false;
        if (fetches)
        {
            space.Map(page, GuestMemory.PageSize, source.Offset, rights);
            Counters.Fills++;
            return true;
        }
        FillAround(space, page, source.Length);
        return true;
    }

    /// <summary>A helper can have guest memory at this address.</summary>
    private bool IsMappable(ulong page) => page is >= AddressBegin and < DirectHelper.AddressEnd && !_current!.Helper.IsOwn(page);

    /// <summary>Rights that a helper may have to a page.</summary>
    private HelperProtection RightsOf(ulong page, in ShadowSource source, bool executes)
    {
        HelperProtection rights = source.Rights & HelperProtection.Read;
        byte* host = p.Memory.Backing.Pointer + source.Offset;
        if (executes && (source.Rights & HelperProtection.Execute) != 0 && IsInnocent(page, source.Offset)) return rights | HelperProtection.Execute;
        if ((source.Rights & HelperProtection.Write) != 0 && !p.Code.IsCodePage(host)) rights |= HelperProtection.Write;
        return rights;
    }

    /// <summary>The code of a page may run; from here on whoever writes there tells first.</summary>
    private bool IsInnocent(ulong page, ulong offset)
    {
        ShadowSpace space = _current!;
        // Every other way to write there goes before the bytes are looked at.
        if (!p.Code.WatchCode(offset)) return false;
        byte* ram = p.Memory.Backing.Pointer;
        var code = new ReadOnlySpan<byte>(ram + offset, (int)GuestMemory.PageSize);
        ReadOnlySpan<byte> next = default;
        ShadowSpace.Entry behind = space[page + GuestMemory.PageSize], before = space[page - GuestMemory.PageSize];
        if ((behind.Rights & HelperProtection.Execute) != 0) next = new ReadOnlySpan<byte>(ram + behind.Offset, (int)GuestMemory.PageSize);
        bool cpuid = space.Helper.CpuidFaults;
        if (!NativeCode.IsInnocent(code, next, cpuid)) return false;
        ulong rip = p.State->Rip;
        if (!NativeCode.IsStraightCodeInnocent(code, PageOf(rip) == page ? (int)(rip - page) : 0)) return false;
        return (before.Rights & HelperProtection.Execute) == 0
            || NativeCode.IsSeamInnocent(new ReadOnlySpan<byte>(ram + before.Offset, (int)GuestMemory.PageSize), code, cpuid);
    }

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
                : RightsOf(at, source, executes: false);
            if (at == page && wanted == HelperProtection.None && source.Rights != HelperProtection.None) wanted = RightsOf(at, source, executes: false);
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
