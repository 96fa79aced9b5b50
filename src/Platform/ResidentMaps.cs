using System.Globalization;

namespace Bunraku.Platform;

/// <summary>The lines of /proc/PID/smaps, see proc(5).</summary>
public static class ResidentMaps
{
    /// <summary>Resident bytes of all mappings but those that are left out, and whatever else shows the same shared memory.</summary>
    /// <param name="lines">By the kernel: of each mapping one with addresses, rights, offset, device, inode, name; others with a figure each.</param>
    /// <param name="leaveOut">Whether a mapping is left out, by its first address and its bytes.</param>
    public static ulong Sum(IEnumerable<string> lines, Func<ulong, ulong, bool> leaveOut)
    {
        // What is shared, by file and place in it: several views have the same pages.
        Dictionary<string, ulong> shared = [];
        string? view = null, excluded = null;
        bool counts = false;
        ulong sum = 0;
        foreach (string line in lines)
        {
            if (IsMapping(line, out ulong start, out ulong length))
            {
                string[] words = line.Split(' ', StringSplitOptions.RemoveEmptyEntries);
                string file = $"{words[3]} {words[4]}";
                view = words[1].EndsWith('s') ? $"{file} {words[2]}" : null;
                counts = !leaveOut(start, length);
                if (!counts && view is not null) excluded = file;
                continue;
            }
            if (!counts || !line.StartsWith("Rss:", StringComparison.Ordinal)) continue;
            ulong bytes = ulong.Parse(line.Split(' ', StringSplitOptions.RemoveEmptyEntries)[1], CultureInfo.InvariantCulture) << 10;
            if (view is null) sum += bytes;
            else shared[view] = Math.Max(bytes, shared.GetValueOrDefault(view));
        }
        foreach ((string place, ulong bytes) in shared)
        {
            if (excluded is null || !place.StartsWith(excluded + " ", StringComparison.Ordinal)) sum += bytes;
        }
        return sum;
    }

    /// <summary>"7f68c9b92000-7f68c9ce8000 r-xp 00026000 fe:00 393 /usr/lib/…": the names of figures have no digit in front of a hyphen.</summary>
    private static bool IsMapping(string line, out ulong start, out ulong length)
    {
        start = length = 0;
        int hyphen = line.IndexOf('-', StringComparison.Ordinal), space = line.IndexOf(' ', StringComparison.Ordinal);
        if (hyphen <= 0 || space < hyphen) return false;
        if (!IsAddress(line.AsSpan(0, hyphen), out start) || !IsAddress(line.AsSpan(hyphen + 1, space - hyphen - 1), out ulong end)) return false;
        length = end - start;
        return true;

        static bool IsAddress(ReadOnlySpan<char> text, out ulong address) =>
            ulong.TryParse(text, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out address);
    }
}
