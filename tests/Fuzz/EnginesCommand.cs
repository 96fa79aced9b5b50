using System.Diagnostics;
using Bunraku.Differential;
using Bunraku.Engines;
using Bunraku.Processor.X86;
using Bunraku.Silicon;

namespace Bunraku.Fuzz;

/// <summary>Random programs on two engines, compared.</summary>
internal static class EnginesCommand
{
    private const string Usage =
        "usage: fuzz-engines [--subject NAME] [--reference NAME] [--threshold N] [--count INSTRUCTIONS] [--seed N] [--programs N] [--mode MODE] [--vendor " +
            "amd|intel] [--caches usual|tiny] [--direct yes] [--print yes]";

    public static int Run(string[] args)
    {
        long programs = long.MaxValue;
        string subjectName = SoftwareEngines.All[^1].Name, referenceName = SoftwareEngines.Reference.Name;
        int threshold = 2;
        IX86Engine subject = SoftwareEngines.Reference, reference = subject;
        ProgramMode? mode = null;
        bool print = false, direct = false;
        CpuModel model = HostModel.Amd;
        CodeCacheSizes sizes = CodeCacheSizes.Usual;
        if (Options.Read("fuzz-engines", Usage, args, 100_000_000, Take, Then) is not var (count, seed)) return 2;
        using var fuzzer = new ProgramFuzzer(subject, reference, model) { Mode = direct ? ProgramMode.Long3 : mode, Synchronous = direct };
        if (print)
        {
            Console.WriteLine(fuzzer.Print(seed));
            return 0;
        }
        Console.WriteLine($"{count:N0} instructions of random programs on {subject.Name} and {reference.Name}, a CPU of {model.Vendor}, seeds from {seed} on");
        var watch = Stopwatch.StartNew();
        TimeSpan shown = TimeSpan.Zero;
        ulong first = seed;
        int differing = 0;
        for (; fuzzer.Retired < (ulong)count && (long)(seed - first) < programs && differing < 5; seed++)
        {
            if (fuzzer.Run(seed) is { } difference)
            {
                differing++;
                Console.WriteLine(difference);
            }
            if (watch.Elapsed - shown < TimeSpan.FromSeconds(10)) continue;
            shown = watch.Elapsed;
            Console.WriteLine(Line());
        }
        Console.WriteLine($"{Line()}, seeds {first} to {seed - 1}, {differing} differ");
        return differing == 0 ? 0 : 1;

        string Line() => $"{fuzzer.Retired:N0} instructions, {fuzzer.Programs:N0} programs, {fuzzer.Exceptions:N0} exceptions, {fuzzer.Exits:N0} exits, " +
            $"{fuzzer.TripleFaults} shutdowns, {fuzzer.TimedOut} cut short, {fuzzer.CodeFlushes:N0} times code given up, "
            + (direct ? $"{fuzzer.DirectEntries:N0} direct entries, " : "")
            + $"{watch.Elapsed.TotalSeconds:F0} s, {fuzzer.Retired / watch.Elapsed.TotalSeconds / 1e6:F1} million/s";

        bool Take(string name, string value)
        {
            switch (name)
            {
                case "--programs": programs = Options.Count(value); break;
                case "--subject": subjectName = value; break;
                case "--reference": referenceName = value; break;
                case "--threshold": threshold = (int)Math.Clamp(Options.Number(value), 1, 1_000_000); break;
                case "--mode":
                    mode = Enum.TryParse(value, ignoreCase: true, out ProgramMode m) ? m
                    : throw new FormatException(Nearest.Message("mode", value, Enum.GetNames<ProgramMode>())); break;
                case "--vendor":
                    model = value switch
                    {
                        "amd" => HostModel.Amd,
                        "intel" => HostModel.Intel,
                        _ => throw new FormatException(Nearest.Message("vendor", value, ["amd", "intel"]))
                    }; break;
                case "--caches":
                    sizes = value switch
                    {
                        "usual" => CodeCacheSizes.Usual,
                        "tiny" => CodeCacheSizes.Tiny,
                        _ => throw new FormatException(Nearest.Message("size of caches", value, ["usual", "tiny"]))
                    }; break;
                case "--direct": direct = true; break;
                case "--print": print = true; break;
                default: return false;
            }
            return true;
        }

        void Then()
        {
            subject = direct ? new TranslatorEngine(threshold) { Direct = DirectUse.Always, Sizes = sizes }
                : SoftwareEngines.Find(subjectName, threshold, sizes);
            if (direct && TranslatorEngine.WhyNotDirect() is { } reason) throw new FormatException($"direct execution does not work here: {reason}");
            reference = SoftwareEngines.Find(referenceName, threshold);
        }
    }
}
