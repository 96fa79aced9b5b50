using System.CommandLine;
using System.CommandLine.Help;

namespace Bunraku.Compare;

/// <summary>The guest kernel's mitigations against speculation: its own choice, none, or both in turns for the operating-system workloads.</summary>
internal enum Mitigations { Default, Off, Both }

/// <summary>What the table shows; the JSON has both.</summary>
internal enum TimeBasis
{
    /// <summary>The host's clock: what people wait for.</summary>
    Wall,
    /// <summary>Processor time of the monitor, all its threads: what can still be compared on a host that others use.</summary>
    Cpu,
}

/// <summary>What is to be measured.</summary>
/// <param name="Runs">Rounds; in each, every subject has its turn.</param>
/// <param name="Subjects">Names in the order in which they are shown; native is always there.</param>
/// <param name="Only">Names of workloads and groups; empty for all.</param>
/// <param name="Milliseconds">How long one measurement lasts at least.</param>
/// <param name="Programs">Programs of the distribution in place of our own workloads.</param>
/// <param name="Footprint">The same code in sizes from small to large in place of all other workloads.</param>
/// <param name="Nested">Workloads in guests of hypervisors inside the guest as well.</param>
/// <param name="Picture">The file for the curve of <paramref name="Footprint"/>; null for the usual place.</param>
/// <param name="Cpus">Processors of the guest.</param>
/// <param name="Against">The folder of another state of the project, whose engines are measured beside ours; null for none.</param>
/// <param name="Json">The file for all figures; null for the usual place.</param>
/// <param name="Prepare">Build the guest, say where it is, and measure nothing.</param>
internal sealed record CompareOptions(
    int Runs, IReadOnlyList<string> Subjects, IReadOnlyList<string> Only, Mitigations Mitigations, TimeBasis Time, int Milliseconds, bool Programs,
    bool Footprint, bool Nested, string? Picture, int Cpus,
    string? Against, string? Json, bool Prepare)
{
    /// <summary>The first word for who wants <see cref="Programs"/>.</summary>
    private const string ProgramsWord = "programs";
    /// <summary>And for <see cref="Footprint"/>.</summary>
    private const string FootprintWord = "footprint";
    /// <summary>And for <see cref="Nested"/>.</summary>
    private const string NestedWord = "nested";

    private static readonly string[] Known =
        ["bt", BunrakuSubject.Direct, "interp", "kvm", "qemu", "bochs", "bt-vmx", "bt-svm", "interp-vmx", "interp-svm", "qemu-svm"];

    /// <returns>Null when help was asked for and printed.</returns>
    /// <exception cref="BenchException">Wrong usage.</exception>
    public static CompareOptions? Parse(string[] args)
    {
        bool programs = args is [ProgramsWord, ..];
        bool footprint = args is [FootprintWord, ..];
        bool nested = args is [NestedWord, ..];
        if (programs || footprint || nested) args = args[1..];
        string standard = nested ? "bt,bt-vmx,bt-svm,qemu,qemu-svm" : programs || footprint ? "bt,qemu" : "bt,interp,qemu";
        var runs = new Option<int?>("--runs") { Description = "rounds, each subject once in each (default 3)", HelpName = "N" };
        var engines =
            new Option<string>("--engines")
            {
                Description = "what is compared: bt, direct (bt with --direct auto), interp, kvm, qemu, bochs" + (nested
                    ? ", and with -vmx or -svm behind bt and interp, with -svm behind qemu, a guest of KVM in the guest" : "")
                    + $" (default {standard}; Bochs has one round)",
                HelpName = "NAMES",
                DefaultValueFactory = _ => standard
            };
        var cpus = new Option<int>("--cpus") { Description = "processors of the guest (default 1)", HelpName = "N", DefaultValueFactory = _ => 1 };
        var only = new Option<string>("--only")
        {
            Description = programs ? "programs, by name"
            : footprint ? "sizes: code-64k to code-64m in powers of two"
            : "workloads, or the groups integer, float, simd, compute, os, boot",
            HelpName = "NAMES",
            DefaultValueFactory = _ => ""
        };
        var mitigations = new Option<string>("--mitigations")
        {
            Description = "of the guest's kernel: default, off, or both side by side",
            HelpName = "WHICH",
            DefaultValueFactory = _ => "default"
        };
        var time = new Option<string>("--time")
        {
            Description = "what the table shows: wall, or cpu, the processor time that the monitor used, for a busy host",
            HelpName = "WHICH",
            DefaultValueFactory = _ => "wall"
        };
        var against = new Option<string?>("--against")
        {
            Description = "another checkout of Bunraku: its engines are measured too, and ours compared with them",
            HelpName = "FOLDER"
        };
        var json = new Option<string?>("--json") { Description = "where all figures go (default artifacts/bench/compare.json)", HelpName = "FILE" };
        var quick = new Option<bool>("--quick") { Description = "one round with short measurements" };
        var prepare = new Option<bool>("--prepare") { Description = "only build the guest and say how to boot it" };
        var root = new RootCommand($"Runs the same {(programs ? "programs" : "workloads")} natively, under Bunraku's engines, QEMU's TCG and Bochs, in " +
            "turns, and prints medians and ratios.") { runs, engines, only, mitigations, time, cpus, against, json, quick, prepare };
        var picture = new Option<string?>("--picture") { Description = "where the curve goes (default artifacts/bench/footprint.svg)", HelpName = "FILE" };
        if (footprint) root.Add(picture);
        ParseResult parsed = root.Parse(args, new ParserConfiguration { EnablePosixBundling = false, ResponseFileTokenReplacer = null });
        if (parsed.Action is HelpAction or { Terminating: true } && parsed.Errors.Count == 0)
        {
            parsed.Invoke();
            return null;
        }
        if (parsed.Errors.Count > 0) throw Usage(parsed.Errors[0].Message.ReplaceLineEndings(" "));
        bool fast = parsed.GetValue(quick);
        int rounds = parsed.GetValue(runs) ?? (fast ? 1 : 3);
        int processors = parsed.GetValue(cpus);
        if (processors is < 1 or > 64) throw Usage($"--cpus {processors}: from 1 to 64");
        if (rounds is < 1 or > 1000) throw Usage($"--runs {rounds}: from 1 to 1000");
        string[] subjects = List(parsed.GetValue(engines)!);
        if (subjects.FirstOrDefault(s => !Known.Contains(s)) is { } unknown) throw Usage($"--engines: '{unknown}' is none of {string.Join(", ", Known)}");
        if (!nested && subjects.FirstOrDefault(s => s.Contains('-')) is { } inside) throw Usage($"--engines: '{inside}' goes with bench/nested");
        if (programs && subjects.Contains("bochs")) throw Usage("--engines: Bochs does not run the programs");
        return new(rounds, subjects, List(parsed.GetValue(only)!), Choice<Mitigations>(mitigations), Choice<TimeBasis>(time), fast ? 100 : 300, programs,
            footprint, nested, footprint ? parsed.GetValue(picture) : null, processors, parsed.GetValue(against), parsed.GetValue(json),
            parsed.GetValue(prepare));

        T Choice<T>(Option<string> option) where T : struct, Enum
        {
            string word = parsed.GetValue(option)!;
            string[] names = [.. Enum.GetNames<T>().Select(n => n.ToLowerInvariant())];
            return names.Contains(word) ? Enum.Parse<T>(word, ignoreCase: true) : throw Usage($"{option.Name}: '{word}' is none of {string.Join(", ", names)}");
        }

        static string[] List(string text) => [.. text.Split(',', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries).Distinct()];
        static BenchException Usage(string message) => new(message, exitStatus: 2);
    }
}
