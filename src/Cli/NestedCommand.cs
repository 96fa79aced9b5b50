using Bunraku.Cli.CommandLine;
using Bunraku.Lab.Nested;
using Bunraku.Machine;

namespace Bunraku.Cli;

/// <summary><c>bunraku lab nested</c>.</summary>
internal static class NestedCommand
{
    /// <exception cref="UsageException">An unknown engine.</exception>
    /// <exception cref="CannotStartException">No engine can run the experiment here, or a file cannot be made.</exception>
    /// <exception cref="CannotWriteException">The result cannot be written.</exception>
    public static int Run(NestedOptions options, IReadOnlyList<IX86Engine> known, TextWriter output) =>
        InterruptedCommand.Run(cancel => Run(options, known, output, cancel));

    private static int Run(NestedOptions options, IReadOnlyList<IX86Engine> known, TextWriter output, CancellationToken cancel)
    {
        IX86Engine[] engines = LabEngines.Select(options.Engines, known);
        using ReportFile? json = options.Json is { } path ? new ReportFile(path, "--json") : null;
        using ReportFile? picture = options.Picture is { } drawn ? new ReportFile(drawn, "--picture") : null;
        NestedReport report;
        using var progress = ProgressLine.OnTerminal();
        try
        {
            report = NestedExperiment.Run(engines, measure: true, progress is null ? null : progress.Show);
            if (options.Linux)
            {
                IX86Engine engine = engines.First(e => report.Engines.Contains(e.Name));
                report = report with { Boots = LinuxBoots.Run(engine, progress is null ? null : progress.Show, cancel) };
            }
        }
        catch (Exception e) when (e is InvalidOperationException or BootException)
        {
            throw new CannotStartException(e.Message, e);
        }
        progress?.Dispose();
        NestedTables.Write(report, Consoles.For(output));
        json?.Write(report.ToJson());
        picture?.Write(NestedPicture.Draw(report));
        return ExitStatus.Success;
    }
}
