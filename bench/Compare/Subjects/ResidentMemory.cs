using System.Globalization;

namespace Bunraku.Compare;

/// <summary>What a monitor holds in memory beyond the guest's RAM, from outside.</summary>
internal static class ResidentMemory
{
    /// <summary>
    /// Resident bytes of a process without those of the one mapping that is as large as the guest's RAM, or a little larger; null when there is no such
    /// mapping. /proc/PID/smaps, see proc(5).
    /// </summary>
    public static ulong? BeyondGuest(int process, BenchGuest guest)
    {
        try
        {
            const ulong slack = 32ul << 20;
            ulong ram = (ulong)guest.Megabytes << 20;
            ulong size = 0, others = 0;
            bool found = false;
            foreach (string line in File.ReadLines($"/proc/{process}/smaps"))
            {
                if (line.StartsWith("Size:", StringComparison.Ordinal)) size = Bytes(line);
                if (!line.StartsWith("Rss:", StringComparison.Ordinal)) continue;
                if (!found && size >= ram && size < ram + slack) found = true;
                else others += Bytes(line);
            }
            return found ? others : null;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return null; // it has just ended
        }

        // "Rss:      123 kB"
        static ulong Bytes(string line) => ulong.Parse(line.Split(' ', StringSplitOptions.RemoveEmptyEntries)[1], CultureInfo.InvariantCulture) << 10;
    }
}
