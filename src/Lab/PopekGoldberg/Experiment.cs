using System.ComponentModel;
using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Lab.PopekGoldberg;

/// <summary>Runs the whole experiment: every engine given, then the host's silicon. For one thread.</summary>
public static class Experiment
{
    /// <param name="engines">Engines that can run here.</param>
    /// <param name="reference">The engine on whose guests it is observed what the host's instructions do at level 0; one of them or another.</param>
    /// <param name="model">CPU model of the guests. UMIP is switched where it has it.</param>
    /// <param name="direct">What of programs that run directly on the host's processor; null: nothing.</param>
    /// <param name="progress">Told what is being done, for each instruction anew; an engine may take a minute.</param>
    /// <exception cref="InvalidOperationException">The host forbids executable memory; the message is one line.</exception>
    public static ExperimentReport Run(IReadOnlyList<IX86Engine> engines, IX86Engine reference, CpuModel model, Action<string>? progress = null,
        DirectSubject? direct = null)
    {
        IReadOnlyList<Probe> probes = ProbeCatalog.All;
        var processors = new List<ProcessorReport>();
        foreach (IX86Engine engine in engines)
        {
            using var bench = new GuestBench(engine, model);
            processors.Add(Analysis.Engine(bench, engine.Name, umip: false, probes, Step(engine, umip: false)));
            if (model.Has(CpuFeature.Umip)) processors.Add(Analysis.Engine(bench, engine.Name, umip: true, probes, Step(engine, umip: true)));
        }
        ProcessorReport? known = processors.FirstOrDefault(p => p.Engine == reference.Name && p.Umip == false);
        if (known == null)
        {
            using var bench = new GuestBench(reference, model);
            known = Analysis.Engine(bench, reference.Name, umip: false, probes, Step(reference, umip: false));
        }
        string name = HostProcessorName();
        try
        {
            using var host = new HostBench();
            processors.Insert(0, Analysis.Host(host, "host", known, probes));
        }
        catch (Win32Exception e)
        {
            throw new InvalidOperationException($"the host's processor cannot be tried: {e.Message}; the system must allow a process executable memory "
                + "of its own", e);
        }
        return new ExperimentReport(DateTime.UtcNow, name, model.Name, processors)
        {
            Direct = direct is null ? null : DirectAnalysis.Run(direct, reference, model, [.. probes.Where(p => known.Escaping.Contains(p.Name))]),
        };

        Action<int>? Step(IX86Engine engine, bool umip) =>
            progress is null ? null : done => progress($"{engine.Name}{(umip ? " with UMIP" : "")}: {done} of {probes.Count} instructions");
    }

    private static string HostProcessorName()
    {
        try
        {
            string? line = File.ReadLines("/proc/cpuinfo").FirstOrDefault(l => l.StartsWith("model name", StringComparison.Ordinal));
            return line?[(line.IndexOf(':', StringComparison.Ordinal) + 1)..].Trim() ?? "unknown";
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return "unknown";
        }
    }
}
