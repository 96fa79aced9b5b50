using System.Globalization;
using Bunraku.Bench.Exits;
using Bunraku.Cli.Running;
using Bunraku.Engines;

// Cost of an exit round trip on each engine that runs here: guest instruction, exit, nothing done about it, entry. Engines take turns; medians.
// Usage: Exits [rounds [repetitions]]
int rounds = args.Length > 0 ? int.Parse(args[0], CultureInfo.InvariantCulture) : 9, count = args.Length > 1 ? int.Parse(args[1], CultureInfo.InvariantCulture) : 20_000;
CpuModel model = KnownEngines.ParseModel(null);
IEngine[] engines = [.. KnownEngines.All.Where(e => e.Probe().Available)];
foreach (IEngine engine in engines) Console.WriteLine($"{engine.Name,-8} {engine.Probe().Detail}");
Console.WriteLine($"{"ns",-28}{string.Concat(engines.Select(e => $"{e.Name,10}"))}    ({rounds} rounds of {count})");

foreach (ExitKind kind in ExitKind.All)
{
    ExitLoop?[] loops = [.. engines.Select(e => ExitLoop.TryCreate(e, model, kind))];
    var times = loops.Select(_ => new List<double>()).ToArray();
    for (int round = -2; round < rounds; round++) // two to warm up
    {
        for (int n = 0; n < loops.Length; n++)
        {
            double? ns = loops[n]?.Measure(kind, count);
            if (round >= 0 && ns is { } value) times[n].Add(value);
        }
    }
    Console.WriteLine($"{kind.Name,-28}{string.Concat(times.Select(t => t.Count == 0 ? $"{"-",10}" : t.Order().ElementAt(t.Count / 2).ToString("F0", CultureInfo.InvariantCulture).PadLeft(10)))}");
    foreach (ExitLoop? loop in loops) loop?.Dispose();
}
