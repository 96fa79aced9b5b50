using System.Text;

namespace Bunraku.Sessions.Monitoring;

/// <summary>Text for a given width in characters. Lines are broken between words only and end without blanks; a longer word keeps a line of its own.</summary>
public static class TextLayout
{
    /// <summary>Where nobody says how wide the output is.</summary>
    public const int DefaultWidth = 80;

    private const int Indent = 2, Gap = 2, WidestTerm = 26, NarrowestText = 28;

    /// <summary>The lines of one paragraph.</summary>
    public static IReadOnlyList<string> Wrap(string text, int width)
    {
        var lines = new List<string>();
        var line = new StringBuilder();
        foreach (string word in text.Split(' ', StringSplitOptions.RemoveEmptyEntries))
        {
            if (line.Length > 0 && line.Length + 1 + word.Length > width)
            {
                lines.Add(line.ToString());
                line.Clear();
            }
            if (line.Length > 0) line.Append(' ');
            line.Append(word);
        }
        if (line.Length > 0) lines.Add(line.ToString());
        return lines;
    }

    /// <summary>One paragraph, with a line end.</summary>
    public static string Paragraph(string text, int width) => string.Concat(Wrap(text, width).Select(l => l + "\n"));

    /// <summary>Terms with their explanations in a column beside them; below them where the width does not suffice.</summary>
    public static string Definitions(IReadOnlyCollection<(string Term, string Text)> items, int width)
    {
        int column = Indent + Gap + items.Select(i => i.Term.Length).Where(n => n <= WidestTerm).DefaultIfEmpty().Max();
        bool beside = width - column >= NarrowestText;
        if (!beside) column = 2 * Indent;
        var text = new StringBuilder();
        foreach ((string term, string explanation) in items)
        {
            IReadOnlyList<string> lines = Wrap(explanation, Math.Max(1, width - column));
            text.Append(' ', Indent).Append(term);
            int first = 0;
            if (beside && term.Length <= column - Indent - Gap && lines.Count > 0)
            {
                text.Append(' ', column - Indent - term.Length).Append(lines[0]);
                first = 1;
            }
            text.Append('\n');
            foreach (string line in lines.Skip(first)) text.Append(' ', column).Append(line).Append('\n');
        }
        return text.ToString();
    }
}
