using Spectre.Console;
using Spectre.Console.Rendering;

namespace Bunraku.Lab.PopekGoldberg;

/// <summary>Prints a report for people: one row an instruction, the verdicts, and what the host let a program see.</summary>
public static class ReportTable
{
    private sealed record Column(string Header, int Width, Func<string, string> Cell);

    /// <summary>Prints the report.</summary>
    /// <param name="report">What was found.</param>
    /// <param name="console">Where to; its width decides how much of a row fits.</param>
    public static void Write(ExperimentReport report, IAnsiConsole console)
    {
        ProcessorReport host = report.Processors.First(p => p.Engine == null);
        string[] engines = [.. report.Processors.Where(p => p.Engine != null).Select(p => p.Engine!).Distinct()];
        console.MarkupLine(Markup.Escape($"Popek and Goldberg on {report.HostProcessor} (HOST, user mode) and on guests of model {report.Model}."));
        console.WriteLine();

        var rest = new Queue<Column[]>();
        rest.Enqueue([Cells("HOST", host, i => i.At(Analysis.User)!.Summary)]);
        foreach (string engine in engines) rest.Enqueue(EngineColumns(report, engine));
        string[] names = [.. host.Instructions.Select(i => i.Name)];
        var first = new Column("INSTRUCTION", 11, n => n);
        // As many engines beside each other as the width allows.
        while (rest.Count > 0)
        {
            List<Column> columns = [first];
            do columns.AddRange(rest.Dequeue());
            while (rest.Count > 0 && Fits(columns.Concat(rest.Peek())));
            // One engine alone may be too wide: then its columns go on in further tables.
            while (columns.Count > 1)
            {
                int count = columns.Count;
                while (count > 2 && !Fits(columns.Take(count))) count--;
                WriteTable(console, columns[..count], names);
                columns = [first, .. columns[count..]];
            }
        }

        bool Fits(IEnumerable<Column> columns) => columns.Sum(c => c.Width + 1) - 1 <= console.Profile.Width;
        Legend(console, engines);
        Details(console, report, host);
        if (report.Direct is { } direct) DirectTable.Write(console, direct);
        foreach (ProcessorReport p in report.Processors) WriteVerdict(console, p, report);
    }

    private static Column[] EngineColumns(ExperimentReport report, string engine)
    {
        ProcessorReport off = report.Processors.First(p => p.Engine == engine && p.Umip == false);
        ProcessorReport? on = report.Processors.FirstOrDefault(p => p.Engine == engine && p.Umip == true);
        var columns = new List<Column>
        {
            new("PRIV", 4, n => Privileged(Find(off, n).Privileged, on == null ? null : Find(on, n).Privileged)),
            new("S", 2, n => (Find(off, n).ControlSensitive.Count > 0 ? "c" : "") + (Find(off, n).BehaviourSensitive.Count > 0 ? "b" : "")),
            Cells(engine + "\nUSER", off, i => i.At(Analysis.User)!.Summary),
        };
        if (on != null) columns.Add(Cells("+UMIP", on, i => i.At(Analysis.User)!.Summary));
        columns.Add(Cells("CPL 1", off, i => i.At(Analysis.Deprivileged)!.Summary));
        columns.Add(Cells("CPL 0", off, i => i.At(Analysis.Supervisor)!.Summary));
        columns.Add(new Column("EXIT", 15, n => string.Join(' ', Find(off, n).Exits)));
        return [.. columns];
    }

    private static Column Cells(string header, ProcessorReport processor, Func<InstructionReport, string> cell) =>
        new(header, 8, n => cell(Find(processor, n)));

    private static InstructionReport Find(ProcessorReport processor, string name) => processor.Instructions.First(i => i.Name == name);

    /// <summary>UMIP alone makes some instructions privileged.</summary>
    private static string Privileged(bool? off, bool? on) => (off, on) switch { (true, _) => "yes", (false, true) => "UMIP", (false, _) => "no", _ => "-" };

    private static void WriteTable(IAnsiConsole console, List<Column> columns, string[] names)
    {
        var table = new Table { Border = TableBorder.None, ShowHeaders = true };
        for (int n = 0; n < columns.Count; n++)
        {
            var column = new TableColumn(new Text(columns[n].Header)) { NoWrap = true, Padding = new Padding(0, 0, n == columns.Count - 1 ? 0 : 1, 0) };
            table.AddColumn(column);
        }
        foreach (string name in names) table.AddRow(columns.Select(c => (IRenderable)new Markup(Coloured(c.Cell(name)))));
        console.Write(table);
        console.WriteLine();
    }

    /// <summary>What the theorem wants is green, what it forbids is red.</summary>
    private static string Coloured(string cell)
    {
        string text = Markup.Escape(cell);
        return cell is "leak" or "ignored" or "by level" or "no" ? $"[red]{text}[/]" : cell is "yes" or Analysis.Emulated || cell.StartsWith('#')
            ? $"[green]{text}[/]" : text;
    }

