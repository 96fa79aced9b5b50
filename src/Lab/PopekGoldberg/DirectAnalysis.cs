using Bunraku.Engines;

namespace Bunraku.Lab.PopekGoldberg;

/// <summary>How programs can run directly.</summary>
/// <param name="Engine">An engine that runs all programs so; null where that does not work.</param>
/// <param name="WhyNot">Why, in one line.</param>
public sealed record DirectSubject(IX86Engine? Engine, string? WhyNot);

/// <summary>
/// What sensitive instructions do in a program that runs directly: each is executed there, how it left the helper is read from what was counted, and what the
/// program saw is compared with the same program's on the reference.
/// </summary>
internal static class DirectAnalysis
{
    public static DirectReport Run(DirectSubject subject, IX86Engine reference, CpuModel model, IReadOnlyList<Probe> escaping)
    {
        if (subject.Engine is not { } engine) return new DirectReport(subject.WhyNot ?? "no engine", reference.Name, []);
        var instructions = new List<DirectInstruction>();
        try
        {
            foreach (Probe probe in escaping.Concat(ProbeCatalog.DirectToo).Concat(ProbeCatalog.DirectLeaks).DistinctBy(p => p.Name))
                instructions.Add(Try(engine, reference, model, probe));
        }
        catch (Exception e) when (e is InvalidOperationException or EngineException or NotSupportedException or ArgumentException)
        {
            return new DirectReport(e.Message.ReplaceLineEndings(" "), reference.Name, instructions);
        }
        return new DirectReport(null, reference.Name, instructions);
    }

    private static DirectInstruction Try(IX86Engine engine, IX86Engine reference, CpuModel model, Probe probe)
    {
        ProgramObservation direct = DirectBench.Run(engine, model, probe), expected = DirectBench.Run(reference, model, probe),
            again = DirectBench.Run(reference, model, probe);
        bool isUnsteady = expected.Seen.Any(v => again.Seen[v.Key] != v.Value);
        string? difference = direct.Trap != expected.Trap ? $"{direct.Trap ?? "done"}, not {expected.Trap ?? "done"}"
            : expected.Seen.Where(v => again.Seen[v.Key] == v.Value && direct.Seen[v.Key] != v.Value)
                .Select(v => $"{v.Key} {direct.Seen[v.Key]:X}, not {v.Value:X}").FirstOrDefault();
        return new DirectInstruction(probe.Name, Convert.ToHexString(probe.Assemble()), WayOf(direct, difference == null), difference, isUnsteady,
            direct.Counted);
    }

    private static DirectWay WayOf(ProgramObservation direct, bool isEqual)
    {
        ulong Count(string name) => direct.Counted.GetValueOrDefault(name);
        if (Count("entries") == 0 && Count("pages of code refused") == 0) return DirectWay.Translated;
        if (Count("pages of code refused") > 0) return DirectWay.Refused;
        if (Count("left for a guarded place") > 0) return DirectWay.Guarded;
        ulong forNothingElse = Count("entries") - Count("left for a page") - Count("left for attention");
        // A program that completes leaves once more, with the UD2 behind.
        return forNothingElse > (direct.Trap == null ? 1u : 0) ? DirectWay.Traps : isEqual ? DirectWay.Same : DirectWay.Leak;
    }
}
