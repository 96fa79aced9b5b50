using System.Diagnostics;

namespace Bunraku.Engines;

/// <summary>
/// The VM's time: nanoseconds since power-on that stand still while the VM is stopped. Thread-safe.
/// Every timer of the machine and the TSC derive from it, so that they agree with each other.
/// </summary>
public sealed class VirtualClock
{
    /// <summary>One stretch of running or standing still. Immutable, so that readers need no lock.</summary>
    private sealed record Stretch(bool Running, long HostStart, long Accumulated)
    {
        public long Now() => Running ? Accumulated + HostNanoseconds() - HostStart : Accumulated;

        public long Behind() => (Running ? HostStart : HostNanoseconds()) - Accumulated;
    }

    private readonly Lock _lock = new(); // writers
    private volatile Stretch _stretch = new(true, HostNanoseconds(), 0);

    /// <summary>Frequency of the guest's TSC in Hz. Default 1 GHz: one tick a nanosecond.</summary>
    public ulong TscFrequency { get; init; } = NanosecondsPerSecond;

    private const long NanosecondsPerSecond = 1_000_000_000;

    /// <summary>Nanoseconds of virtual time since power-on; never goes back.</summary>
    public long Nanoseconds => _stretch.Now();

    /// <summary>
    /// Nanoseconds that virtual time is behind the host's monotonic clock. Constant while virtual time runs: an engine whose guest reads a counter of the
    /// host's own sees by it how far to set that counter back after a standstill.
    /// </summary>
    public long BehindHost => _stretch.Behind();

    /// <summary>The TSC that corresponds to <see cref="Nanoseconds"/>, before offset and IA32_TSC_ADJUST.</summary>
    public ulong Tsc => NanosecondsToTsc(Nanoseconds);

    /// <summary>TSC ticks in <paramref name="nanoseconds"/>.</summary>
    public ulong NanosecondsToTsc(long nanoseconds) =>
        TscFrequency == NanosecondsPerSecond ? (ulong)nanoseconds : (ulong)((UInt128)(ulong)nanoseconds * TscFrequency / NanosecondsPerSecond);

    /// <summary>Nanoseconds in <paramref name="ticks"/> TSC ticks; saturates.</summary>
    public long TscToNanoseconds(ulong ticks) => (long)UInt128.Min((UInt128)ticks * NanosecondsPerSecond / TscFrequency, long.MaxValue);

    /// <summary>Stops virtual time. Idempotent.</summary>
    public void Stop()
    {
        lock (_lock) _stretch = new Stretch(false, 0, _stretch.Now());
    }

    /// <summary>Lets virtual time go on from where it stopped. Idempotent.</summary>
    public void Start()
    {
        lock (_lock)
        {
            if (!_stretch.Running) _stretch = new Stretch(true, HostNanoseconds(), _stretch.Accumulated);
        }
    }

    /// <summary>The host's monotonic clock; on Linux its frequency is 1 GHz, and the conversion exact.</summary>
    private static long HostNanoseconds() =>
        Stopwatch.Frequency == NanosecondsPerSecond ? Stopwatch.GetTimestamp() : (long)((Int128)Stopwatch.GetTimestamp() * NanosecondsPerSecond / Stopwatch.Frequency);
}
