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
    private const PageRights Protected = PageRights.All & ~PageRights.Write;

    private readonly Lock _lock = new();
    private readonly WrittenPages _written = new(memory.Size);
    private bool _on;

    public void Enable(bool on)
    {
        lock (_lock)
        {
            if (!on && !_on) return;
            _on = on;
            _written.Enable(on);
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
            if (!_on) return (memory.Rights[offset] & PageRights.Write) != 0; // the log was switched off meanwhile
            _written.Mark(offset);
            memory.Rights.Set(offset, GuestMemory.PageSize, PageRights.All);
            return true;
        }
    }

    public ulong[] Take(int region)
    {
        MemoryRegion r = memory.Regions[region];
        lock (_lock)
        {
            ulong[] taken = _written.Take(r);
            if (taken.AsSpan().ContainsAnyExcept(0ul)) memory.Rights.Set(r.Offset, taken, Protected);
            return taken;
        }
    }
}
