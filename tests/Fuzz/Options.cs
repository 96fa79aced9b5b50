using System.Globalization;

namespace Bunraku.Fuzz;

/// <summary>Options in pairs of a name and a value.</summary>
internal static class Options
{
    /// <exception cref="FormatException">A value is missing.</exception>
    public static IEnumerable<(string Name, string Value)> Pairs(string[] args, string usage)
    {
        if (args.Length % 2 != 0) throw new FormatException(usage);
        for (int n = 0; n < args.Length; n += 2) yield return (args[n], args[n + 1]);
    }

    /// <summary>A count; M stands for a million.</summary>
    /// <exception cref="FormatException">It is not one.</exception>
    public static long Count(string text) =>
        long.TryParse(text.Replace("M", "000000", StringComparison.Ordinal), NumberStyles.None, CultureInfo.InvariantCulture, out long count) ? count
            : throw new FormatException($"'{text}' is no count, for example 100M");

    /// <exception cref="FormatException">It is no number.</exception>
    public static ulong Number(string text) =>
        ulong.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out ulong number) ? number : throw new FormatException($"'{text}' is no number");
}
