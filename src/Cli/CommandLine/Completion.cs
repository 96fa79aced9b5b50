using System.CommandLine;

namespace Bunraku.Cli.CommandLine;

/// <summary>What a shell may put in place of the word at the cursor, behind the directive <c>[suggest:POSITION] "LINE"</c> of System.CommandLine.</summary>
internal static class Completion
{
    private const string Program = "bunraku";

    /// <param name="line">The command line as typed, with or without the program's name.</param>
    /// <param name="position">Characters before the cursor; null for its end.</param>
    public static IReadOnlyList<string> For(RootCommand root, ParserConfiguration configuration, string line, int? position)
    {
        string text = line[..Math.Clamp(position ?? line.Length, 0, line.Length)].TrimStart();
        int end = text.IndexOf(' ');
        if (end >= 0 && Path.GetFileName(text[..end]) == Program) text = text[end..].TrimStart();
        // What the guest has, we do not know.
        if (text.Contains(" -- ", StringComparison.Ordinal)) return [];
        string word = text[(text.LastIndexOf(' ') + 1)..];
        // The library also offers what has the word in its middle, and the spellings of help that other systems have.
        return [.. root.Parse(text, configuration).GetCompletions(text.Length).Select(c => c.Label)
            .Where(l => l.StartsWith(word, StringComparison.Ordinal) && l is not ("-?" or "/?" or "/h")).Distinct().Order(StringComparer.Ordinal)];
    }
}
