using Spectre.Console;

namespace Bunraku.Lab.Shadow;

/// <summary>Prints a report for people: each step, what was counted, and the pages that it concerned in both tables.</summary>
public static class ShadowTables
{
    private const string Heading = "PAGE            GUEST'S ENTRY    SHADOW";

    /// <summary>Prints the report.</summary>
    /// <param name="report">What was seen.</param>
    /// <param name="console">Where to.</param>
    public static void Write(ShadowReport report, IAnsiConsole console)
    {
        Line(console, "The page table of a program and its shadow, which the host's processor walks.");
        console.WriteLine();
        for (int n = 0; n < report.Steps.Count; n++) WriteStep(n, report.Steps[n], console);
        foreach (string line in s_legend) console.MarkupLine("[dim]" + Markup.Escape(line) + "[/]");
    }

    private static readonly string[] s_legend =
    [
        "P present, W writable, U for programs, A accessed, D dirty, NX no code; frame.",
        "r may be read, w written, x executed in the helper, with the frame; guarded: the",
        "processor stops before some instructions; refused: its code stays translated.",
    ];

    private static void WriteStep(int number, StepReport step, IAnsiConsole console)
    {
        string who = step.Who.Length > 0 ? $"The {step.Who} {step.What}" : char.ToUpperInvariant(step.What[0]) + step.What[1..];
        console.MarkupLine($"[bold]{Markup.Escape($"{number}. {who}")}[/]");
        Line(console, $"   {(step.Summary.Length > 0 ? step.Summary : "nothing counted")}; CR3 {step.Root:X}, shadows {step.Spaces}");
        PageReport[] pages = [.. step.Pages.Where(p => p.Concerned)];
        if (pages.Length > 0) Line(console, "   " + Heading);
        foreach (PageReport page in pages)
        {
            string frame = page.Rights != ShadowRights.None ? $" {page.ShadowFrame:X6}" : "";
            string shadow = page.Shadow.Split(' ', 2) is [var rights, var rest] ? $"{rights,-4}{frame} {rest}" : $"{page.Shadow,-4}{frame}";
            string colour = page.Refused ? "red" : page.Guards.Count > 0 ? "yellow" : page.Rights != ShadowRights.None ? "green" : "dim";
            string entry = $"{page.Linear:X6} {page.Name,-8} {page.Flags} {page.Frame:X6}";
            console.MarkupLine($"   {Markup.Escape(entry)}   [{colour}]{Markup.Escape(shadow.TrimEnd())}[/]");
        }
        console.WriteLine();
    }

    private static void Line(IAnsiConsole console, string text) => console.MarkupLine(Markup.Escape(text));
}
