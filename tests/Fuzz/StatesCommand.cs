using System.Diagnostics;
using Bunraku.DeviceFuzz;
using Bunraku.Engines;
using Bunraku.Silicon;

namespace Bunraku.Fuzz;

/// <summary>Linux is saved at random instructions and continued in another machine, hundreds of times; both must stay equal.</summary>
internal static class StatesCommand
{
    private const string Usage = "usage: fuzz-states [--engine NAME] [--second NAME] [--count ROUNDS] [--seed N] [--cpus N] [--instructions N]";

    public static int Run(string[] args)
    {
        long instructions = 1_000_000;
        int cpus = 1;
        IX86Engine engine = SoftwareEngines.All[^1];
        IX86Engine? second = null;
        if (Options.Read("fuzz-states", Usage, args, 300, Take) is not var (count, seed)) return 2;
        Console.WriteLine(
            $"{count:N0} rounds on {engine.Name}, copies on {(second ?? engine).Name}, {cpus} processors, {instructions:N0} instructions each, seed {seed}");
        using var rounds = new SaveRounds(engine, second ?? engine, cpus, unchecked((int)seed)) { Instructions = (ulong)instructions };
        var watch = Stopwatch.StartNew();
        TimeSpan shown = TimeSpan.Zero;
        for (long n = 0; n < count; n++)
        {
            if (rounds.Run() is { } trouble)
            {
                Console.WriteLine($"round {n}: {trouble}");
                return 1;
            }
            if (watch.Elapsed - shown < TimeSpan.FromSeconds(10)) continue;
            shown = watch.Elapsed;
            Console.WriteLine($"{n + 1} rounds, {watch.Elapsed.TotalSeconds:F0} s");
        }
        Console.WriteLine($"{count} rounds without a difference, {watch.Elapsed.TotalSeconds:F0} s; vCPUs were saved in: " +
            $"{string.Join(", ", rounds.Moments.Select(m => $"{m.Key} {m.Value}"))}");
        return 0;

        bool Take(string name, string value)
        {
            switch (name)
            {
                case "--instructions": instructions = Options.Count(value); return true;
                case "--engine": engine = SoftwareEngines.Find(value, threshold: 2); return true;
                case "--second": second = SoftwareEngines.Find(value, threshold: 2); return true;
                case "--cpus": cpus = (int)Math.Clamp(Options.Number(value), 1, 16); return true;
                default: return false;
            }
        }
    }
}
