using System.Globalization;
using Spectre.Console;

namespace Bunraku.Lab.PopekGoldberg;

/// <summary>The part of the report about programs that run directly.</summary>
internal static class DirectTable
{
    public static void Write(IAnsiConsole console, DirectReport report)
    {
        if (report.WhyNot is { } reason)
        {
            console.MarkupLine(Markup.Escape($"direct execution: NOT RUN ({reason})"));
            console.WriteLine();
            return;
        }
        var table = new Table { Border = TableBorder.None, ShowHeaders = true };
        table.AddColumn(new TableColumn("RUN DIRECTLY") { NoWrap = true, Padding = new Padding(0, 0, 1, 0) });
        table.AddColumn(new TableColumn("HERE") { NoWrap = true, Padding = new Padding(0, 0, 1, 0) });
        table.AddColumn(new TableColumn("COUNTED") { Padding = new Padding(0, 0, 1, 0) });
        table.AddColumn(new TableColumn(new Text("AS ON " + report.Reference)) { Padding = new Padding(0) });
        foreach (DirectInstruction i in report.Instructions)
        {
            string colour = i.Way is DirectWay.Leak || i.Difference != null ? "red" : i.Way is DirectWay.Same or DirectWay.Translated ? "default" : "green";
            table.AddRow(new Text(i.Name), new Markup($"[{colour}]{Word(i.Way)}[/]"), new Text(Counted(i)),
                new Text(i.Difference ?? (i.IsUnsteady ? "equal but for the time" : "equal")));
        }
        console.Write(table);
        console.WriteLine();
        foreach ((string word, string meaning) in ((string, string)[])[("same", "executed by the host's processor, by conditions as in the guest"),
            ("leak", "executed by the host's processor, which shows the host"), ("traps", "stops in the helper, software executes it"),
            ("guarded", "a breakpoint stops before it, software executes it"), ("refused", "its page does not run directly"),
            ("translated", "its program does not run directly"), ("hidden", "in the middle of another instruction, where a jump leads"),
            ("by RF", "behind an IRET that sets RF, which passes breakpoints")])
            console.MarkupLine($"[dim]{word,-10} {Markup.Escape(meaning)}[/]");
        console.WriteLine();
    }

    private static string Word(DirectWay way) => way.ToString().ToLowerInvariant();

    private static string Counted(DirectInstruction i)
    {
        (string Name, string Short)[] shown = [("entries", "entries"), ("left for a guarded place", "guarded"),
            ("left for a system call", "system calls"), ("pages of code refused", "refused"), ("not suitable", "not suitable")];
        return string.Join(", ", shown.Where(s => i.Counted.GetValueOrDefault(s.Name) > 0)
            .Select(s => string.Create(CultureInfo.InvariantCulture, $"{s.Short} {i.Counted[s.Name]}")));
    }
}
