using System.CommandLine;
using Bunraku.Processor.X86;

namespace Bunraku.Cli.CommandLine;

/// <summary>What <c>bunraku lab popek-goldberg</c> is asked for.</summary>
/// <param name="Json">File for the result as JSON, or null.</param>
/// <param name="Engines">Engines to try; empty: every one that can run here.</param>
internal sealed record LabOptions(string? Json, IReadOnlyList<string> Engines, string? Cpu);

/// <summary>What <c>bunraku lab shadow</c> is asked for.</summary>
/// <param name="Json">File for the result as JSON, or null.</param>
/// <param name="Picture">File for the result as SVG, or null.</param>
internal sealed record ShadowOptions(string? Json, string? Picture);

/// <summary>What <c>bunraku lab nested</c> is asked for.</summary>
/// <param name="Json">File for the result as JSON, or null.</param>
/// <param name="Picture">File for the result as SVG, or null.</param>
/// <param name="Engines">Engines to run on; empty: every one that can.</param>
/// <param name="Linux">Linux is booted at each level as well, on the first of them.</param>
internal sealed record NestedOptions(string? Json, string? Picture, IReadOnlyList<string> Engines, bool Linux = false);

/// <summary>What <c>bunraku lab paging</c> is asked for.</summary>
/// <param name="Json">File for the result as JSON, or null.</param>
/// <param name="Engine">One of <see cref="Engines"/>.</param>
/// <param name="Techniques">VMX, SVM or both.</param>
/// <param name="Workloads">Names; empty: all.</param>
internal sealed record PagingOptions(string? Json, string Engine, IReadOnlyList<NestedVirtualization> Techniques, IReadOnlyList<string> Workloads)
{
    /// <summary>Those whose processors have both, and show what they do.</summary>
    public static readonly string[] Engines = ["bt", "interp"];
}

/// <summary><c>bunraku lab</c>: experiments.</summary>
internal sealed class LabCommand : Command
{
    private readonly Option<string?> _json = SingleValue.Text("--json", "FILE", "write the result as JSON");
    private readonly Option<string[]> _engines =
        new("--engine")
        {
            HelpName = "NAME",
            Description = "an engine from 'bunraku engines'; may be given several times (default: all that can run here)",
            Arity = ArgumentArity.OneOrMore,
            AllowMultipleArgumentsPerToken = false
        };
    private readonly Option<string?> _cpu =
        SingleValue.Text("--cpu", "MODEL[,+FEATURE,-FEATURE]", "the processor that the guests see; help lists models and features",
        [.. CpuModels.All.Select(m => m.Name), RunCommand.HelpWord]);

    private readonly Option<string?> _picture = SingleValue.Text("--picture", "FILE", "draw the result as SVG");

    private readonly Option<bool> _linux = new("--linux") { Description = "boot Linux with KVM at L1, L2 and L3, too, and count the exits; some minutes" };
    private readonly Option<string?> _engine =
        SingleValue.Text("--engine", "NAME", "the engine that runs it: bt or interp (default bt)", PagingOptions.Engines);
    private readonly Option<NestedVirtualization?> _nested = SingleValue.Parsed<NestedVirtualization?>("--nested", "vmx|svm",
        "the virtualization hardware of the guest (default: one after the other)", text => text switch
        {
            "vmx" => NestedVirtualization.Vmx,
            "svm" => NestedVirtualization.Svm,
            _ => throw new UsageException($"--nested: '{text}' is none of vmx, svm"),
        }, "vmx", "svm");
    private readonly Option<string?> _workloads = SingleValue.Text("--workloads", "NAMES", "what the guest runs, separated by commas (default: all there is)");

    public LabCommand() : base("lab", "Experiments")
    {
        PopekGoldberg =
            new Command("popek-goldberg",
            "Execute every sensitive instruction on this host's processor and on the engines, and say which of them trap") { _json, _engines, _cpu };
        _engines.CompletionSources.Add([.. KnownEngines.Techniques.Select(e => e.Name)]);
        Subcommands.Add(PopekGoldberg);
        Shadow = new Command("shadow", "Show a program's page table and the shadow of it that direct execution makes, step by step") { _json, _picture };
        Subcommands.Add(Shadow);
        Nested = new Command("nested", "Show what one exit of a guest becomes when hypervisors run inside each other, and what it costs")
        {
            _json, _picture, _engines, _linux
        };
        Subcommands.Add(Nested);
        Paging = new Command("paging", "Run a guest of KVM in the guest, with nested paging and with shadow paging, and compare exits, walks, traps and time")
        {
            _json, _engine, _nested, _workloads
        };
        Subcommands.Add(Paging);
    }

    public Command Nested { get; }

    public Command Paging { get; }

    public Command Shadow { get; }

    public Command PopekGoldberg { get; }

    /// <summary>The CPU models are asked for, not the experiment.</summary>
    public bool AsksForCpus(ParseResult parsed) => parsed.GetValue(_cpu) == RunCommand.HelpWord;

    /// <summary>The engines are asked for, not the experiment.</summary>
    public bool AsksForEngines(ParseResult parsed) => parsed.GetValue(_engines) is [RunCommand.HelpWord];

    public LabOptions Read(ParseResult parsed) => new(parsed.GetValue(_json), parsed.GetValue(_engines) ?? [], parsed.GetValue(_cpu));

    public NestedOptions ReadNested(ParseResult parsed) => new(parsed.GetValue(_json), parsed.GetValue(_picture), parsed.GetValue(_engines) ?? [],
        parsed.GetValue(_linux));

    public PagingOptions ReadPaging(ParseResult parsed) => new(parsed.GetValue(_json), parsed.GetValue(_engine) ?? PagingOptions.Engines[0],
        parsed.GetValue(_nested) is { } one ? [one] : [NestedVirtualization.Vmx, NestedVirtualization.Svm],
        (parsed.GetValue(_workloads) ?? "").Split(',', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries));

    public ShadowOptions ReadShadow(ParseResult parsed) => new(parsed.GetValue(_json), parsed.GetValue(_picture));
}
