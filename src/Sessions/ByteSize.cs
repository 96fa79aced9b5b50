using System.Globalization;

namespace Bunraku.Sessions;

/// <summary>Writes amounts of memory for people.</summary>
public static class ByteSize
{
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
