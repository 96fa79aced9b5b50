using System.Diagnostics;
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

    /// <summary>Reads --count and --seed, and more. Null: something is wrong with them, and one line says what.</summary>
    /// <param name="program">Name of the program, for that line.</param>
    /// <param name="count">Where nothing else is said.</param>
    /// <param name="more">Takes another option; false: there is none of that name. What is wrong it says by a <see cref="FormatException"/>.</param>
    /// <param name="then">What has to wait until all of them are known; it says what is wrong in the same way.</param>
    public static (long Count, ulong Seed)? Read(string program, string usage, string[] args, long count, Func<string, string, bool>? more = null,
        Action? then = null)
    {
        ulong seed = (ulong)Stopwatch.GetTimestamp() % 1_000_000_000;
        try
        {
            foreach ((string name, string value) in Pairs(args, usage))
            {
                if (name == "--count") count = Count(value);
                else if (name == "--seed") seed = Number(value);
                else if (more is null || !more(name, value)) throw new FormatException(usage);
            }
            then?.Invoke();
        }
        catch (FormatException e)
        {
            Console.Error.WriteLine($"{program}: {e.Message}");
            return null;
        }
        return (count, seed);
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
