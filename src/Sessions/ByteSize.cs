using System.Globalization;

namespace Bunraku.Sessions;

/// <summary>Amounts of memory as people write them.</summary>
public static class ByteSize
{
    /// <summary>Reads 512, 512K, 20M, 10G or 1T; without a unit they are bytes.</summary>
    public static bool TryParse(string text, out ulong bytes)
    {
        const string units = "KMGT";
        int unit = text.Length > 0 ? units.IndexOf(char.ToUpperInvariant(text[^1])) : -1;
        int shift = 10 * (unit + 1);
        bool isNumber = ulong.TryParse(unit < 0 ? text : text[..^1], NumberStyles.None, CultureInfo.InvariantCulture, out ulong number)
            && number <= ulong.MaxValue >> shift;
        bytes = isNumber ? number << shift : 0;
        return isNumber;
    }

    /// <summary>Bytes with a binary unit, for people: 512 MiB, 1.5 GiB, 93 KiB.</summary>
    public static string Format(ulong bytes)
    {
        string[] units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
        double value = bytes;
        int unit = 0;
        for (; value >= 1024 && unit < units.Length - 1; unit++) value /= 1024;
        return string.Create(CultureInfo.InvariantCulture, $"{value:0.#} {units[unit]}");
    }
}
