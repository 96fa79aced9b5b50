using System.Globalization;
using System.Xml.Linq;

namespace Bunraku.Lab.Shadow;

/// <summary>A report as a picture: step below step, the guest's table on the left and the shadow on the right, a column a page.</summary>
public static class ShadowPicture
{
    private const double Cell = 52, RowHeight = 40, Top = 84, Left = 16, Gap = 28, BoxHeight = 20;
    private static readonly XNamespace s_svg = "http://www.w3.org/2000/svg";

    /// <summary>The picture as an SVG document, with a line end.</summary>
    public static string Draw(ShadowReport report)
    {
        int pages = report.Steps[0].Pages.Count;
        double right = Left + pages * Cell + Gap, width = right + pages * Cell + Left, height = Top + report.Steps.Count * RowHeight + 12;
        var svg = new XElement(s_svg + "svg", new XAttribute("viewBox", $"0 0 {N(width)} {N(height)}"), new XAttribute("width", N(width)),
            new XAttribute("height", N(height)), new XAttribute("font-family", "sans-serif"), new XAttribute("font-size", "12"),
            new XElement(s_svg + "title", "A program's page table and its shadow, step by step"),
            new XElement(s_svg + "rect", new XAttribute("width", "100%"), new XAttribute("height", "100%"), new XAttribute("fill", "white")),
            Text(Left, 24, "the guest's page table", "start", "#222222", 15),
            Text(right, 24, "its shadow, which the host's processor walks", "start", "#222222", 15),
            Text(Left, 42, "frame, and flags of the entry", "start", "#666666", 11),
            Text(right, 42, "r, w, x; ! guarded; refused: stays translated; framed: changed", "start", "#666666", 11));
        for (int n = 0; n < pages; n++)
        {
            PageReport page = report.Steps[0].Pages[n];
            foreach (double side in (double[])[Left, right])
            {
                svg.Add(Text(side + n * Cell + Cell / 2, 62, page.Name, "middle", "#222222", 11));
                svg.Add(Text(side + n * Cell + Cell / 2, 75, page.Linear.ToString("X", CultureInfo.InvariantCulture), "middle", "#888888", 9));
            }
        }
        for (int n = 0; n < report.Steps.Count; n++)
        {
            StepReport step = report.Steps[n];
            double top = Top + n * RowHeight;
            svg.Add(Text(Left, top + 12, string.Create(CultureInfo.InvariantCulture, $"{n}. {step.Who} {step.What}").Replace("  ", " "), "start",
                step.Who == "kernel" ? "#7e22ce" : "#222222", 12));
            svg.Add(Text(width - Left, top + 12, step.Summary, "end", "#666666", 10));
            for (int column = 0; column < pages; column++)
            {
                PageReport page = step.Pages[column];
                PageReport? before = n > 0 ? report.Steps[n - 1].Pages[column] : null;
                bool isPresent = (page.Entry & PagingBits.Present) != 0;
                Box(svg, Left + column * Cell, top + 16, isPresent ? (page.Entry & PagingBits.Accessed) != 0 ? "#cfe3f7" : "#eef4fa" : "#f5f5f5",
                    isPresent ? page.Flags : "absent", before != null && before.Entry != page.Entry, $"{page.Linear:X}: {page.Flags} {page.Frame:X}");
                Box(svg, right + column * Cell, top + 16, Colour(page), Word(page),
                    before != null && ShadowExperiment.IsOther(before with { Entry = page.Entry }, page),
                    page.Rights != ShadowRights.None ? $"{page.Linear:X}: {page.Shadow} {page.ShadowFrame:X}" : $"{page.Linear:X}: {page.Shadow}");
            }
        }
        return svg + "\n";
    }

    private static string Word(PageReport page) => page.Refused ? "refused" : page.ShortRights + (page.Guards.Count > 0 ? "!" : "");

    private static string Colour(PageReport page) => page.Refused ? "#f7c6c0" : page.Guards.Count > 0 ? "#f8e3a1" : (page.Rights & ShadowRights.Execute) != 0
        ? "#d9c8f0" : (page.Rights & ShadowRights.Write) != 0 ? "#b9e2c3" : page.Rights != ShadowRights.None ? "#e0f2e4" : "#fafafa";

    private static void Box(XElement svg, double x, double y, string fill, string text, bool isChanged, string detail)
    {
        svg.Add(new XElement(s_svg + "rect", new XAttribute("x", N(x + 1)), new XAttribute("y", N(y)), new XAttribute("width", N(Cell - 2)),
            new XAttribute("height", N(BoxHeight)), new XAttribute("fill", fill), new XAttribute("stroke", isChanged ? "#c2410c" : "#cccccc"),
            new XAttribute("stroke-width", isChanged ? "1.8" : "0.8"), new XElement(s_svg + "title", detail)));
        svg.Add(Text(x + Cell / 2, y + 14, text, "middle", "#222222", 10));
    }

    private static XElement Text(double x, double y, string text, string anchor, string color, double size) => new(s_svg + "text", new XAttribute("x", N(x)),
        new XAttribute("y", N(y)), new XAttribute("text-anchor", anchor), new XAttribute("fill", color), new XAttribute("font-size", N(size)), text);

    private static string N(double value) => value.ToString("0.#", CultureInfo.InvariantCulture);
}
