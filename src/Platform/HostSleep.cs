namespace Bunraku.Platform;

/// <summary>Sleeps that are shorter than the runtime's millisecond.</summary>
public static unsafe class HostSleep
{
    /// <summary>Suspends the calling thread; may return early when a signal arrives. The host adds its timer slack, about 50 µs.</summary>
    /// <param name="nanoseconds">0 to 999,999,999.</param>
    public static void Nanoseconds(long nanoseconds)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(nanoseconds);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(nanoseconds, 1_000_000_000);
        Libc.TimeSpec request = new() { Seconds = 0, Nanoseconds = nanoseconds };
        Libc.Nanosleep(&request, null);
    }
}
