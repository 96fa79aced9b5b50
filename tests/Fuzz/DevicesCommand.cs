using System.Diagnostics;
using Bunraku.DeviceFuzz;
using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Silicon;

namespace Bunraku.Fuzz;

/// <summary>Hostile guests on a full board, one after the other, beside a guest that must not notice.</summary>
internal static class DevicesCommand
{
    private const string Usage = "usage: fuzz-devices [--engine NAME] [--count ACCESSES] [--seed N] [--cpus N] [--each ACCESSES]";

    public static int Run(string[] args)
    {
        long each = 200_000;
        int cpus = 1;
        IX86Engine engine = SoftwareEngines.All[^1];
        if (Options.Read("fuzz-devices", Usage, args, 5_000_000, Take) is not var (count, seed)) return 2;
        Console.WriteLine($"{count:N0} accesses by hostile guests with {cpus} processors on {engine.Name}, {each:N0} at most for each, seeds from {seed} on");
        var fuzzer = new DeviceFuzzer(engine, cpus);
        var watch = Stopwatch.StartNew();
        TimeSpan shown = TimeSpan.Zero;
        ulong first = seed, accesses = 0, interrupts = 0;
        var ends = new SortedDictionary<StopReason, int>();
        var bystander = new BystanderLives(engine);
        string? failure = null;
        for (; accesses < (ulong)count && failure == null && !bystander.HasEnded; seed++)
        {
            DeviceFuzzResult result = fuzzer.Run(seed, (ulong)each);
            accesses += result.Accesses;
            interrupts += result.Interrupts;
            if (result.Cause is { } cause) ends[cause.Reason] = ends.GetValueOrDefault(cause.Reason) + 1;
            if (result.Failure != null) failure = $"seed {result.Seed}, after {result.Accesses:N0} accesses: {result.Failure}";
            if (watch.Elapsed - shown < TimeSpan.FromSeconds(10)) continue;
            shown = watch.Elapsed;
            Console.WriteLine(Line());
        }
        string? trouble = bystander.Stop();
        failure ??= trouble;
        if (failure != null) Console.WriteLine(failure);
        Console.WriteLine($"{Line()}, seeds {first} to {seed - 1}: {(failure == null ? "nothing found" : "FAILED")}");
        return failure == null ? 0 : 1;

        string Line() => $"{accesses:N0} accesses, {interrupts:N0} interrupts, {seed - first} VMs " +
            $"({string.Join(", ", ends.Select(e => $"{e.Value} {e.Key}"))}), {bystander.Count} lives of the bystander, "
            + $"{watch.Elapsed.TotalSeconds:F0} s, {accesses / watch.Elapsed.TotalSeconds / 1e3:F0} thousand/s";

        bool Take(string name, string value)
        {
            switch (name)
            {
                case "--each": each = Options.Count(value); break;
                case "--engine": engine = SoftwareEngines.Find(value, threshold: 2); break;
                case "--cpus": cpus = (int)Math.Clamp(Options.Number(value), 1, HostileGuest.MostCpus); break;
                default: return false;
            }
            return true;
        }
    }
}
