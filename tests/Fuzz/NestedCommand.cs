using System.Diagnostics;
using Bunraku.DeviceFuzz;
using Bunraku.Engine.Check;
using Bunraku.Engines;
using Bunraku.Silicon;

namespace Bunraku.Fuzz;

/// <summary>Hostile hypervisors inside guests, one after the other, beside a guest that must not notice.</summary>
internal static class NestedCommand
{
    private const string Usage = "usage: fuzz-nested [--engine NAME] [--count ENTRIES] [--seed N] [--vendor amd|intel|both] "
        + "[--rounds N] [--first ROUND] [--alone on|off]";

    /// <summary>Both engines, which must agree at each exit and every few hundred instructions.</summary>
    private static CheckEngine Compared => new(SoftwareEngines.Find("bt", threshold: 2), SoftwareEngines.Reference) { Interval = CheckInterval.Every(300) };

    public static int Run(string[] args)
    {
        int rounds = 2000, firstRound = 0;
        IX86Engine engine = SoftwareEngines.All[^1];
        bool[] vendors = [false, true];
        bool? alone = null;
        if (Options.Read("fuzz-nested", Usage, args, 1_000_000, Take) is not var (count, seed)) return 2;
        Console.WriteLine($"{count:N0} entries into guests of hostile hypervisors on {engine.Name}, seeds from {seed} on");
        var bystander = new BystanderLives(engine);
        var watch = Stopwatch.StartNew();
        TimeSpan shown = TimeSpan.Zero;
        ulong first = seed, entries = 0, exits = 0;
        var reasons = new SortedDictionary<string, ulong>();
        string? failure = null;
        for (; entries < (ulong)count && failure == null && !bystander.HasEnded; seed++)
        {
            bool isVmx = vendors[seed % (ulong)vendors.Length];
            // Half of the machines have no other processor, so that what they find can be found again.
            bool scribbles = !(alone ?? (seed / 2 & 1) == 0);
            NestedFuzzResult result = new NestedFuzzer(engine, isVmx).Run(seed, rounds, scribbles, firstRound);
            entries += result.Entries;
            exits += result.Exits;
            foreach ((ulong reason, ulong times) in result.Reasons)
            {
                string name = isVmx ? VmxNames.Of((VmxExitReason)(ushort)reason) : SvmNames.Of((SvmExit)reason);
                reasons[name] = reasons.GetValueOrDefault(name) + times;
            }
            if (result.Failure != null)
                failure = $"seed {seed}, {(isVmx ? "VMX" : "SVM")}, {(scribbles ? "with" : "without")} another processor: {result.Failure}";
            if (watch.Elapsed - shown < TimeSpan.FromSeconds(10)) continue;
            shown = watch.Elapsed;
            Console.WriteLine(Line());
        }
        string? trouble = bystander.Stop();
        failure ??= trouble;
        Console.WriteLine(string.Join(", ", reasons.OrderByDescending(r => r.Value).Select(r => $"{r.Key} {r.Value:N0}")));
        if (failure != null) Console.WriteLine(failure);
        Console.WriteLine($"{Line()}, seeds {first} to {seed - 1}: {(failure == null ? "nothing found" : "FAILED")}");
        return failure == null ? 0 : 1;

        string Line() => $"{entries:N0} entries, {exits:N0} exits, {seed - first} machines, {bystander.Count} lives of the bystander, "
            + $"{watch.Elapsed.TotalSeconds:F0} s, {entries / watch.Elapsed.TotalSeconds / 1e3:F1} thousand/s";

        bool Take(string name, string value)
        {
            switch (name)
            {
                case "--rounds": rounds = (int)Options.Count(value); break;
                case "--engine": engine = value == "check" ? Compared : SoftwareEngines.Find(value, threshold: 2); break;
                case "--vendor": vendors = value switch { "amd" => [false], "intel" => [true], _ => vendors }; break;
                case "--first": firstRound = (int)Options.Count(value); break;
                case "--alone": alone = value == "on"; break;
                default: return false;
            }
            return true;
        }
    }
}
