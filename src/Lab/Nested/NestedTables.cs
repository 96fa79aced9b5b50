using System.Globalization;
using Spectre.Console;

namespace Bunraku.Lab.Nested;

/// <summary>Prints a report for people: what one exit comes to, what it costs, and which exits these are.</summary>
public static class NestedTables
{
    private const int NameWidth = 20, CountWidth = 5;

    private static readonly string[] s_introduction =
    [
        "A guest executes CPUID, which its hypervisor has to emulate: one exit and one",
        "entry. L0 is Bunraku, L1 the hypervisor inside, L2 a hypervisor inside that and",
        "L3 its guest. The processor has one level of virtualization: every exit, of L2",
        "and L3, goes to L1, which runs L3 for L2 and tells L2 of its guest's exits.",
    ];

    private static readonly string[] s_legend =
    [
        "EXITS         that one exit of the guest comes to, and how many of them a",
        "              hypervisor at L1 or L2 is told of",
        "INSTRUCTIONS  executed for it at each level; one that exits to L1 is not among",
        "              them, since it is emulated there",
        "us            microseconds of processor time for all of it, by engine",
        "assisted      by VMCS shadowing; by virtual GIF, VMLOAD and VMSAVE",
    ];

    /// <summary>Prints the report.</summary>
    public static void Write(NestedReport report, IAnsiConsole console)
    {
        Lines(console, s_introduction);
        console.WriteLine();
        string columns = $"{"L0",CountWidth}{"L1",CountWidth}{"L2",CountWidth}  {"L1",CountWidth}{"L2",CountWidth}{"L3",CountWidth}  ";
        string top = $"{"",NameWidth}{"EXITS",3 * CountWidth}  {"INSTRUCTIONS",3 * CountWidth}  {"us",8}";
        Bold(console, top.TrimEnd());
        Bold(console, $"{"THE GUEST IS AT",-NameWidth}{columns}{string.Concat(report.Engines.Select(e => $"{e,8}"))}");
        foreach (NestedCase c in report.Cases)
        {
            string counts = Count(c.TotalExits) + (c.Level > 1 ? Count(c.ExitsSeenAt(1)) : Count(null)) + (c.Level > 2 ? Count(c.ExitsSeenAt(2)) : Count(null));
            string instructions = string.Concat(Enumerable.Range(0, 3).Select(n => n < c.Instructions.Count ? Count((long)c.Instructions[n]) : Count(null)));
            string times = string.Concat(c.Times.Select(t => string.Create(CultureInfo.InvariantCulture, $"{t.Nanoseconds / 1000,8:F2}")));
            Line(console, $"{ShortName(c),-NameWidth}{counts}  {instructions}  {times}".TrimEnd());
        }
        console.WriteLine();
        Bold(console, "THE EXITS AT L0, in this order");
        foreach (NestedCase c in report.Cases)
        {
            Line(console, c.Name);
            foreach (string line in Sequence(c)) Line(console, "    " + line);
        }
        console.WriteLine();
        if (report.Boots.Count > 0) WriteBoots(report.Boots, console);
        foreach (string line in s_legend) console.MarkupLine("[dim]" + Markup.Escape(line) + "[/]");
        foreach (string line in report.NotRun) Line(console, "NOT RUN: " + line);
    }

    private static void WriteBoots(IReadOnlyList<LinuxBoot> boots, IAnsiConsole console)
    {
        const int name = 42, most = 5;
        Bold(console, $"{"LINUX BOOTS, guest of KVM one level below",-name}{"EXITS",10}{"s",8}");
        foreach (LinuxBoot boot in boots)
        {
            string what = $"at L{boot.Level}, {boot.Technique}" + (boot.Without.Length > 0 ? $", {boot.Without} at L1" : "");
            Line(console, string.Create(CultureInfo.InvariantCulture, $"{what,-name}{boot.TotalExits,10}{boot.Seconds,8:F1}"));
            string reasons = string.Join(", ", boot.Exits.Take(most).Select(e => string.Create(CultureInfo.InvariantCulture, $"{e.Key} {e.Value}")));
            Line(console, "    " + reasons);
        }
        console.WriteLine();
    }

    /// <summary>The exits one after the other, each as L3 CPUID, those of the same kind in a row as one; lines of a terminal.</summary>
    internal static IEnumerable<string> Sequence(NestedCase c)
    {
        const int width = 74;
        var words = new List<(int Level, string Reason, int Count)>();
        foreach (NestedStep step in c.Steps.Where(s => s.IsExit))
        {
            if (words.Count > 0 && words[^1] is var last && (last.Level, last.Reason) == (step.Level, step.Reason))
                words[^1] = last with { Count = last.Count + 1 };
            else words.Add((step.Level, step.Reason, 1));
        }
        string line = "";
        foreach ((int level, string reason, int count) in words)
        {
            string word = $"L{level} {reason}" + (count > 1 ? $" x{count}" : "");
            if (line.Length > 0 && line.Length + word.Length + 2 > width)
            {
                yield return line + ",";
                line = "";
            }
            line += line.Length > 0 ? ", " + word : word;
        }
        yield return line;
    }

    private static string ShortName(NestedCase c) => $"L{c.Level}" + (c.Technique.Length == 0 ? ", nobody inside" : $", {c.Technique}"
        + (c.Assistance.Length > 0 ? ", assisted" : ""));

    private static string Count(long? value) => value is { } v ? v.ToString(CultureInfo.InvariantCulture).PadLeft(CountWidth) : "-".PadLeft(CountWidth);

    private static void Lines(IAnsiConsole console, IEnumerable<string> lines)
    {
        foreach (string line in lines) Line(console, line);
    }

    private static void Bold(IAnsiConsole console, string text) => console.MarkupLine("[bold]" + Markup.Escape(text) + "[/]");

    private static void Line(IAnsiConsole console, string text) => console.MarkupLine(Markup.Escape(text));
}
