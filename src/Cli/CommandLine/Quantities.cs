using System.Globalization;
using Bunraku.Hypervisor.Scheduling;

namespace Bunraku.Cli.CommandLine;

/// <summary>The value of an option that is on or off; an option of a boolean would take no such word.</summary>
internal enum Switch { Off, On }

/// <summary>Reads and writes quantities as people type them.</summary>
internal static class Quantities
{
    /// <summary>
    /// Bytes of a size such as 512M, 1.5G, 1536m or 65536K; a bare number is MiB, as in other monitors. A multiple of 4096; a fraction is rounded up to one.
    /// </summary>
    /// <exception cref="UsageException">Not a size.</exception>
    public static ulong ParseSize(string text)
    {
        string digits = text;
        int shift = 20;
        if (text.Length > 0 && !char.IsAsciiDigit(text[^1]))
        {
            shift = char.ToUpperInvariant(text[^1]) switch
            {
                'K' => 10,
                'M' => 20,
                'G' => 30,
                'T' => 40,
                _ => throw NoSize(text),
            };
            digits = text[..^1];
        }
        if (digits.Length == 0 || !char.IsAsciiDigit(digits[0])
            || !decimal.TryParse(digits, NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out decimal number)) throw NoSize(text);
        if (number > ulong.MaxValue >> (shift + 12)) throw new UsageException($"'{text}' is larger than any machine");
        decimal bytes = number * (1ul << shift);
        // Who writes a fraction does not count in pages.
        if (digits.Contains('.')) bytes = decimal.Ceiling(bytes / GuestMemory.PageSize) * GuestMemory.PageSize;
        if (bytes % GuestMemory.PageSize != 0) throw new UsageException($"'{text}' is not a whole number of 4 KiB pages");
        if (bytes < VmOptions.SmallestMemory) throw new UsageException($"'{text}' of memory is too small; the least is 1M");
        return (ulong)bytes;
    }

    /// <summary>Bytes of a disk: a number with K, M, G or T, or of bytes without a unit.</summary>
    /// <exception cref="UsageException">Not a size of whole bytes.</exception>
    public static ulong ParseBytes(string text)
    {
        int shift = text.Length == 0 ? 0 : char.ToUpperInvariant(text[^1]) switch { 'K' => 10, 'M' => 20, 'G' => 30, 'T' => 40, _ => 0 };
        string digits = shift == 0 ? text : text[..^1];
        if (digits.Length == 0 || !char.IsAsciiDigit(digits[0])
            || !decimal.TryParse(digits, NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out decimal number))
            throw new UsageException($"'{text}' is not a size; write for example 10G, 512M or 1.5G");
        if (number > long.MaxValue >> shift) throw new UsageException($"'{text}' is larger than any disk");
        decimal bytes = number * (1ul << shift);
        return bytes == decimal.Truncate(bytes) ? (ulong)bytes : throw new UsageException($"'{text}' is not a whole number of bytes");
    }

    private static UsageException NoSize(string text) => new($"'{text}' is not a size; write for example 512M, 2G or 1.5G");

    /// <summary>A duration such as 10s, 2m, 1h, 500ms or 1.5s; a bare number is seconds. More than zero, at most 24 days.</summary>
    /// <exception cref="UsageException">Not a duration.</exception>
    public static TimeSpan ParseDuration(string text)
    {
        (string suffix, double seconds)[] units = [("ms", 0.001), ("s", 1), ("m", 60), ("h", 3600), ("", 1)];
        (string unit, double scale) = units.First(u => text.EndsWith(u.suffix, StringComparison.Ordinal));
        const NumberStyles style = NumberStyles.AllowDecimalPoint;
        if (!double.TryParse(text[..^unit.Length], style, CultureInfo.InvariantCulture, out double number) || double.IsNaN(number))
            throw new UsageException($"'{text}' is not a duration; write for example 10s, 2m or 500ms");
        double total = number * scale;
        if (total * 1000 < 1) throw new UsageException($"'{text}' is no time at all; the least is 1ms");
        if (total > 24 * 86400) throw new UsageException($"'{text}' is longer than the longest duration, 24 days");
        return TimeSpan.FromSeconds(total);
    }

