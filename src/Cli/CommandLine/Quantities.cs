using System.Globalization;
using Bunraku.Engines;

namespace Bunraku.Cli.CommandLine;

/// <summary>The value of an option that is on or off; an option of a boolean would take no such word.</summary>
public enum Switch { Off, On }

/// <summary>Reads and writes quantities as people type them.</summary>
public static class Quantities
{
    /// <summary>Smallest memory that a machine can have, in bytes.</summary>
    public const ulong SmallestMemory = 1ul << 20;

    /// <summary>Bytes of a size such as 512M, 2G, 1536m or 65536K; a bare number is MiB, as in other monitors. A multiple of 4096.</summary>
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
                _ => throw new UsageException($"'{text}' is not a size; write for example 512M or 2G"),
            };
            digits = text[..^1];
        }
        if (!ulong.TryParse(digits, NumberStyles.None, CultureInfo.InvariantCulture, out ulong number))
            throw new UsageException($"'{text}' is not a size; write for example 512M or 2G");
        if (number > ulong.MaxValue >> (shift + 12)) throw new UsageException($"'{text}' is larger than any machine");
        ulong bytes = number << shift;
        if ((bytes & 0xFFF) != 0) throw new UsageException($"'{text}' is not a whole number of 4 KiB pages");
        if (bytes < SmallestMemory) throw new UsageException($"'{text}' of memory is too small; the least is 1M");
        return bytes;
    }

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
            throw new UsageException($"'{text}' is no frequency for a processor's counter; from {VirtualClock.LowestFrequency / 1_000_000}MHz to {VirtualClock.HighestFrequency / 1_000_000_000}GHz is possible");
        return (ulong)value;
    }

    /// <exception cref="UsageException">Neither on nor off.</exception>
    public static Switch ParseSwitch(string text) => text switch
    {
        "on" => Switch.On,
        "off" => Switch.Off,
        _ => throw new UsageException($"'{text}' is neither on nor off"),
    };

    /// <summary>Bytes with a binary unit, for people: 512 MiB, 1.5 GiB, 93 KiB.</summary>
    public static string FormatSize(ulong bytes)
    {
        string[] units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
        double value = bytes;
        int unit = 0;
        for (; value >= 1024 && unit < units.Length - 1; unit++) value /= 1024;
        return string.Create(CultureInfo.InvariantCulture, $"{value:0.#} {units[unit]}");
    }
}
