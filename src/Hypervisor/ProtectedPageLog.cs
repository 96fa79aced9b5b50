using Bunraku.Engines;

namespace Bunraku.Hypervisor;

/// <summary>
/// The log of pages that vCPUs write to, for engines that keep none and honour rights: a page that was not written since the last look lacks the right to be
/// written, so that the first write exits, and is noted, and the page has the right from then on. Thread-safe.
/// </summary>
/// <remarks>
/// The lock makes "noted, with the right" and "taken from the log, without the right" each one step: a write between the two would be lost. Who holds it waits
/// for vCPUs inside <see cref="IVirtualCpu.Enter"/>, and only those outside wait for it.
/// </remarks>
internal sealed class ProtectedPageLog(GuestMemory memory) : IDirtyPageLog
{
    private const int PagesPerWord = 64;
    private const PageRights Protected = PageRights.All & ~PageRights.Write;

    private readonly Lock _lock = new();
    private ulong[]? _written; // by the page's place in the backing memory; null: off

    public void Enable(bool on)
    {
        lock (_lock)
        {
            if (on == _written is not null && !on) return;
            _written = on ? new ulong[(memory.Size / GuestMemory.PageSize + PagesPerWord - 1) / PagesPerWord] : null;
            memory.Rights.Set(0, memory.Size, on ? Protected : PageRights.All);
        }
    }

    /// <summary>Answers a vCPU's write that was refused. False: it was for another reason.</summary>
    public bool Note(VmExit exit)
    {
        if ((exit.Violation.Wanted & PageRights.Write) == 0 || !memory.TryFind(exit.Address, out MemoryRegion region)) return false;
        ulong offset = (region.Offset + (exit.Address - region.Start)) & ~(GuestMemory.PageSize - 1);
        lock (_lock)
        {
            if (_written is not { } written) return (memory.Rights[offset] & PageRights.Write) != 0; // the log was switched off meanwhile
            ulong page = offset >> GuestMemory.PageShift;
            written[page / PagesPerWord] |= 1ul << (int)(page % PagesPerWord);
            memory.Rights.Set(offset, GuestMemory.PageSize, PageRights.All);
            return true;
        }
    }

    public ulong[] Take(int region)
    {
        MemoryRegion r = memory.Regions[region];
        ulong first = r.Offset >> GuestMemory.PageShift, count = r.Length >> GuestMemory.PageShift;
        var taken = new ulong[(count + PagesPerWord - 1) / PagesPerWord];
        lock (_lock)
        {
            if (_written is not { } written) return taken;
            bool any = false;
            for (ulong n = 0; n < count; n++)
            {
                ref ulong word = ref written[(first + n) / PagesPerWord];
                if (word == 0 && (first + n) % PagesPerWord == 0)
                {
                    n += PagesPerWord - 1; // none of these
                    continue;
                }
                ulong bit = 1ul << (int)((first + n) % PagesPerWord);
                if ((word & bit) == 0) continue;
                word &= ~bit;
                taken[n / PagesPerWord] |= 1ul << (int)(n % PagesPerWord);
                any = true;
            }
            if (any) memory.Rights.Set(r.Offset, taken, Protected);
        }
        return taken;
    }
}
