using System.Runtime.InteropServices;
using Bunraku.Platform;

namespace Bunraku.Engines;

/// <summary>
/// How a VM's counter follows from the host's: (the host's counter × <see cref="Multiplier"/> >> <see cref="Shift"/>) + <see cref="Offset"/>, with a product of
/// 128 bits and a
/// result modulo 2^64, before the offset that each vCPU adds. For emitted code.
/// </summary>
[StructLayout(LayoutKind.Sequential)]
public struct CounterScale
{
    /// <summary>Bits behind the binary point of <see cref="Multiplier"/>.</summary>
    public const int Shift = 48;

    /// <summary>Factor and summand.</summary>
    public ulong Multiplier, Offset;
}

/// <summary>
/// The VM's time: one counter, of which the counters of all its vCPUs are made (x86: the TSC; Arm: the virtual count), that starts at 0 at power-on, runs at a
/// constant <see cref="CounterFrequency"/> and stands still while the VM is stopped. It is the host's own counter, scaled. Everything else derives from it, so
/// that clocks and timers agree with each other. Thread-safe.
/// </summary>
/// <remarks>
/// The rate of the host's counter is measured, and measured again as time goes by; <see cref="Measure"/> finds the correction that brings virtual time back to
/// the host's monotonic clock, <see cref="Correct"/> applies it. The guest cannot notice: its counter and its nanoseconds bend alike, by parts in a million.
/// </remarks>
public sealed unsafe class VirtualClock : IStateful<ClockState>
{
    /// <summary>A correction of the rate, from <see cref="Measure"/>.</summary>
    /// <param name="Multiplier">What the scale becomes.</param>
    /// <param name="PartsPerMillion">Change against the rate so far.</param>
    /// <param name="Phase">Nanoseconds that virtual time was ahead of the host's clock.</param>
    public readonly record struct Correction(ulong Multiplier, double PartsPerMillion, long Phase);

    /// <summary>One stretch of running at one rate, or of standing still. Immutable, so that readers need no lock.</summary>
    /// <param name="Frozen">The counter while it does not run.</param>
    private sealed record Stretch(bool Running, ulong Multiplier, ulong Offset, ulong Frozen);

    /// <summary>
    /// Stands for the moment between two stretches: readers wait. Whoever read the counter before has then returned a value that the next stretch does not fall
    /// short of.
    /// </summary>
    private static readonly Stretch s_changing = new(false, 0, 0, 0);

    private const long NanosecondsPerSecond = 1_000_000_000;
    /// <summary>What <see cref="CounterFrequency"/> may be, in Hz.</summary>
    public const ulong LowestFrequency = 1_000_000, HighestFrequency = 100_000_000_000;
    /// <summary>What a clock may be bent by, in parts of the rate: what Linux allows for its own.</summary>
    private const double MostBend = 500e-6;
    /// <summary>Corrections below this are not worth holding the vCPUs.</summary>
    private const double LeastChange = 0.05e-6;

    private readonly Lock _lock = new(); // writers
    private readonly HostCounter _counter;
    private readonly CounterScale[] _scale = GC.AllocateArray<CounterScale>(1, pinned: true);
    private readonly ulong _toNanoseconds; // ns = counter × this >> _toNanosecondsShift
    private readonly int _toNanosecondsShift;
    private volatile Stretch _stretch;
    private CounterSample _started, _last; // when this stretch of running began; when its rate was last measured
    private long _startedAt; // virtual ns at _started
    private long _behind; // host's nanoseconds minus ours, as of the beginning of the stretch

    /// <summary>A clock that runs, from 0.</summary>
    /// <param name="frequency">Hz; 0: the host's own, rounded to kHz, or 1 GHz on a host without a usable counter.</param>
    public VirtualClock(ulong frequency = 0) : this(HostCounter.Best, frequency)
    {
    }

    /// <param name="counter">What drives the clock; for tests another than the host's.</param>
    public VirtualClock(HostCounter counter, ulong frequency)
    {
        _counter = counter;
        double hostFrequency = counter.MeasureFrequency();
        CounterFrequency = frequency != 0 ? frequency : (ulong)Math.Round(hostFrequency / 1000) * 1000;
        ArgumentOutOfRangeException.ThrowIfLessThan(CounterFrequency, LowestFrequency, nameof(frequency));
        ArgumentOutOfRangeException.ThrowIfGreaterThan(CounterFrequency, HighestFrequency, nameof(frequency));
        // The widest factor that fits 64 bits. Rounded down, so that nothing is ever early.
        _toNanosecondsShift = 64;
        (ulong whole, ulong rest) = Math.DivRem((ulong)NanosecondsPerSecond, CounterFrequency);
        _toNanoseconds = WideMath.Divide(rest, 0, CounterFrequency, out _);
        for (; whole > 0; whole >>= 1, _toNanosecondsShift--) _toNanoseconds = whole << 63 | _toNanoseconds >> 1;
        _stretch = new Stretch(false, (ulong)Math.Round(CounterFrequency / hostFrequency * (1ul << CounterScale.Shift)), 0, 0);
        Start();
    }

