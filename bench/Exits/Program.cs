using System.Globalization;
using Bunraku;
using Bunraku.Bench.Exits;
using Bunraku.Engines;

// What exits cost on each engine that runs here, engines taking turns; medians. First the exit boundary alone: guest instruction, exit, nothing done about it,
// entry. Then a whole machine with devices: one vCPU, several vCPUs each with a device of its own, and several with one device.
// Usage: Exits [rounds [repetitions [vCPUs [engine,engine,…]]]]
int rounds = Argument(0, 9), count = Argument(1, 20_000), cpus = Argument(2, 4);
CpuModel model = CpuModels.Parse(CpuModels.Default);
IX86Engine[] engines = [.. KnownEngines.All.Where(e => e.Probe().Available && (args.Length < 4 || args[3].Split(',').Contains(e.Name)))];
foreach (IX86Engine engine in engines) Console.WriteLine($"{engine.Name,-8} {engine.Probe().Detail}");
Console.WriteLine($"{"boundary, ns",-44}{string.Concat(engines.Select(e => $"{e.Name,12}"))}    ({rounds} rounds of {count})");

foreach (MeasuredExit kind in MeasuredExit.All)
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
    Print(kind.Name, times);
    foreach (ExitLoop? loop in loops) loop?.Dispose();
}

Console.WriteLine("machine, ns of processor time for each access");
foreach ((int number, bool same) in new[] { (1, false), (cpus, false), (cpus, true) })
{
    foreach (DeviceAccess access in DeviceAccess.All)
    {
        var times = engines.Select(_ => new List<double>()).ToArray();
        var waits = engines.Select(_ => new List<double>()).ToArray();
        for (int round = -1; round < rounds; round++)
        {
            for (int n = 0; n < engines.Length; n++)
            {
                if (engines[n].MaxCpus < number) continue;
                (double ns, double contentions) = MachineLoop.Measure(engines[n], model, access, number, same, count);
                if (round < 0) continue;
                times[n].Add(ns);
                waits[n].Add(contentions);
            }
        }
        string who = number == 1 ? "1 vCPU" : same ? $"{number} vCPUs, one device" : $"{number} vCPUs, {number} devices";
        Print($"{access.Name}, {who}", times);
        if (number > 1) Print("    waits for a lock, per 1000", waits, "F2");
    }
}

int Argument(int n, int otherwise) => args.Length > n ? int.Parse(args[n], CultureInfo.InvariantCulture) : otherwise;

static void Print(string name, List<double>[] values, string format = "F0")
{
    Console.Write($"{name,-44}");
    foreach (List<double> v in values)
    {
        string median = v.Count == 0 ? "-" : v.Order().ElementAt(v.Count / 2).ToString(format, CultureInfo.InvariantCulture);
        Console.Write(median.PadLeft(12));
    }
    Console.WriteLine();
}
