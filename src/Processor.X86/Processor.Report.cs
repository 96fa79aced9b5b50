using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>What the processor tells of itself while it runs, to any thread.</summary>
internal sealed unsafe partial class Processor
{
    /// <inheritdoc cref="IVirtualCpu.Work"/>
    public CpuWork? Work
    {
        get
        {
            lock (_disposal) return _disposed ? CpuWork.Outside : (CpuWork)Volatile.Read(ref *(byte*)&State->Work);
        }
    }

    /// <inheritdoc cref="IVirtualCpu.Execution"/>
    public ExecutionReport? Execution
    {
        get
        {
            lock (_disposal) return _disposed ? null : new ExecutionReport([.. Caches()], [.. Counts()]);
        }
    }

    /// <inheritdoc cref="IVirtualCpu.ObserveCode"/>
    public bool ObserveCode(IHostCodeObserver observer)
    {
        Translator?.ObserveCode(observer);
        return Translator != null;
    }

    /// <summary>Sees guests inside the guest come and go; null: nobody does.</summary>
    public INestedObserver? NestedObserver { get; private set; }

    /// <inheritdoc cref="IX86Cpu.ObserveNested"/>
    public bool ObserveNested(INestedObserver observer)
    {
        NestedObserver = observer;
        return GuestHypervisor != null;
    }

    private IEnumerable<EngineCache> Caches()
    {
        (ulong used, ulong size) = Code.ArenaBytes;
        yield return new EngineCache("decoded operations", used, size, InBytes: true);
        foreach (EngineCache cache in Translator?.Caches ?? []) yield return cache;
        yield return new EngineCache("jump cache", CountJumps(), ProcessorState.JumpSize, InBytes: false);
        yield return new EngineCache("TLB", CountTlb(), ProcessorState.TlbSize, InBytes: false);
    }

    private IEnumerable<EngineCount> Counts()
    {
        yield return new EngineCount("blocks looked up", Blocks.LookUps);
        yield return new EngineCount("generations", (ulong)Code.GenerationCount);
        foreach (FlushCause cause in Enum.GetValues<FlushCause>())
        {
            if (cause is FlushCause.Translations or FlushCause.Modes or FlushCause.Mappings && Translator == null) continue;
            yield return new EngineCount("given up for " + cause switch
            {
                FlushCause.Operations => "decoded operations",
                FlushCause.Translations => "translated code",
                FlushCause.Modes => "modes",
                FlushCause.Mappings => "mappings",
                FlushCause.Thunks => "host routines",
                _ => "intercepts",
            }, Code.FlushesFor(cause));
        }
        (WalkCount plain, WalkCount one, WalkCount two) = Walker.Counts;
        foreach ((string name, WalkCount count) in ((string, WalkCount)[])
            [(EngineCounts.Walks, plain), (EngineCounts.OneStageWalks, one), (EngineCounts.TwoStageWalks, two)])
        {
            if (name != EngineCounts.Walks && GuestHypervisor == null) continue;
            yield return new EngineCount(name, count.Walks);
            yield return new EngineCount(name + EngineCounts.Entries, count.References);
        }
        foreach (EngineCount count in Direct?.Counters.All ?? []) yield return count;
        foreach (EngineCount count in Translator?.Counts ?? []) yield return count;
    }

    /// <summary>Entries of the present generation.</summary>
    private ulong CountJumps()
    {
        var entries = (JumpEntry*)State->JumpBytes;
        uint epoch = State->JumpEpoch;
        ulong count = 0;
        for (int n = 0; n < ProcessorState.JumpSize; n++) count += entries[n].Key >> (ModeKey.Bits + Tlb.ContextBits) == epoch ? 1u : 0;
        return count;
    }

    /// <summary>Entries of all address spaces.</summary>
    private ulong CountTlb()
    {
        var entries = (TlbEntry*)State->TlbBytes;
        ulong count = 0;
        for (int n = 0; n < ProcessorState.TlbSize; n++) count += Tlb.Holds(entries[n]) ? 1u : 0;
        return count;
    }
}
