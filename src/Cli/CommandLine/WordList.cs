namespace Bunraku.Cli.CommandLine;

/// <summary>
/// What stands behind an option that describes something: <c>FIRST,NAME=VALUE,…</c>. A name without a value is "on"; two commas are one in a word.
/// </summary>
/// <param name="First">What is described.</param>
/// <param name="Words">Words about it, in their order.</param>
internal readonly record struct WordList(string First, IReadOnlyList<(string Name, string Value)> Words)
{
    private const string Comma = "\0";

    public static WordList Parse(string text)
    {
        string[] parts = [.. text.Replace(",,", Comma, StringComparison.Ordinal).Split(',').Select(p => p.Replace(Comma, ",", StringComparison.Ordinal))];
        return new WordList(parts[0],
            [.. parts.Skip(1).Select(part => part.IndexOf('=') is > 0 and int at ? (part[..at], part[(at + 1)..]) : (part, "on"))]);
    }
}
