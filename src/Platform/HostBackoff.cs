using System.Diagnostics;

namespace Bunraku.Platform;

/// <summary>
/// One thread's way to wait for another without being told: whoever waits calls <see cref="Wait"/> and looks again. On an idle host that costs a microsecond.
/// On a busy one it sleeps: a thread that yields there goes to the end of the queue and comes back only after all the others have used up their time, some
/// milliseconds each, while one that slept is soon given a processor, as it used less than its share. Two threads that wait for each other in turns get on some
/// hundred times faster so. For one thread at a time.
/// </summary>
public struct HostBackoff
{
    /// <summary>
    /// A yield that took longer gave somebody else a whole turn. By itself it takes about a microsecond, and when the one that is waited for has only this
    /// processor, as long as that one needs, which is no reason to sleep.
    /// </summary>
    private const long LongYield = 300_000; // ns
    /// <summary>For how long the host is taken for busy then. Finding out again costs a turn of all the others.</summary>
    private const long BusyTime = 250_000_000; // ns
    private const long ShortestSleep = 50_000, LongestSleep = 200_000; // ns
    /// <summary>
    /// Who calls again so soon after a sleep still waits for the same thing: the sleeps grow, so that looking does not keep the others from running.
    /// </summary>
    private const long SameWait = 50_000; // ns

    private long _busyUntil, _awakeSince, _sleep;

    /// <summary>Lets other threads of the host run for a while, at most a quarter of a millisecond longer than they need to be done.</summary>
    public void Wait()
    {
        long now = HostCounter.MonotonicNanoseconds;
        if (now < _busyUntil)
        {
            _sleep = now - _awakeSince < SameWait ? Math.Min(2 * _sleep, LongestSleep) : ShortestSleep;
            HostScheduling.Sleep(_sleep);
            _awakeSince = HostCounter.MonotonicNanoseconds;
            return;
        }
        Thread.Yield();
        long after = HostCounter.MonotonicNanoseconds;
        if (after - now > LongYield) _busyUntil = after + BusyTime;
    }
}
