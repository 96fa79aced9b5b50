using System.Globalization;
using System.Text;
using System.Xml.Linq;

namespace Bunraku.Compare;

/// <summary>The curve of bench/footprint as a picture: instructions a second against the size of the hot code, both in powers.</summary>
internal static class FootprintPicture
{
    private const double Width = 760, Height = 420, Left = 70, Right = 110, Top = 50, Bottom = 56;
    private static readonly string[] s_colors = ["#555555", "#0b6fc2", "#c2410c", "#15803d", "#7e22ce", "#a16207"];
    private static readonly XNamespace s_svg = "http://www.w3.org/2000/svg";

    private sealed record Curve(string Title, string Color, IReadOnlyList<(int Column, double Mips)> Points);

    /// <exception cref="BenchException">The file can't be written.</exception>
    public static void Write(string path, Results results, IReadOnlyList<Subject> subjects, IReadOnlyList<Workload> workloads)
    {
        Curve[] curves = [.. subjects.Select((s, n) => new Curve(s.Title, s_colors[n % s_colors.Length],
            [.. workloads.Select((w, column) => (Column: column, Ns: results.Median(new Cell(s.Name, true, w)) ?? results.Median(new Cell(s.Name, false, w))))
                .Where(p => p.Ns > 0).Select(p => (p.Column, 1e3 / p.Ns!.Value))])).Where(c => c.Points.Count > 0)];
        if (curves.Length == 0) throw new BenchException($"nothing was measured, so there is no curve for {path}");
        try
        {
            if (Path.GetDirectoryName(Path.GetFullPath(path)) is { } folder) Directory.CreateDirectory(folder);
            File.WriteAllText(path, Draw(curves, [.. workloads.Select(w => w.Name[(w.Name.IndexOf('-') + 1)..])]) + "\n", new UTF8Encoding(false));
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new BenchException($"cannot write {path}: {e.Message}");
        }
    }

    private static string Draw(IReadOnlyList<Curve> curves, IReadOnlyList<string> sizes)
    {
        double low = Math.Pow(10, Math.Floor(Math.Log10(curves.Min(c => c.Points.Min(p => p.Mips))))),
            high = Math.Pow(10, Math.Ceiling(Math.Log10(curves.Max(c => c.Points.Max(p => p.Mips)))));
        double right = Width - Right, bottom = Height - Bottom;
        double X(int column) => sizes.Count == 1 ? (Left + right) / 2 : Left + (right - Left) * column / (sizes.Count - 1);
        double Y(double mips) => bottom - (bottom - Top) * Math.Log10(mips / low) / Math.Log10(high / low);

        var svg = new XElement(s_svg + "svg", new XAttribute("viewBox", $"0 0 {N(Width)} {N(Height)}"), new XAttribute("width", N(Width)),
            new XAttribute("height", N(Height)),
            new XAttribute("font-family", "sans-serif"), new XAttribute("font-size", "13"),
            new XElement(s_svg + "title", "Million guest instructions per second by size of the hot code"),
            new XElement(s_svg + "rect", new XAttribute("width", "100%"), new XAttribute("height", "100%"), new XAttribute("fill", "white")),
            Text(Left, 26, "million instructions per second", "start", "#222222"),
            Text((Left + right) / 2, Height - 14, "hot code, bytes", "middle", "#222222"));
        for (double decade = low; decade <= high * 1.001; decade *= 10)
        {
            foreach (int step in (ReadOnlySpan<int>)[1, 2, 5])
            {
                double value = decade * step;
                if (value > high * 1.001) break;
                svg.Add(Line(Left, Y(value), right, Y(value), step == 1 ? "#bbbbbb" : "#e5e5e5"));
                svg.Add(Text(Left - 8, Y(value) + 4, value.ToString("#,0.##", CultureInfo.InvariantCulture), "end", "#444444"));
            }
        }
        for (int n = 0; n < sizes.Count; n++)
        {
            svg.Add(Line(X(n), Top, X(n), bottom, "#e5e5e5"));
            svg.Add(Text(X(n), bottom + 20, $"{sizes[n][..^1]} {char.ToUpperInvariant(sizes[n][^1])}iB", "middle", "#444444"));
        }
        double lastLabel = double.NegativeInfinity;
        foreach (Curve curve in curves.OrderBy(c => Y(c.Points[^1].Mips)))
        {
            svg.Add(new XElement(s_svg + "polyline", new XAttribute("fill", "none"), new XAttribute("stroke", curve.Color),
                new XAttribute("stroke-width", "2.5"),
                new XAttribute("points", string.Join(' ', curve.Points.Select(p => $"{N(X(p.Column))},{N(Y(p.Mips))}")))));
            foreach ((int column, double mips) in curve.Points)
            {
                svg.Add(new XElement(s_svg + "circle", new XAttribute("cx", N(X(column))), new XAttribute("cy", N(Y(mips))), new XAttribute("r", "3.5"),
                    new XAttribute("fill", curve.Color),
                    new XElement(s_svg + "title", string.Create(CultureInfo.InvariantCulture, $"{curve.Title}, {sizes[column]}: {mips:0}"))));
            }
            // Two curves that end at the same height have their names one below the other.
            lastLabel = Math.Max(Y(curve.Points[^1].Mips) + 4, lastLabel + 15);
            svg.Add(Text(X(curve.Points[^1].Column) + 10, lastLabel, curve.Title, "start", curve.Color));
        }
        return svg.ToString();
    }

    private static XElement Line(double x1, double y1, double x2, double y2, string color) => new(s_svg + "line", new XAttribute("x1", N(x1)),
        new XAttribute("y1", N(y1)), new XAttribute("x2", N(x2)), new XAttribute("y2", N(y2)), new XAttribute("stroke", color));

    private static XElement Text(double x, double y, string text, string anchor, string color) => new(s_svg + "text", new XAttribute("x", N(x)),
        new XAttribute("y", N(y)), new XAttribute("text-anchor", anchor), new XAttribute("fill", color), text);

    private static string N(double value) => value.ToString("0.#", CultureInfo.InvariantCulture);
}
