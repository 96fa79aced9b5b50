using System.Globalization;
using Spectre.Console;

namespace Bunraku.Compare;

/// <summary>The result for people.</summary>
/// <param name="subjects">Those that ran, in the order of the columns.</param>
/// <param name="workloads">Those that were asked for, in the order of the rows.</param>
internal sealed class TableReport(IAnsiConsole console, Results results, IReadOnlyList<Subject> subjects, IReadOnlyList<Workload> workloads)
{
    private const double Restless = 1.3; // measurements further apart are marked
    private static readonly string[] Ours = [BunrakuSubject.Direct, "bt", "interp", "kvm"], Others = ["qemu", "bochs"];

    /// <summary>A subject, and a choice of mitigations for its guest.</summary>
    private sealed record Column(string Subject, string Title, bool Mitigations)
    {
        public Cell this[Workload workload] => new(Subject, Mitigations, workload);
    }

    public void Write(Mitigations mitigations, TimeBasis time)
    {
        string basis = time == TimeBasis.Cpu ? ": processor time" : "";
        bool usual = mitigations != Mitigations.Off;
        string kernel = mitigations switch
        {
            Mitigations.Default => "the guest's own choice of mitigations",
            Mitigations.Off => "mitigations=off",
            _ => "the guest's own choice of mitigations, and mitigations=off",
        };
        Column[] all = [.. subjects.Select(s => Of(s, usual))], monitors = [.. subjects.Where(s => s.Boots).Select(s => Of(s, usual))];
        Rows("Programs" + basis, w => w.Group == Group.Program, all);
        Rows("Compute" + basis, w => w.IsCompute, all);
        Rows("Hot code of this size" + basis, w => w.Group == Group.Footprint, all);
        Rows($"Operating system ({kernel}){basis}", w => w.Group == Group.OperatingSystem,
            mitigations == Mitigations.Both ? [.. subjects.Where(s => s.Boots).SelectMany(s => (Column[])[Of(s, true), Of(s, false)])] : monitors);
        Rows("Page tables" + basis, w => w.Group == Group.Paging, monitors);
        Rows("Boot" + basis, w => w.Group == Group.Boot, monitors);
        Means(mitigations);
        console.WriteLine("a / b: how many times longer a takes than b" + (AnyRestless ? $"; ~: measurements differ by more than {Restless:0.0} x" : ""));
        foreach (Subject s in subjects)
        {
            if (results.Memory(s.Name) is { } bytes)
                console.WriteLine(string.Create(CultureInfo.InvariantCulture,
                    $"{s.Title}: {bytes / 1048576.0:0} MiB resident beyond the guest's memory at the end"));
        }
    }

    private bool AnyRestless => workloads.Any(w =>
        subjects.Any(s => results.Spread(new(s.Name, true, w)) > Restless || results.Spread(new(s.Name, false, w)) > Restless));

    private static Column Of(Subject subject, bool mitigations) => new(subject.Name, mitigations ? subject.Title : subject.Title + " off", mitigations);

    private void Rows(string title, Func<Workload, bool> which, IReadOnlyList<Column> columns)
    {
        Workload[] rows = [.. workloads.Where(which).Where(w => columns.Any(c => results.Median(c[w]) is not null || results.IsSettled(c[w])))];
        if (rows.Length == 0) return;
        (Column Numerator, Column Denominator)[] ratios = [.. Ratios(columns, leadOnly: true)];
        console.WriteLine(title);
        Table table = New(["", "time for one"], [.. columns.Select(c => c.Title), .. ratios.Select(r => $"{r.Numerator.Title} / {r.Denominator.Title}")]);
        foreach (Workload w in rows)
        {
            table.AddRow([w.Name, w.Operation, .. columns.Select(c => Time(c[w])),
                .. ratios.Select(r => Number(results.Ratio(r.Numerator[w], r.Denominator[w])))]);
        }
        console.Write(table);
    }

