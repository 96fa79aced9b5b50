using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>What direct execution of one vCPU has done. Written by its thread, read by any.</summary>
internal sealed class DirectCounters
{
    public ulong HelpersStarted, Entries, SystemCalls, Faults, Traps, Interruptions, Guarded, Fills, PagesRefused, Stretches, Unsuitable;
    public ulong PagesMapped, PagesDropped;
    /// <summary>Processor time in nanoseconds: what programs computed, and what starting, entering, leaving and mapping took.</summary>
    public ulong Computed, Paid;

    public IEnumerable<EngineCount> All =>
    [
        new("direct: helpers started", HelpersStarted),
        new("direct: computed, microseconds", Computed / 1000),
        new("direct: paid for it, microseconds", Paid / 1000),
        new("direct: stretches", Stretches),
        new("direct: not suitable", Unsuitable),
        new("direct: entries", Entries),
        new("direct: left for a system call", SystemCalls),
        new("direct: left for a page", Faults),
        new("direct: left for a trap", Traps),
        new("direct: left for a guarded place", Guarded),
        new("direct: left for attention", Interruptions),
        new("direct: mappings made", Fills),
        new("direct: pages mapped", PagesMapped),
        new("direct: pages dropped", PagesDropped),
        new("direct: pages of code refused", PagesRefused),
    ];
}
