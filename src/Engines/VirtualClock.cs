using System.Diagnostics;

namespace Bunraku.Engines;

/// <summary>
/// The VM's time: nanoseconds since power-on that stand still while the VM is stopped. Thread-safe.
/// Every timer of the machine and the TSC derive from it, so that they agree with each other.
/// </summary>
public sealed class VirtualClock
{
    private readonly Lock _lock = new();
    private long _hostStart = Stopwatch.GetTimestamp();
    private long _accumulated; // ns before the current run
    private bool _running = true;

    /// <summary>Frequency of the guest's TSC in Hz. Default 1 GHz: one tick a nanosecond.</summary>
    public ulong TscFrequency { get; init; } = 1_000_000_000;

    /// <summary>Nanoseconds of virtual time since power-on; never goes back.</summary>
    public long Nanoseconds
    {
        get
        {
            lock (_lock) return Now();
        }
    }

    /// <summary>The TSC that corresponds to <see cref="Nanoseconds"/>, before offset and IA32_TSC_ADJUST.</summary>
    public ulong Tsc => NanosecondsToTsc(Nanoseconds);

    /// <summary>TSC ticks in <paramref name="nanoseconds"/>.</summary>
    public ulong NanosecondsToTsc(long nanoseconds) => (ulong)((UInt128)(ulong)nanoseconds * TscFrequency / 1_000_000_000);

    /// <summary>Nanoseconds in <paramref name="ticks"/> TSC ticks; saturates.</summary>
    public long TscToNanoseconds(ulong ticks) => (long)UInt128.Min((UInt128)ticks * 1_000_000_000 / TscFrequency, long.MaxValue);

    /// <summary>Stops virtual time. Idempotent.</summary>
    public void Stop()
    {
        lock (_lock)
        {
            if (!_running) return;
            _accumulated = Now();
            _running = false;
        }
    }

    /// <summary>Lets virtual time go on from where it stopped. Idempotent.</summary>
    public void Start()
    {
        lock (_lock)
        {
            if (_running) return;
            _hostStart = Stopwatch.GetTimestamp();
            _running = true;
        }
    }

    private long Now() => _running ? _accumulated + (long)((Stopwatch.GetTimestamp() - _hostStart) * (1e9 / Stopwatch.Frequency)) : _accumulated;
}
