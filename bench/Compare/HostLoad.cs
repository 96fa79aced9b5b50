using System.Globalization;

namespace Bunraku.Compare;

/// <summary>How much of the host's processors others used meanwhile: a figure from a busy host says little.</summary>
internal sealed class HostLoad
{
    private readonly (double Busy, double Capacity, double Ours) _start = Now();

    private double _alsoOurs; // clock ticks

    /// <summary>Processor time of something that we started and that is nobody's child any more when it ends.</summary>
    public void AddOurs(double nanoseconds) => _alsoOurs += nanoseconds / 1e7;

    /// <summary>Part of the host's processor time since the construction that went neither to us nor to what we started, 0 to 1.</summary>
    public double OthersShare
    {
        get
        {
            (double busy, double capacity, double ours) = Now();
            double others = busy - _start.Busy - (ours - _start.Ours) - _alsoOurs;
            return Math.Clamp(others / Math.Max(1, capacity - _start.Capacity), 0, 1);
        }
    }

    /// <summary>
    /// In clock ticks, see proc(5): /proc/stat counts all processors; /proc/self/stat has our own time and that of the children that have ended.
    /// </summary>
    private static (double Busy, double Capacity, double Ours) Now()
    {
        // cpu user nice system idle iowait irq softirq steal …
        double[] all = [.. File.ReadLines("/proc/stat").First().Split(' ', StringSplitOptions.RemoveEmptyEntries)[1..9].Select(Parse)];
        string self = File.ReadAllText("/proc/self/stat");
        string[] fields = self[(self.LastIndexOf(')') + 2)..].Split(' ');
        return (all.Sum() - all[3] - all[4], all.Sum(), fields[11..15].Sum(Parse)); // utime, stime, cutime, cstime

        static double Parse(string text) => double.Parse(text, CultureInfo.InvariantCulture);
    }
}
