using System.Diagnostics;
using Bunraku.Engines;
using Bunraku.Silicon;
using Iced.Intel;

namespace Bunraku.Fuzz;

/// <summary>
/// The longer comparison with the host's silicon: random instruction sequences until enough instructions were compared.
/// With --form it runs the instruction forms whose name contains the text and prints what differs.
/// </summary>
internal static class SiliconCommand
{
    private const string Usage = "usage: fuzz-silicon [--count INSTRUCTIONS] [--seed N] [--engine NAME] [--form TEXT]";

    public static int Run(string[] args)
    {
        IX86Engine engine = SoftwareEngines.Reference;
        string? form = null;
        if (Options.Read("fuzz-silicon", Usage, args, 100_000_000, Take) is not var (count, seed)) return 2;
        if (HostSilicon.WhyNot() is { } reason)
        {
            Console.Error.WriteLine($"nothing can be compared here: {reason}");
            return 2;
        }
        CpuModel model = HostModel.Like;
        using var host = new HostSilicon();
        using var guest = new GuestRig(engine, model);
        var comparer = new Comparer(host, guest);
        return form != null ? Forms(comparer, model, seed, form) : Sequences(comparer, guest, model, seed, count);

        bool Take(string name, string value)
        {
            switch (name)
            {
                case "--engine": engine = SoftwareEngines.Find(value, threshold: 2); break;
                case "--form": form = value; break;
                default: return false;
            }
            return true;
        }
    }

    private static int Sequences(Comparer comparer, GuestRig guest, CpuModel model, ulong seed, long count)
    {
        var watch = Stopwatch.StartNew();
        var fuzzer = new SequenceFuzzer(comparer, guest, model);
        ulong first = seed;
        Console.WriteLine($"{count:N0} instructions in random sequences, seeds from {first} on");
        TimeSpan shown = TimeSpan.Zero;
        int differing = 0;
        for (; fuzzer.Compared < count && differing < 10; seed++)
        {
            if (fuzzer.Run(seed) is { } difference)
            {
                differing++;
                Console.WriteLine(difference);
            }
            if (watch.Elapsed - shown < TimeSpan.FromSeconds(10)) continue;
            shown = watch.Elapsed;
            Console.WriteLine($"{fuzzer.Compared:N0} instructions compared, {seed - first + 1} sequences, {watch.Elapsed.TotalSeconds:F0} s");
        }
        Console.WriteLine($"{fuzzer.Compared:N0} instructions compared in {seed - first} sequences with seeds {first} to {seed - 1}, {differing} differ, " +
            $"{watch.Elapsed.TotalSeconds:F0} s");
        return differing == 0 ? 0 : 1;
    }

    private static int Forms(Comparer comparer, CpuModel model, ulong seed, string text)
    {
        var watch = Stopwatch.StartNew();
        var tester = new FormTester(comparer, model);
        int forms = 0, differing = 0;
        foreach (int bitness in (int[])[64, 32, 16])
        {
            foreach (Code code in FormList.For(model, bitness))
            {
                if (!code.ToString().Contains(text, StringComparison.OrdinalIgnoreCase) || Exclusions.Reason(code) != null) continue;
                forms++;
                var differences = new List<Difference>();
                if (!tester.Run(code, bitness, seed, differences)) Console.WriteLine($"{bitness}-bit {code}: no encoding");
                if (differences.Count == 0) continue;
                differing++;
                foreach (Difference d in differences) Console.WriteLine(d);
            }
        }
        Console.WriteLine($"{forms} forms, {comparer.Trials:N0} trials, {differing} forms differ, {watch.Elapsed.TotalSeconds:F0} s");
        return differing == 0 ? 0 : 1;
    }
}
