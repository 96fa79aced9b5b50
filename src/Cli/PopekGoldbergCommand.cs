using Bunraku.Cli.CommandLine;
using Bunraku.Lab.PopekGoldberg;
using Bunraku.Processor.X86;

namespace Bunraku.Cli;

/// <summary><c>bunraku lab popek-goldberg</c>.</summary>
internal static class PopekGoldbergCommand
{
    /// <summary>What the guests of the experiment see: everything that has an instruction to try, hypercalls included.</summary>
    private const string DefaultModel = "max,+hypervisor,+monitor";

    /// <exception cref="UsageException">An unknown engine or CPU model.</exception>
    /// <exception cref="CannotStartException">No engine can run here, or the host forbids the experiment.</exception>
    /// <exception cref="CannotWriteException">The result cannot be written.</exception>
    public static int Run(LabOptions options, IReadOnlyList<IX86Engine> known, TextWriter output)
    {
        IX86Engine[] engines = LabEngines.Select(options.Engines, known);
        CpuModel model;
        try
        {
            model = CpuModels.Parse(options.Cpu ?? DefaultModel);
        }
        catch (FormatException e)
        {
            throw new UsageException("--cpu: " + e.Message);
        }
        using ReportFile? json = options.Json is { } path ? new ReportFile(path, "--json") : null;
        ExperimentReport report;
        using var progress = ProgressLine.OnTerminal();
        try
        {
            // The last one is preferred by nobody: the interpreter, the reference for the others.
            IX86Engine reference = known.Last(e => e.Probe().Available);
            report = Experiment.Run(engines, reference, model, progress is null ? null : progress.Show, DirectSubject());
        }
        catch (InvalidOperationException e)
        {
            throw new CannotStartException(e.Message, e);
        }
        progress?.Dispose();
        ReportTable.Write(report, Consoles.For(output));
        json?.Write(report.ToJson());
        return ExitStatus.Success;
    }

    private static DirectSubject DirectSubject() => TranslatorEngine.WhyNotDirect() is { } reason ? new DirectSubject(null, reason)
        : new DirectSubject(new TranslatorEngine(threshold: 1) { Direct = DirectUse.Always }, null);
}
