using Bunraku.Engines;

namespace Bunraku.Engines.X86;

/// <summary>Names of counts (<see cref="EngineCount"/>) that somebody looks for.</summary>
public static class EngineCounts
{
    /// <summary>Page walks outside guests of a hypervisor inside the guest.</summary>
    public const string Walks = "page walks";

    /// <summary>Page walks in guests of a hypervisor inside the guest that has no second stage: its shadow page tables are walked.</summary>
    public const string OneStageWalks = "guests' one-stage walks";

    /// <summary>Page walks in guests of a hypervisor inside the guest through its second stage.</summary>
    public const string TwoStageWalks = "guests' two-stage walks";

    /// <summary>Behind the name of a kind of walks: the paging-structure entries that they read, of both stages.</summary>
    public const string Entries = ": entries";
}
