using System.Globalization;
using System.Xml.Linq;

namespace Bunraku.Lab.Nested;

/// <summary>
/// A report as a picture: for each guest who runs, from one of its exits to the next, from left to right; a lane for each level, and a line through L0
/// for each exit and entry.
/// </summary>
public static class NestedPicture
{
    private const double LaneHeight = 18, Left = 36, Right = 16, Top = 44, TitleHeight = 22, Gap = 18, StepWidth = 56, CrossingWidth = 8;
    private static readonly XNamespace s_svg = "http://www.w3.org/2000/svg";
    private static readonly string[] s_colours = ["#555555", "#cfe3f7", "#d9c8f0", "#b9e2c3"];

    /// <summary>The picture as an SVG document, with a line end.</summary>
    public static string Draw(NestedReport report)
    {
        double width = Left + Right + report.Cases.Max(c => c.Steps.Count) * (StepWidth + CrossingWidth), y = Top;
        width = Math.Max(width, 640);
        var drawn = new List<XElement>();
        foreach (NestedCase c in report.Cases) y = Draw(c, drawn, y, width) + Gap;
        return new XElement(s_svg + "svg", new XAttribute("viewBox", $"0 0 {N(width)} {N(y)}"), new XAttribute("width", N(width)),
            new XAttribute("height", N(y)), new XAttribute("font-family", "sans-serif"), new XAttribute("font-size", "11"),
            new XElement(s_svg + "title", "What one exit of a guest comes to, by the level at which the guest is"),
            new XElement(s_svg + "rect", new XAttribute("width", "100%"), new XAttribute("height", "100%"), new XAttribute("fill", "white")),
            Text(Left, 18, "One CPUID: who runs until the guest goes on", "start", "#222222", 15),
            Text(Left, 34, "boxes: instructions at a level; lines: exits up to L0 with their reason, entries down", "start", "#666666", 11), drawn) + "\n";
    }

    private static double Draw(NestedCase c, List<XElement> drawn, double y, double width)
    {
        drawn.Add(Text(Left, y + 14, Title(c), "start", "#222222", 12));
        double top = y + TitleHeight, bottom = top + (c.Level + 1) * LaneHeight;
        for (int level = 0; level <= c.Level; level++)
        {
            double lane = Lane(top, level);
            drawn.Add(Text(Left - 6, lane + 13, $"L{level}", "end", "#666666", 11));
            drawn.Add(Rectangle(Left, lane, width - Left - Right, LaneHeight, level % 2 == 0 ? "#fafafa" : "#f3f3f3"));
        }
        double x = Left;
        for (int n = 0; n < c.Steps.Count; n++)
        {
            NestedStep step = c.Steps[n];
            // The line of a crossing, between the level and L0, and from there to who runs next.
            int runs = step.IsExit ? 1 : step.Level;
            double from = Lane(top, 0) + LaneHeight / 2, to = Lane(top, step.Level) + LaneHeight / 2;
            drawn.Add(new XElement(s_svg + "line", new XAttribute("x1", N(x + CrossingWidth / 2)), new XAttribute("x2", N(x + CrossingWidth / 2)),
                new XAttribute("y1", N(from)), new XAttribute("y2", N(Math.Max(to, Lane(top, runs) + LaneHeight / 2))),
                new XAttribute("stroke", step.IsExit ? "#c2410c" : "#15803d"), new XAttribute("stroke-width", "1.6")));
            if (step.IsExit) drawn.Add(Text(x + CrossingWidth + 2, Lane(top, 0) + 13, step.Reason, "start", "#c2410c", 9));
            ulong next = n + 1 < c.Steps.Count ? c.Steps[n + 1].Instructions : c.Steps[0].Instructions + Total(c);
            ulong executed = next - step.Instructions;
            drawn.Add(Rectangle(x + CrossingWidth, Lane(top, runs) + 2, StepWidth, LaneHeight - 4, s_colours[runs]));
            drawn.Add(Text(x + CrossingWidth + StepWidth / 2, Lane(top, runs) + 13, executed.ToString(CultureInfo.InvariantCulture), "middle", "#222222", 10));
            x += CrossingWidth + StepWidth;
        }
        return bottom;
    }

    private static ulong Total(NestedCase c) => c.Instructions.Aggregate(0ul, (a, b) => a + b);

    private static string Title(NestedCase c) => string.Create(CultureInfo.InvariantCulture,
        $"{c.Name}: {c.TotalExits} {(c.TotalExits == 1 ? "exit" : "exits")}, {Total(c)} instructions")
        + string.Concat(c.Times.Where(t => t.Nanoseconds > 0)
            .Select(t => string.Create(CultureInfo.InvariantCulture, $"; {t.Engine} {t.Nanoseconds / 1000:F2} us")));

    private static double Lane(double top, int level) => top + level * LaneHeight;

    private static XElement Rectangle(double x, double y, double width, double height, string fill) => new(s_svg + "rect", new XAttribute("x", N(x)),
        new XAttribute("y", N(y)), new XAttribute("width", N(width)), new XAttribute("height", N(height)), new XAttribute("fill", fill));

    private static XElement Text(double x, double y, string text, string anchor, string color, double size) => new(s_svg + "text", new XAttribute("x", N(x)),
        new XAttribute("y", N(y)), new XAttribute("text-anchor", anchor), new XAttribute("fill", color), new XAttribute("font-size", N(size)), text);

    private static string N(double value) => value.ToString("0.#", CultureInfo.InvariantCulture);
}