    /// <summary>Frequency of <see cref="Counter"/> in Hz, constant.</summary>
    public ulong CounterFrequency { get; }

    /// <summary>
    /// For code that reads the counter without a call; null when the host's counter cannot be used. Valid for vCPUs that are inside
    /// <see cref="IVirtualCpu.Enter"/>; it changes only while none is. The memory lives as long as the clock.
    /// </summary>
    public CounterScale* Scale => _counter.IsTimeStampCounter ? (CounterScale*)Marshal.UnsafeAddrOfPinnedArrayElement(_scale, 0) : null;

    /// <summary>The counter of all vCPUs, before the offset that each of them adds; never goes back.</summary>
    public ulong Counter
    {
        get
        {
            for (; ; )
            {
                Stretch stretch = _stretch;
                ulong value = stretch.Running ? Scaled(stretch, _counter.Read()) : stretch.Frozen;
                if (ReferenceEquals(stretch, _stretch) && !ReferenceEquals(stretch, s_changing)) return value;
                Thread.Yield();
            }
        }
    }

    /// <summary>Nanoseconds of virtual time since power-on; never goes back.</summary>
    public long Nanoseconds => ToNanoseconds(Counter);

    /// <summary>
    /// Nanoseconds that virtual time is behind the host's monotonic clock, but for corrections. Constant while virtual time runs: an engine whose guest reads a
    /// counter of the host's own sees by it how far to set that counter back after a standstill.
    /// </summary>
    public long BehindHost
    {
        get
        {
            lock (_lock) return _stretch.Running ? _behind : HostCounter.MonotonicNanoseconds - ToNanoseconds(_stretch.Frozen);
        }
    }

    /// <summary>
    /// Nanoseconds that virtual time has run ahead of the host's monotonic clock since it last began to run; what <see cref="Correct"/> keeps small.
    /// </summary>
    public long AheadOfHost
    {
        get
        {
            lock (_lock)
            {
                if (!_stretch.Running) return 0;
                CounterSample now = _counter.Sample();
                return Ahead(_stretch, now);
            }
        }
    }

    private long Ahead(Stretch stretch, CounterSample now) =>
        ToNanoseconds(Scaled(stretch, now.Counter)) - _startedAt - (now.Nanoseconds - _started.Nanoseconds);

    /// <summary>Ticks of the counter in <paramref name="nanoseconds"/>, rounded down.</summary>
    public ulong ToTicks(long nanoseconds) => WideMath.MultiplyDivide((ulong)nanoseconds, CounterFrequency, NanosecondsPerSecond);

    /// <summary>Nanoseconds in <paramref name="ticks"/> of the counter, rounded down; saturates.</summary>
    public long ToNanoseconds(ulong ticks)
    {
        ulong high = Math.BigMul(ticks, _toNanoseconds, out ulong low);
        if (_toNanosecondsShift == 64) return (long)Math.Min(high, (ulong)long.MaxValue);
        return high >> _toNanosecondsShift != 0 ? long.MaxValue
            : (long)Math.Min(high << (64 - _toNanosecondsShift) | low >> _toNanosecondsShift, (ulong)long.MaxValue);
    }

    private static ulong Scaled(Stretch stretch, ulong counter) => Scaled(stretch.Multiplier, counter) + stretch.Offset;

    private static ulong Scaled(ulong multiplier, ulong counter)
    {
        ulong high = Math.BigMul(counter, multiplier, out ulong low);
        return high << (64 - CounterScale.Shift) | low >> CounterScale.Shift;
    }

    /// <summary>Stops virtual time. Idempotent. No vCPU runs.</summary>
    public void Stop()
    {
        lock (_lock)
        {
            Stretch stretch = _stretch;
            if (stretch.Running) Freeze(stretch, Scaled(stretch, CounterOfChange()));
        }
    }

    /// <summary>Time stands still: for emitted code, too, should a vCPU be run by hand.</summary>
    private void Freeze(Stretch stretch, ulong ticks)
    {
        (_scale[0].Multiplier, _scale[0].Offset) = (0, ticks);
        _stretch = stretch with { Running = false, Frozen = ticks };
    }

