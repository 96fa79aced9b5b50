using System.Globalization;
using Spectre.Console;

namespace Bunraku.Lab.Paging;

/// <summary>Prints a report for people: for each vendor time, exits and traps beside each other, and then the walks.</summary>
public static class PagingTables
{
    private const int Name = 14, Cell = 9;

    private static readonly string[] s_introduction =
    [
        "Linux as a guest of KVM, which runs in our guest. Nested paging (EPT, NPT): the",
        "processor walks the guest's tables, and KVM's under each of their entries.",
        "Shadow paging: KVM makes one set of tables of both, and traps the guest's writes",
        "to its own. All figures are for one unit of a workload, a fixed piece of work.",
    ];

    private static readonly string[] s_legend =
    [
        "us      microseconds, by the guest's clock     x      how many times longer",
        "EXITS   of the guest to KVM",
        "TRAPS   writes to page tables that KVM emulated, as it counts them",
        "WALKS   TLB misses of the guest                REFS   memory reads of a walk",
    ];

    /// <summary>Prints the report.</summary>
    public static void Write(PagingReport report, IAnsiConsole console)
    {
        foreach (string line in s_introduction) Line(console, line);
        foreach (IGrouping<string, PagingRun> pair in report.Runs.GroupBy(r => r.Technique))
        {
            PagingRun nested = pair.First(r => r.IsNested), shadow = pair.First(r => !r.IsNested);
            console.WriteLine();
            Bold(console, $"{$"{pair.Key}, {report.Engine}",-Name}{"us",2 * Cell}{"",7}{"EXITS",2 * Cell}{"TRAPS",Cell + 1}");
            Bold(console, $"{"",-Name}{nested.Name,Cell}{"shadow",Cell}{"x",7}{nested.Name,Cell}{"shadow",Cell}{"shadow",Cell + 1}");
            foreach ((PagingRow n, PagingRow s) in Pairs(nested, shadow))
            {
                double a = n.Each(n.Nanoseconds) / 1000, b = s.Each(s.Nanoseconds) / 1000;
                Line(console, $"{n.Workload,-Name}{Digits(a),Cell}{Digits(b),Cell}{Digits(b / a),7}{Digits(n.Each(n.TotalExits)),Cell}"
                    + $"{Digits(s.Each(s.TotalExits)),Cell}{Digits(s.Each(s.PageTableWrites)),Cell + 1}");
            }
            Line(console, $"{"boot, s",-Name}{Digits(nested.BootSeconds),Cell}{Digits(shadow.BootSeconds),Cell}"
                + $"{Digits(shadow.BootSeconds / nested.BootSeconds),7}{nested.TotalBootExits,Cell}{shadow.TotalBootExits,Cell}");
            console.WriteLine();
            Bold(console, $"{"",-Name}{"WALKS",2 * Cell}{"",7}{"REFS",2 * Cell}");
            Bold(console, $"{"",-Name}{nested.Name,Cell}{"shadow",Cell}{"",7}{nested.Name,Cell}{"shadow",Cell}");
            foreach ((PagingRow n, PagingRow s) in Pairs(nested, shadow))
            {
                Line(console, $"{n.Workload,-Name}{Digits(n.Each(n.Guest.Count)),Cell}{Digits(s.Each(s.Guest.Count)),Cell}{"",7}"
                    + $"{Digits(n.Guest.References),Cell}{Digits(s.Guest.References),Cell}");
            }
        }
        console.WriteLine();
        foreach (string line in s_legend) console.MarkupLine("[dim]" + Markup.Escape(line) + "[/]");
    }

    private static IEnumerable<(PagingRow Nested, PagingRow Shadow)> Pairs(PagingRun nested, PagingRun shadow) =>
        nested.Rows.Join(shadow.Rows, n => n.Workload, s => s.Workload, (n, s) => (n, s));

    private static string Digits(double value) => double.IsFinite(value)
        ? value.ToString(value switch { 0 => "0", < 0.01 => "0.000", < 10 => "0.00", < 100 => "0.0", _ => "0" }, CultureInfo.InvariantCulture) : "-";

    private static void Bold(IAnsiConsole console, string text) => console.MarkupLine("[bold]" + Markup.Escape(text.TrimEnd()) + "[/]");

    private static void Line(IAnsiConsole console, string text) => console.MarkupLine(Markup.Escape(text.TrimEnd()));
}
