using Bunraku.Cli.CommandLine;
using Bunraku.Lab.Shadow;
using Bunraku.Processor.X86;

namespace Bunraku.Cli;

/// <summary><c>bunraku lab shadow</c>.</summary>
internal static class ShadowCommand
{
    /// <exception cref="CannotStartException">Programs cannot run directly on this host, or a file cannot be made.</exception>
    /// <exception cref="CannotWriteException">The result cannot be written.</exception>
    public static int Run(ShadowOptions options, TextWriter output) => Run(options, TranslatorEngine.WhyNotDirect, output);

    /// <param name="whyNot">Says why programs cannot run directly; null: they can.</param>
    internal static int Run(ShadowOptions options, Func<string?> whyNot, TextWriter output)
    {
        using ReportFile? json = options.Json is { } path ? new ReportFile(path, "--json") : null;
        using ReportFile? picture = options.Picture is { } drawn ? new ReportFile(drawn, "--picture") : null;
        if (whyNot() is { } reason) throw new CannotStartException("programs cannot run directly on this host: " + reason);
        ShadowReport report;
        try
        {
            report = ShadowExperiment.Run(new TranslatorEngine(threshold: 1) { Direct = DirectUse.Always }, CpuModels.Parse("max"));
        }
        catch (InvalidOperationException e)
        {
            throw new CannotStartException(e.Message, e);
        }
        ShadowTables.Write(report, Consoles.For(output));
        json?.Write(report.ToJson());
        picture?.Write(ShadowPicture.Draw(report));
        return ExitStatus.Success;
    }
}
