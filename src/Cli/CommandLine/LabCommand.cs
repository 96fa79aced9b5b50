using System.CommandLine;
using System.CommandLine.Parsing;

namespace Bunraku.Cli.CommandLine;

/// <summary>What <c>bunraku lab popek-goldberg</c> is asked for.</summary>
/// <param name="Json">File for the result as JSON, or null.</param>
/// <param name="Engines">Engines to try; empty: every one that can run here.</param>
internal sealed record LabOptions(string? Json, IReadOnlyList<string> Engines, string? Cpu);

/// <summary><c>bunraku lab</c>: experiments.</summary>
internal sealed class LabCommand : Command
{
    private readonly Option<string?> _json = new("--json") { HelpName = "FILE", Description = "write the result as JSON" };
    private readonly Option<string[]> _engines = new("--engine") { HelpName = "NAME", Description = "an engine from 'bunraku engines'; may be given several times (default: all that can run here)", Arity = ArgumentArity.OneOrMore };
    private readonly Option<string?> _cpu = new("--cpu") { HelpName = "MODEL[,+FEATURE,-FEATURE]", Description = "the processor that the guests see" };

    public LabCommand() : base("lab", "Experiments")
    {
        PopekGoldberg = new Command("popek-goldberg", "Execute every sensitive instruction on this host's processor and on the engines, and say which of them trap") { _json, _engines, _cpu };
        Subcommands.Add(PopekGoldberg);
    }

    public Command PopekGoldberg { get; }

    public LabOptions Read(ParseResult parsed) => new(parsed.GetValue(_json), parsed.GetValue(_engines) ?? [], parsed.GetValue(_cpu));
}