    /// <summary>Geometric means of the groups, for every pair that says something.</summary>
    private void Means(Mitigations mitigations)
    {
        Column[] columns = [.. subjects.Select(s => Of(s, mitigations != Mitigations.Off))];
        (Column Numerator, Column Denominator)[] ratios = [.. Ratios(columns, leadOnly: false)];
        if (ratios.Length == 0) return;
        Table table = New([""], [.. ratios.Select(r => $"{r.Numerator.Title} / {r.Denominator.Title}")]);
        bool any = false;
        Row("programs", w => w.Group == Group.Program);
        Row("compute", w => w.IsCompute);
        Row("  integer", w => w.Group == Group.Integer);
        Row("  floating point", w => w.Group == Group.Float);
        Row("  SIMD", w => w.Group == Group.Simd);
        Row("  floating point + SIMD", w => w.Group is Group.Float or Group.Simd);
        Row("operating system", w => w.Group == Group.OperatingSystem);
        if (mitigations == Mitigations.Both) Row("operating system, off", w => w.Group == Group.OperatingSystem, off: true);
        Row("boot", w => w.Group == Group.Boot);
        if (!any) return;
        console.WriteLine("Geometric means");
        console.Write(table);

        void Row(string title, Func<Workload, bool> which, bool off = false)
        {
            string[] cells = [.. ratios.Select(r => Number(results.MeanRatio(workloads.Where(which), w => (Cell(r.Numerator, w), Cell(r.Denominator, w)))))];
            if (cells.All(c => c.Length == 0)) return;
            any = true;
            table.AddRow([title, .. cells]);

            Cell Cell(Column c, Workload w) => off ? c[w] with { Mitigations = false } : c[w];
        }
    }

    /// <summary>The other monitors against ours, ours against another state of it, with the same mitigations, and everything against native.</summary>
    /// <param name="leadOnly">Only for the best of ours.</param>
    private static IEnumerable<(Column Numerator, Column Denominator)> Ratios(IReadOnlyList<Column> columns, bool leadOnly)
    {
        string[] ours = [.. Ours.Where(o => columns.Any(c => c.Subject == o))];
        if (leadOnly) ours = [.. ours.Take(1)];
        foreach (Column c in columns.Where(c => ours.Contains(c.Subject)))
        {
            foreach (Column other in columns.Where(o => Others.Contains(o.Subject) && o.Mitigations == c.Mitigations)) yield return (other, c);
        }
        foreach (Column c in columns)
        {
            foreach (Column other in columns.Where(o => o.Subject == c.Subject + BunrakuSubject.Other && o.Mitigations == c.Mitigations))
                yield return (c, other);
        }
        // How much slower it is one level further in, and TCG's inside by ours.
        foreach (Column c in columns.Where(IsInside))
        {
            foreach (Column outside in columns.Where(o => o.Subject == c.Subject[..^InsideSubject.Svm.Length])) yield return (c, outside);
            foreach (Column other in columns.Where(o => o != c && !leadOnly && c.Subject.StartsWith("bt", StringComparison.Ordinal)
                && o.Subject.StartsWith("qemu", StringComparison.Ordinal) && IsInside(o))) yield return (other, c);
        }
        if (columns.FirstOrDefault(c => c.Subject == NativeSubject.Id) is not { } native) yield break;
        foreach (Column c in columns.Where(c => c != native && (!leadOnly || ours.Contains(c.Subject)))) yield return (c, native);
    }

    private static bool IsInside(Column c) => c.Subject.EndsWith(InsideSubject.Vmx, StringComparison.Ordinal)
        || c.Subject.EndsWith(InsideSubject.Svm, StringComparison.Ordinal);

    private string Time(Cell cell)
    {
        if (results.Median(cell) is { } ns) return (results.Spread(cell) > Restless ? "~" : "") + Duration(ns);
        return results.SkipReason(cell) switch { null => "", Results.Failed => "FAILED", _ => "n/a" };
    }

    private static string Duration(double ns) => ns switch
    {
        < 1 => $"{Digits(ns * 1e3)} ps",
        < 1e3 => $"{Digits(ns)} ns",
        < 1e6 => $"{Digits(ns / 1e3)} us",
        < 1e9 => $"{Digits(ns / 1e6)} ms",
        _ => $"{Digits(ns / 1e9)} s ",
    };

    private static string Number(double? ratio) => ratio is { } r ? Digits(r) : "";

    /// <summary>Three digits that count.</summary>
    private static string Digits(double value) => value.ToString(value switch { < 10 => "0.00", < 100 => "0.0", _ => "0" }, CultureInfo.InvariantCulture);

    private static Table New(IEnumerable<string> left, IEnumerable<string> right)
    {
        var table = new Table { Border = TableBorder.Simple };
        foreach (string header in left) table.AddColumn(new TableColumn(Markup.Escape(header)) { NoWrap = true });
        foreach (string header in right) table.AddColumn(new TableColumn(Markup.Escape(header)) { Alignment = Justify.Right, NoWrap = true });
        return table;
    }
}
