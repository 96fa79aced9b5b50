using Bunraku.Cli.CommandLine;
using Bunraku.Lab.Paging;
using Bunraku.Machine;

namespace Bunraku.Cli;

/// <summary><c>bunraku lab paging</c>.</summary>
internal static class PagingCommand
{
    private const int Milliseconds = 100;

    /// <exception cref="UsageException">An unknown engine, vendor or workload.</exception>
    /// <exception cref="CannotStartException">The experiment cannot run here, or a file cannot be made.</exception>
    /// <exception cref="CannotWriteException">The result cannot be written.</exception>
    public static int Run(PagingOptions options, IReadOnlyList<IX86Engine> known, TextWriter output) =>
        InterruptedCommand.Run(cancel => Run(options, known, output, cancel));

    private static int Run(PagingOptions options, IReadOnlyList<IX86Engine> known, TextWriter output, CancellationToken cancel)
    {
        IX86Engine engine = LabEngines.Select([options.Engine], known)[0];
        if (!PagingOptions.Engines.Contains(engine.Name))
            throw new UsageException($"--engine: '{engine.Name}' shows nothing of guests inside its guests; {string.Join(" and ", PagingOptions.Engines)} do");
        using ReportFile? json = options.Json is { } path ? new ReportFile(path, "--json") : null;
        using var progress = ProgressLine.OnTerminal();
        PagingReport report;
        try
        {
            report = PagingExperiment.Run(engine, options.Techniques, options.Workloads, Milliseconds, progress is null ? null : progress.Show,
                cancel);
        }
        catch (ArgumentException e)
        {
            throw new UsageException("--workloads: " + e.Message);
        }
        catch (Exception e) when (e is InvalidOperationException or BootException)
        {
            throw new CannotStartException(e.Message, e);
        }
        progress?.Dispose();
        PagingTables.Write(report, Consoles.For(output));
        json?.Write(report.ToJson());
        return ExitStatus.Success;
    }
}
