using Bunraku.Engines;

namespace Bunraku.Lab.Nested;

/// <summary>
/// A guest executes CPUID again and again, at L1, L2 and L3. Each time it exits to the hypervisor below, and the experiment counts what that comes to: on
/// a processor that has one level of virtualization, each exit of L3 goes to L1, which makes an exit for L2 of it; and each instruction of VMX or SVM
/// that L2 executes to handle it is an exit of L2 in turn. For one thread.
/// </summary>
public static class NestedExperiment
{
    private const int Rounds = 7;
    private const double NanosecondsOfARound = 30_000_000;
    private const uint MostExits = 1 << 20;

    /// <summary>What runs, in the order of the report.</summary>
    private static readonly (string Technique, string Assistance, int Level, Func<HypervisorImage> Image)[] s_cases =
    [
        ("", "", 1, () => new VmxImage(1, shadowing: false)),
        ("VMX", "", 2, () => new VmxImage(2, shadowing: false)),
        ("VMX", "", 3, () => new VmxImage(3, shadowing: false)),
        ("VMX", "VMCS shadowing", 3, () => new VmxImage(3, shadowing: true)),
        ("SVM", "", 2, () => new SvmImage(2, assisted: false)),
        ("SVM", "", 3, () => new SvmImage(3, assisted: false)),
        ("SVM", "virtual GIF, VMLOAD and VMSAVE", 3, () => new SvmImage(3, assisted: true)),
    ];

    /// <summary>Runs the experiment. It takes a few seconds for each engine.</summary>
    /// <param name="engines">Those whose processors have VMX and SVM; others are named in the report.</param>
    /// <param name="measure">Times are taken; else they are 0.</param>
    /// <param name="progress">Is told what runs now.</param>
    /// <exception cref="InvalidOperationException">It runs on none of the engines, or a guest did not do what it should; the message is one line.</exception>
    public static NestedReport Run(IReadOnlyList<IX86Engine> engines, bool measure = true, Action<string>? progress = null)
    {
        var notRun = new List<string>();
        var able = new List<IX86Engine>();
        foreach (IX86Engine engine in engines)
        {
            if (WhyNot(engine) is { } reason) notRun.Add(reason);
            else able.Add(engine);
        }
        if (able.Count == 0) throw new InvalidOperationException(notRun.Count > 0 ? notRun[0] : "no engine to run on");
        return new NestedReport([.. able.Select(e => e.Name)], notRun, [.. s_cases.Select(c => Run(able, c.Technique, c.Assistance, c.Level, c.Image, measure,
            progress))]);
    }

    private static string? WhyNot(IX86Engine engine)
    {
        try
        {
            using var run = new NestedRun(engine, new VmxImage(2, shadowing: false), observed: true);
            return null;
        }
        catch (Exception e) when (e is InvalidOperationException or NotSupportedException or EngineException)
        {
            return $"engine '{engine.Name}' has no hypervisors inside its guests that could be watched";
        }
    }

    private static NestedCase Run(IReadOnlyList<IX86Engine> engines, string technique, string assistance, int level, Func<HypervisorImage> image, bool measure,
        Action<string>? progress)
    {
        NestedCase? seen = null;
        var times = new List<EngineTime>();
        foreach (IX86Engine engine in engines)
        {
            progress?.Invoke($"{engine.Name}: L{level} {technique} {assistance}".TrimEnd());
            NestedCase now = Observe(engine, technique, assistance, level, image());
            seen ??= now;
            if (!seen.Exits.SequenceEqual(now.Exits) || !seen.Instructions.SequenceEqual(now.Instructions))
                throw new InvalidOperationException($"{seen.Name}: engines '{engines[0].Name}' and '{engine.Name}' count differently");
            times.Add(new EngineTime(engine.Name, measure ? Measure(engine, image()) : 0));
        }
        return seen! with { Times = times };
    }

    private static NestedCase Observe(IX86Engine engine, string technique, string assistance, int level, HypervisorImage image)
    {
        using var run = new NestedRun(engine, image, observed: true);
        IReadOnlyList<NestedStep> steps = run.Observe();
        ExitCount[] exits = [.. steps.SkipLast(1).Where(s => s.IsExit).GroupBy(s => (s.Level, s.Reason))
            .Select(g => new ExitCount(g.Key.Level, g.Key.Reason, g.Count()))];
        var instructions = new ulong[level];
        // What is retired between two steps belongs to who ran meanwhile: after an entry the guest, after an exit the hypervisor that has it.
        for (int n = 1; n < steps.Count; n++)
            instructions[(steps[n - 1].IsExit ? 1 : steps[n - 1].Level) - 1] +=
                steps[n].Instructions - steps[n - 1].Instructions;
        return new NestedCase(technique, assistance, level, run.Answered, exits, instructions, [.. steps.SkipLast(1)], []);
    }

    private static double Measure(IX86Engine engine, HypervisorImage image)
    {
        using var run = new NestedRun(engine, image, observed: false);
        uint count = 1 << 8;
        // Until the code is translated and a round is long enough to be measured: twice, since one that translates is long without being that.
        while (Math.Min(run.Ask(count), run.Ask(count)) < NanosecondsOfARound && count < MostExits) count *= 2;
        var times = new List<double>();
        for (int round = 0; round < Rounds; round++) times.Add(run.Ask(count) / count);
        return times.Order().ElementAt(Rounds / 2);
    }
}
