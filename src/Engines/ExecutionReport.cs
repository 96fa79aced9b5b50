namespace Bunraku.Engines;

/// <summary>One cache of an engine.</summary>
/// <param name="Name">In a few words, for people.</param>
/// <param name="Used">How much of it holds something.</param>
/// <param name="Size">How much there is room for; 0: there is no limit.</param>
/// <param name="InBytes">Both are bytes; else entries.</param>
public sealed record EngineCache(string Name, ulong Used, ulong Size, bool InBytes);

/// <summary>Something that an engine counts since power-on.</summary>
/// <param name="Name">In a few words, for people.</param>
/// <param name="Value">Only grows.</param>
public sealed record EngineCount(string Name, ulong Value);

/// <summary>
/// How an engine in software executes a vCPU: its caches, and what it counts beyond <see cref="EngineCounters"/>. Names are the engine's own, so that what an
/// engine adds is shown without anybody else knowing of it.
/// </summary>
/// <param name="Caches">In the order in which they are shown.</param>
/// <param name="Counts">In the order in which they are shown.</param>
public sealed record ExecutionReport(IReadOnlyList<EngineCache> Caches, IReadOnlyList<EngineCount> Counts)
{
    /// <summary>Several vCPUs' as one: what has the same name is added. Null when there is none.</summary>
    public static ExecutionReport? Sum(IEnumerable<ExecutionReport?> reports)
    {
        ExecutionReport[] all = [.. reports.OfType<ExecutionReport>()];
        return all.Length == 0 ? null : new ExecutionReport(
            [.. all.SelectMany(r => r.Caches).GroupBy(c => (c.Name, c.InBytes))
                .Select(g => new EngineCache(g.Key.Name, Total(g, c => c.Used), Total(g, c => c.Size), g.Key.InBytes))],
            [.. all.SelectMany(r => r.Counts).GroupBy(c => c.Name).Select(g => new EngineCount(g.Key, Total(g, c => c.Value)))]);
    }

    private static ulong Total<T>(IEnumerable<T> items, Func<T, ulong> value) => items.Aggregate(0ul, (sum, item) => sum + value(item));
}
