using System.Globalization;
using System.Runtime.InteropServices;

namespace Bunraku.Compare;

/// <summary>Processor time of other processes.</summary>
internal static unsafe partial class ProcessClock
{
    private struct TimeSpec
    {
        public long Seconds, Nanoseconds;
    }

    [LibraryImport("libc", EntryPoint = "clock_gettime")]
    private static partial int GetTime(int clock, TimeSpec* time);

    /// <summary>What all threads of a process have used so far, those that have ended too; null when there is no such process.</summary>
    public static double? Nanoseconds(int process)
    {
        // The number of a process's clock, as the C library's clock_getcpuclockid makes it: the complement of the process, and 2 for scheduler time.
        TimeSpec time;
        return GetTime(~process << 3 | 2, &time) == 0 ? time.Seconds * 1e9 + time.Nanoseconds : null;
    }

    /// <summary>What our children used that have ended, and theirs, in nanoseconds, in steps of 10 ms.</summary>
    public static double OfEndedChildren()
    {
        string self = File.ReadAllText("/proc/self/stat");
        string[] fields = self[(self.LastIndexOf(')') + 2)..].Split(' '); // proc(5): cutime and cstime, in clock ticks
        return fields[13..15].Sum(f => double.Parse(f, CultureInfo.InvariantCulture)) * 1e7;
    }
}
