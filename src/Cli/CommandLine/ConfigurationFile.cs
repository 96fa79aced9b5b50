using Bunraku.Platform;

namespace Bunraku.Cli.CommandLine;

/// <summary>
/// A file with options of <c>run</c>, one a line: the word without its dashes, and its value behind <c>=</c> or a blank, as far as it has one; <c>guest</c>
/// names the guest.
/// Empty lines, and those that begin with #, say nothing. It stands before what is on the command line, which so has the last word.
/// </summary>
internal static class ConfigurationFile
{
    /// <summary>The option that names one.</summary>
    public const string Option = "--config";

    private const string GuestWord = "guest";
    private const int LongestFile = 1 << 20;

    /// <summary>Arguments with what the file says in the option's place.</summary>
    /// <param name="arguments">Of the command, with its own word first.</param>
    /// <exception cref="UsageException">It cannot be read, or a line is none.</exception>
    public static string[] Expand(string[] arguments)
    {
        int at = Array.FindIndex(arguments, a => a == Option || a.StartsWith(Option + "=", StringComparison.Ordinal));
        if (at < 0) return arguments;
        bool apart = arguments[at] == Option;
        string path = apart ? at + 1 < arguments.Length ? arguments[at + 1] : throw new UsageException($"{Option}: a file is missing")
            : arguments[at][(Option.Length + 1)..];
        string[] rest = [.. arguments[1..at], .. arguments[(at + (apart ? 2 : 1))..]];
        if (rest.Any(a => a == Option || a.StartsWith(Option + "=", StringComparison.Ordinal))) throw new UsageException($"{Option}: there is one file, or "
            + "none");
        return [arguments[0], .. Read(path).Where(word => !(word.Guest && rest.Any(a => !a.StartsWith('-') && GuestImage.Names.Contains(a)))).Select(w =>
            w.Word), .. rest];
    }

    private static IEnumerable<(string Word, bool Guest)> Read(string path)
    {
        string text;
        try
        {
            if (HostFile.IsSpecial(path)) throw new UsageException($"{Option} {path}: it is no file");
            if (new FileInfo(path) is { Exists: true, Length: > LongestFile }) throw new UsageException($"{Option} {path}: it has more than 1 MiB");
            text = File.ReadAllText(path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new UsageException($"{Option} {path}: {HostError.Reason(e)}");
        }
        var words = new List<(string, bool)>();
        int number = 0;
        foreach (string raw in text.Split('\n'))
        {
            number++;
            string line = raw.Trim();
            if (line.Length == 0 || line[0] == '#') continue;
            int end = line.IndexOfAny(['=', ' ', '\t']);
            string name = (end < 0 ? line : line[..end]).TrimStart('-'), value = end < 0 ? "" : line[(end + 1)..].TrimStart(' ', '\t', '=').Trim();
            if (name.Length == 0 || !name.All(c => char.IsAsciiLetterOrDigit(c) || c == '-')) throw new UsageException($"{Option} {path}, line {number}: "
                + $"'{line}' is no option");
            if (name == GuestWord) words.Add((value, true));
            else words.Add((end < 0 ? $"--{name}" : $"--{name}={value}", false));
        }
        return words;
    }
}
