using System.Globalization;
using Bunraku;
using Bunraku.Bench.Nested;
using Bunraku.Engines;

// What an exit of a guest inside the guest costs, with the entry behind it: engines and vendors take turns; medians of nanoseconds.
// Usage: Nested [rounds [exits [engine,engine,…]]]
int rounds = Argument(0, 9), count = Argument(1, 100_000);
string[] names = args.Length > 2 ? args[2].Split(',') : ["interp", "bt"];
IX86Engine[] engines = [.. KnownEngines.All.Where(e => names.Contains(e.Name))];
(IX86Engine Engine, bool IsVmx)[] columns = [.. engines.SelectMany(e => (bool[])[false, true], (e, isVmx) => (e, isVmx))];
Console.WriteLine($"{"ns",-24}{string.Concat(columns.Select(c => $"{c.Engine.Name + (c.IsVmx ? " VMX" : " SVM"),12}"))}    ({rounds} rounds of {count})");
foreach (NestedExit kind in Enum.GetValues<NestedExit>())
{
    NestedLoop[] loops = [.. columns.Select(c => new NestedLoop(c.Engine, c.IsVmx, kind))];
    List<double>[] times = [.. loops.Select(_ => new List<double>())];
    for (int round = -2; round < rounds; round++) // two to warm up
    {
        for (int n = 0; n < loops.Length; n++)
        {
            double ns = loops[n].Measure(kind == NestedExit.SecondStage ? count / 10 : count);
            if (round >= 0) times[n].Add(ns);
        }
    }
    string what = kind switch { NestedExit.Empty => "VMCALL, VMMCALL", NestedExit.Cpuid => "CPUID", _ => "second-stage violation" };
    Console.WriteLine($"{what,-24}{string.Concat(times.Select(t => $"{t.Order().ElementAt(t.Count / 2),12:F0}"))}");
    foreach (NestedLoop loop in loops) loop.Dispose();
}

int Argument(int n, int otherwise) => args.Length > n ? int.Parse(args[n], CultureInfo.InvariantCulture) : otherwise;