    private static void Legend(IAnsiConsole console, string[] engines)
    {
        (string Word, string Meaning)[] words =
        [
            ("PRIV", "traps or exits at user level and completes at CPL 0; UMIP: only with CR4.UMIP"),
            ("S", "sensitive: c changes system state, b its result depends on it or on the level"),
            ("leak", "the result shows system state"),
            ("ignored", "the effect at CPL 0 silently does not happen"),
            ("by level", "another result than at CPL 0"),
            ("emulated", "trapped, and the host's system answered"),
            ("exit", "left to the hypervisor"),
            ("reads", "system state, as does changes"),
            ("done", "nothing of these"),
            ("CPL 1", "a deprivileged kernel"),
            ("EXIT", "how it leaves a kernel at CPL 0 when the execution controls ask for every exit"),
        ];
        var table = new Table { Border = TableBorder.None, ShowHeaders = false };
        table.AddColumn(new TableColumn("") { NoWrap = true, Padding = new Padding(0, 0, 1, 0) });
        table.AddColumn(new TableColumn("") { Padding = new Padding(0) });
        foreach ((string word, string meaning) in words.Where(w => engines.Length > 0 || w.Word is not ("CPL 1" or "EXIT")))
            table.AddRow(new Markup("[dim]" + Markup.Escape(word) + "[/]"), new Markup("[dim]" + Markup.Escape(meaning) + "[/]"));
        console.Write(table);
        console.WriteLine();
    }

    /// <summary>For each instruction that escapes: what it showed on the host, and on what its result depends.</summary>
    private static void Details(IAnsiConsole console, ExperimentReport report, ProcessorReport host)
    {
        var table = new Table { Border = TableBorder.None, ShowHeaders = true };
        table.AddColumn(new TableColumn("NOT PRIVILEGED") { NoWrap = true, Padding = new Padding(0, 0, 1, 0) });
        table.AddColumn(new TableColumn("CHANGES / DEPENDS ON") { Padding = new Padding(0, 0, 1, 0) });
        table.AddColumn(new TableColumn("ON THE HOST") { Padding = new Padding(0) });
        string[] escaping = [.. host.Instructions.Select(i => i.Name).Where(n => report.Processors.Any(p => p.Escaping.Contains(n)))];
        foreach (string name in escaping)
        {
            InstructionReport[] all = [.. report.Processors.Select(p => Find(p, name))];
            string control = string.Join(' ', all.SelectMany(i => i.ControlSensitive).Distinct()),
                behaviour = string.Join(' ', all.SelectMany(i => i.BehaviourSensitive).Distinct());
            LevelReport here = Find(host, name).At(Analysis.User)!;
            IEnumerable<string> values = here.Leaks.Select(l => $"{l.What}={l.Values[0]}").Concat(here.Ignored.Select(n => $"{n} stays"));
            // What an answering system made up is shown as such.
            if (here.Summary == Analysis.Emulated) values = values.Prepend(Analysis.Emulated);
            string seen = string.Join(' ', values);
            table.AddRow(new Text(name),
                new Text(control.Length > 0 && behaviour.Length > 0 ? $"{control} / {behaviour}" : control.Length > 0 ? control : $"/ {behaviour}"),
                new Text(seen.Length > 0 ? seen : here.Summary));
        }
        if (escaping.Length == 0) return;
        console.Write(table);
        console.WriteLine();
    }

    private static void WriteVerdict(IAnsiConsole console, ProcessorReport p, ExperimentReport report)
    {
        string name = p.Engine == null ? $"host ({report.HostProcessor})" : p.Name;
        string verdict = p.ClassicallyVirtualizable switch
        {
            true => $"classically virtualizable: all {p.Sensitive} sensitive instructions are privileged",
            false => $"not classically virtualizable: {p.Escaping.Count} of {p.Sensitive} sensitive instructions are not privileged: "
                + $"{string.Join(", ", p.Escaping)}",
            null => "no verdict: not enough was observed",
        };
        console.MarkupLine($"[{(p.ClassicallyVirtualizable == true ? "green" : "yellow")}]{Markup.Escape($"{name}: {verdict}")}[/]");
        if (p.DeprivilegedEscaping is { } kernel && p.ClassicallyVirtualizable != null)
            console.MarkupLine(Markup.Escape($"{name}, kernel at CPL 1: {kernel.Count} sensitive instructions do not trap"));
        // One line a kind of failure; the JSON has every one in full.
        foreach (IGrouping<string, string[]> kind in p.NotObserved.Select(f => f.Split(": ", 2)).GroupBy(f => f[1].Split(',', ';')[0]))
            console.MarkupLine(Markup.Escape($"{name}: not observed: {string.Join(", ", kind.Select(f => f[0]))}: {kind.Key}"));
    }
}
