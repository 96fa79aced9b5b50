using Bunraku.Platform;

namespace Bunraku.Compare;

/// <summary>What a monitor holds in memory beyond the guest's RAM, from outside.</summary>
internal static class ResidentMemory
{
    /// <summary>
    /// Bytes of a process without those of the one mapping that is as large as the guest's RAM, or a little larger; null when there is no such mapping. What it
    /// sees at two addresses counts once.
    /// </summary>
    public static ulong? BeyondGuest(int process, BenchGuest guest)
    {
        const ulong slack = 32ul << 20;
        ulong ram = (ulong)guest.Megabytes << 20;
        bool found = false;
        try
        {
            ulong others = ResidentMaps.Sum(File.ReadLines($"/proc/{process}/smaps"), (_, size) =>
            {
                bool isRam = !found && size >= ram && size < ram + slack;
                found |= isRam;
                return isRam;
            });
            return found ? others : null;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return null; // it has just ended
        }
    }
}
