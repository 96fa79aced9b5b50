using System.Text.Json;
using System.Text.Json.Serialization;
using Bunraku.Processor.X86;
using Spectre.Console;

namespace Bunraku.Cli;

/// <summary><c>bunraku engines</c>: what can run here, and why the rest cannot.</summary>
internal static class EnginesCommand
{
    /// <summary>The same for programs: an object with 'engines', each with name, available, chosen (it is what 'auto' means) and detail, and
    /// 'direct'.</summary>
    public static int PrintJson(IReadOnlyList<IX86Engine> engines, TextWriter output)
    {
        IX86Engine? chosen = Vm.ChosenEngine(engines);
        var rows = engines.Select(e => (Engine: e, Probe: e.Probe()))
            .Select(e => new EngineRow(e.Engine.Name, e.Probe.Available, e.Engine == chosen, e.Probe.Detail, e.Engine.MaxCpus)).ToArray();
        string? reason = TranslatorEngine.WhyNotDirect();
        output.WriteLine(JsonSerializer.Serialize(new EngineRows(rows, new DirectRow(reason is null, reason)), EnginesJson.Default.EngineRows));
        return chosen is null ? ExitStatus.Failure : ExitStatus.Success;
    }

    /// <summary>0 when at least one engine can run here.</summary>
    public static int Print(IReadOnlyList<IX86Engine> engines, TextWriter output)
    {
        IAnsiConsole console = Consoles.For(output);
        var table = new Table { Border = TableBorder.None, ShowHeaders = true };
        foreach (string header in (string[])["ENGINE", "HERE", "DETAIL"])
            table.AddColumn(new TableColumn(header) { Padding = new Padding(0, 0, header == "DETAIL" ? 0 : 1, 0), NoWrap = header != "DETAIL" });
        bool any = false;
        foreach (IX86Engine engine in engines)
        {
            EngineProbe probe = engine.Probe();
            any |= probe.Available;
            table.AddRow(Markup.Escape(engine.Name), probe.Available ? "[green]yes[/]" : "[red]no[/]", Markup.Escape(probe.Detail));
        }
        string direct = TranslatorEngine.WhyNotDirect() is { } reason ? $"not here: {reason}" : "works here";
        table.AddRow("", "", Markup.Escape($"(bt with direct execution of programs, --direct: {direct})"));
        console.Write(table);
        return any ? ExitStatus.Success : ExitStatus.Failure;
    }
}

internal sealed record EngineRow(string Name, bool Available, bool Chosen, string Detail, int MaxCpus);

internal sealed record DirectRow(bool Available, string? Detail);

/// <summary>For programs.</summary>
internal sealed record EngineRows(EngineRow[] Engines, DirectRow Direct);

/// <summary>Made when the program is compiled.</summary>
[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.CamelCase, WriteIndented = true)]
[JsonSerializable(typeof(EngineRows))]
internal sealed partial class EnginesJson : JsonSerializerContext;
