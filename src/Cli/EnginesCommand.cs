using Bunraku.Processor.X86;
using Spectre.Console;

namespace Bunraku.Cli;

/// <summary><c>bunraku engines</c>: what can run here, and why the rest cannot.</summary>
internal static class EnginesCommand
{
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