    /// <summary>Hz of a frequency such as 1GHz, 2600MHz, 2.6G or 1000000000; a bare number is Hz. What a virtual clock can have.</summary>
    /// <exception cref="UsageException">Not a frequency.</exception>
    public static ulong ParseFrequency(string text)
    {
        string number = text.EndsWith("hz", StringComparison.OrdinalIgnoreCase) ? text[..^2] : text;
        decimal scale = 1;
        if (number.Length > 0 && !char.IsAsciiDigit(number[^1]))
        {
            scale = char.ToUpperInvariant(number[^1]) switch
            {
                'K' => 1_000,
                'M' => 1_000_000,
                'G' => 1_000_000_000,
                _ => 0,
            };
            number = number[..^1];
        }
        if (scale == 0 || number.Length > 15 || !decimal.TryParse(number, NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out decimal value))
            throw new UsageException($"'{text}' is not a frequency; write for example 1GHz or 2600MHz");
        value *= scale;
        if (value is < VirtualClock.LowestFrequency or > VirtualClock.HighestFrequency)
            throw new UsageException($"'{text}' is no frequency for a processor's counter; from {VirtualClock.LowestFrequency / 1_000_000}MHz to "
                + $"{VirtualClock.HighestFrequency / 1_000_000_000}GHz is possible");
        return (ulong)value;
    }

    /// <summary>A percentage such as 50, 12.5% or 200.</summary>
    /// <exception cref="UsageException">Not a percentage above 0.</exception>
    public static double ParsePercent(string text)
    {
        string number = text.EndsWith('%') ? text[..^1] : text;
        if (!double.TryParse(number, NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out double value) || !double.IsFinite(value))
            throw new UsageException($"'{text}' is not a percentage; write for example 50 or 150");
        return value is >= 1 and <= 100_000 ? value : throw new UsageException($"'{text}': a percentage of a processor is from 1 to 100000");
    }

    /// <summary>A weight as cgroup v2 has them.</summary>
    /// <exception cref="UsageException">Not a number from 1 to 10000.</exception>
    public static int ParseWeight(string text) =>
        int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out int value)
            && value is >= CpuTimeOptions.LeastWeight and <= CpuTimeOptions.MostWeight ? value
            : throw new UsageException($"'{text}' is not a weight; it is a number from {CpuTimeOptions.LeastWeight} to {CpuTimeOptions.MostWeight}, "
                + $"{CpuTimeOptions.DefaultWeight} being the default");

    /// <summary>Processors of the host such as 0,2 or 4-7, in the order given.</summary>
    /// <exception cref="UsageException">Not a list of processors.</exception>
    public static IReadOnlyList<int> ParseProcessors(string text)
    {
        const int most = 8191;
        var list = new List<int>();
        foreach (string part in text.Split(','))
        {
            string[] ends = part.Split('-');
            if (ends.Length > 2 || !int.TryParse(ends[0], NumberStyles.None, CultureInfo.InvariantCulture, out int first)
                || !int.TryParse(ends[^1], NumberStyles.None, CultureInfo.InvariantCulture, out int last) || first > last || last > most)
                throw new UsageException($"'{text}' is not a list of processors; write for example 0,1 or 2-5");
            list.AddRange(Enumerable.Range(first, last - first + 1));
        }
        return list;
    }

    /// <exception cref="UsageException">Neither on nor off.</exception>
    public static Switch ParseSwitch(string text) => text switch
    {
        "on" => Switch.On,
        "off" => Switch.Off,
        _ => throw new UsageException($"'{text}' is neither on nor off"),
    };

    /// <summary>A word behind an option, NAME=on or NAME=off.</summary>
    /// <exception cref="UsageException">Neither on nor off.</exception>
    public static bool IsOn(string option, string name, string value)
    {
        try
        {
            return ParseSwitch(value) == Switch.On;
        }
        catch (UsageException e)
        {
            throw new UsageException($"{option}: {name}={value}: {e.Message}");
        }
    }

    /// <summary>What a clock begins with: utc, localtime, or a date with or without a time; null: the time of day.</summary>
    /// <exception cref="UsageException">It is none of them.</exception>
    public static DateTime? ParseStartTime(string option, string text) => text switch
    {
        "utc" => null,
        "localtime" => DateTime.Now,
        _ => DateTime.TryParseExact(text, ["yyyy-MM-dd", "yyyy-MM-ddTHH:mm:ss"], CultureInfo.InvariantCulture, DateTimeStyles.None, out DateTime time)
            ? time : throw new UsageException($"{option}{text}: write utc, localtime, or a date such as 2026-01-31 or 2026-01-31T12:30:00"),
    };
}