    /// <summary>Lets virtual time go on from where it stopped. Idempotent. No vCPU runs.</summary>
    public void Start()
    {
        lock (_lock)
        {
            Stretch stretch = _stretch;
            if (stretch.Running) return;
            _started = _last = _counter.Sample();
            _startedAt = ToNanoseconds(stretch.Frozen);
            _behind = _started.Nanoseconds - _startedAt;
            Run(stretch.Multiplier, _started.Counter, stretch.Frozen);
        }
    }

    /// <summary>Moves a stopped clock on, for who lets virtual time follow something else than the host's.</summary>
    /// <param name="ticks">Of the counter.</param>
    /// <exception cref="InvalidOperationException">The clock runs.</exception>
    public void Step(ulong ticks)
    {
        lock (_lock)
        {
            Stretch stretch = _stretch;
            if (stretch.Running) throw new InvalidOperationException("a clock that runs is not moved by hand");
            Freeze(stretch, stretch.Frozen + ticks);
        }
    }

    /// <inheritdoc/>
    public string Id => "clock";

    /// <inheritdoc/>
    ClockState IStateful<ClockState>.Save() => new(CounterFrequency, Counter);

    /// <summary>Sets the time of a stopped clock; before everything that reads it.</summary>
    void IStateful<ClockState>.Restore(ClockState state)
    {
        if (state.Frequency != CounterFrequency)
            throw new StateFormatException($"the saved machine's counter has {state.Frequency} Hz, this one's {CounterFrequency}; "
                + "make it with the same frequency");
        lock (_lock)
        {
            if (_stretch.Running) throw new InvalidOperationException("a clock that runs is not moved by hand");
            Freeze(_stretch, state.Counter);
        }
    }

    /// <summary>Publishes a scale under which our counter is <paramref name="ticks"/> at <paramref name="counter"/>.</summary>
    private void Run(ulong multiplier, ulong counter, ulong ticks)
    {
        ulong offset = ticks - Scaled(multiplier, counter);
        (_scale[0].Multiplier, _scale[0].Offset) = (multiplier, offset);
        _stretch = new Stretch(true, multiplier, offset, 0);
    }

    /// <summary>
    /// Compares the rate and the time with the host's monotonic clock. Null when nothing is to be done, or time stands still.
    /// </summary>
    /// <param name="next">How long a correction will stand: what time is off by, it makes good over that span.</param>
    public Correction? Measure(TimeSpan next)
    {
        lock (_lock)
        {
            Stretch stretch = _stretch;
            CounterSample now = _counter.Sample(), first = _last;
            long since = now.Nanoseconds - first.Nanoseconds;
            if (!stretch.Running || since <= 0 || now.Counter <= first.Counter) return null;
            double frequency = (now.Counter - first.Counter) * 1e9 / since;
            long phase = Ahead(stretch, now);
            double bend = Math.Clamp(phase / next.TotalNanoseconds, -MostBend, MostBend);
            double ratio = CounterFrequency / frequency * (1 - bend);
            double change = ratio * (1ul << CounterScale.Shift) / stretch.Multiplier - 1;
            // A short base proves little; a counter that changed its rate for good is not one to follow blindly.
            if (Math.Abs(change) < LeastChange || Math.Abs(change) > 2 * MostBend) return null;
            _last = now;
            return new Correction((ulong)Math.Round(ratio * (1ul << CounterScale.Shift)), change * 1e6, phase);
        }
    }

    /// <summary>Changes the rate from now on, without a step. No vCPU runs.</summary>
    public void Correct(Correction correction)
    {
        lock (_lock)
        {
            Stretch stretch = _stretch;
            if (!stretch.Running) return;
            ulong counter = CounterOfChange();
            Run(correction.Multiplier, counter, Scaled(stretch, counter));
        }
    }

    /// <summary>Begins a change: no reader returns anything until the next stretch is published.</summary>
    private ulong CounterOfChange()
    {
        _stretch = s_changing;
        Thread.MemoryBarrier();
        return _counter.Read() + 1; // whatever was read at this very tick is no longer ahead
    }
}

/// <summary>The time of a machine.</summary>
/// <param name="Frequency">Hz of the counter.</param>
/// <param name="Counter">The counter of all vCPUs, before the offset that each of them adds.</param>
[StateRecord("clock", version: 2)]
public sealed record ClockState(ulong Frequency, ulong Counter);
