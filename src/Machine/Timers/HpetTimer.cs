using Bunraku.Engines;
using Bunraku.Hypervisor;

namespace Bunraku.Machine.Timers;

/// <summary>One comparator of the <see cref="Hpet"/> and where its interrupt goes.</summary>
internal sealed class HpetTimer
{
    private readonly Hpet _owner;
    private readonly ITimeSource _time;
    private readonly IInterruptLine?[] _routes;
    private readonly IInterruptLine? _legacy;
    private readonly Action<ulong, uint> _sendMessage;
    private readonly IMachineTimer _timer;
    private readonly HpetTimerConfiguration _capabilities;
    private readonly ulong _routeCapabilities;

    private HpetTimerConfiguration _configuration;
    private ulong _comparator, _period, _fsbRoute;
    private long _due = long.MaxValue; // ns of the next match
    private IInterruptLine? _asserted; // the wire that a level-triggered interrupt holds

    public HpetTimer(Hpet owner, ITimeSource time, IInterruptLine?[] routes, IInterruptLine? legacy, Action<ulong, uint> sendMessage, bool periodic)
    {
        _owner = owner;
        _time = time;
        _routes = routes;
        _legacy = legacy;
        _sendMessage = sendMessage;
        _capabilities = HpetTimerConfiguration.Is64Bit | HpetTimerConfiguration.FsbCapable | (periodic ? HpetTimerConfiguration.PeriodicCapable : 0);
        for (int n = 0; n < routes.Length; n++)
            if (routes[n] is not null) _routeCapabilities |= 1ul << 32 + n;
        _comparator = ulong.MaxValue;
        _timer = time.CreateTimer(OnTimer);
    }

    /// <summary>The status bit: a level-triggered interrupt is asserted.</summary>
    public bool Status { get; private set; }

    /// <summary>As after power-on; the wire is let go.</summary>
    public void Reset()
    {
        Release();
        _configuration = 0;
        _comparator = ulong.MaxValue;
        (_period, _fsbRoute, _due, Status) = (0, 0, long.MaxValue, false);
        _timer.Cancel();
    }

    public HpetTimerState Save() => new((ulong)_configuration, _comparator, _period, _fsbRoute, _due, Status, HeldWire, _timer.Deadline);

    public void Restore(HpetTimerState state, string id)
    {
        var configuration = (HpetTimerConfiguration)state.Configuration;
        StateCheck.Range(Route(configuration), 0, _routes.Length - 1, id);
        StateCheck.Range(state.HeldWire, NoWire, _routes.Length - 1, id);
        (_configuration, _comparator, _period, _fsbRoute, _due, Status) =
            (configuration, state.Comparator, state.Period, state.FsbRoute, state.Due, state.Status);
        _asserted = state.HeldWire switch { NoWire => null, LegacyWire => _legacy, _ => _routes[state.HeldWire] };
        _timer.Restore(state.Timer);
    }

    private const int NoWire = -2, LegacyWire = -1;

    private int HeldWire => _asserted is null ? NoWire : ReferenceEquals(_asserted, _legacy) ? LegacyWire : Array.IndexOf(_routes, _asserted);

    private bool Has(HpetTimerConfiguration bit) => (_configuration & bit) != 0;
    private bool IsPeriodic => Has(HpetTimerConfiguration.Periodic);
    private ulong Width => Has(HpetTimerConfiguration.Forced32Bit) ? uint.MaxValue : ulong.MaxValue;

    public ulong Read(ulong register)
    {
        switch (register)
        {
            case HpetRegister.TimerConfiguration:
                return (ulong)(_configuration | _capabilities) | _routeCapabilities;
            case HpetRegister.Comparator:
                return ComparatorAt(_time.Nanoseconds);
            case HpetRegister.FsbRoute:
                return _fsbRoute;
            default:
                return 0;
        }
    }

    public void Write(ulong register, ulong value, ulong mask)
    {
        switch (register)
        {
            case HpetRegister.TimerConfiguration:
                Configure((HpetTimerConfiguration)(((ulong)_configuration & ~mask) | value) & HpetTimerConfiguration.Writable);
                break;
            case HpetRegister.Comparator:
                WriteComparator(value, mask);
                break;
            case HpetRegister.FsbRoute:
                _fsbRoute = (_fsbRoute & ~mask) | value;
                break;
            default:
                break;
        }
    }

    private void Configure(HpetTimerConfiguration value)
    {
        if ((_capabilities & HpetTimerConfiguration.PeriodicCapable) == 0) value &= ~(HpetTimerConfiguration.Periodic | HpetTimerConfiguration.ValueSet);
        // "If the value is not supported by this particular timer, then the value read back will not match what is written."
        int route = Route(value);
        if (route >= _routes.Length || _routes[route] is null)
            value = (value & ~HpetTimerConfiguration.RouteMask) | (_configuration & HpetTimerConfiguration.RouteMask);
        Settle(_time.Nanoseconds);
        Release();
        _configuration = value;
        if (Has(HpetTimerConfiguration.Forced32Bit))
        {
            _comparator &= uint.MaxValue;
            _period &= uint.MaxValue;
        }
        if (Status && Has(HpetTimerConfiguration.LevelTriggered)) Assert();
        Schedule();
    }

    /// <remarks>Section 2.3.9: a periodic timer takes a write as its period; with VAL_SET, as its accumulator too.</remarks>
    private void WriteComparator(ulong value, ulong mask)
    {
        Settle(_time.Nanoseconds);
        if (!IsPeriodic || Has(HpetTimerConfiguration.ValueSet)) _comparator = ((_comparator & ~mask) | value) & Width;
        if (IsPeriodic) _period = ((_period & ~mask) | value) & Width;
        _configuration &= ~HpetTimerConfiguration.ValueSet;
        Schedule();
    }

    /// <summary>Finds the next match and waits for it.</summary>
    public void Schedule()
    {
        _due = long.MaxValue;
        if (_owner.IsEnabled)
        {
            long now = _time.Nanoseconds;
            _due = _owner.TimeOf(now, (_comparator - _owner.CounterAt(now)) & Width);
        }
        Arm(_due);
    }

    private void Arm(long time)
    {
        if (time == long.MaxValue || !Has(HpetTimerConfiguration.InterruptEnable)) _timer.Cancel();
        else _timer.Arm(time);
    }

    /// <summary>The comparator as it really is, whatever interrupts are still to be delivered.</summary>
    private ulong ComparatorAt(long now) => IsPeriodic && _period != 0 && _due <= now ? (_comparator + _period * Missed(now)) & Width : _comparator;

    /// <summary>Matches up to now that the comparator has not been moved past.</summary>
    private ulong Missed(long now) => (ulong)((now - _due) / Hpet.TickNanoseconds) / _period + 1;

    /// <summary>Moves the comparator past all matches; edges not yet delivered are dropped. Before anything about the timer or the counter changes.</summary>
    public void Settle(long now)
    {
        if (_due <= now) Advance(now, all: true);
    }

    /// <summary>The next match behind the one that is due; behind all that are when <paramref name="all"/> is set.</summary>
    private void Advance(long now, bool all)
    {
        if (IsPeriodic && _period != 0)
        {
            ulong count = all ? Missed(now) : 1;
            _comparator = (_comparator + _period * count) & Width;
            UInt128 due = (UInt128)(ulong)_due + (UInt128)_period * count * (ulong)Hpet.TickNanoseconds;
            _due = due > long.MaxValue / 2 ? long.MaxValue : (long)due;
            return;
        }
        // Once more when the counter comes round.
        _due = Width == uint.MaxValue ? _due + ((long)uint.MaxValue + 1) * Hpet.TickNanoseconds : long.MaxValue;
        if (all && _due <= now) Schedule();
    }

    private void OnTimer()
    {
        long now = _time.Nanoseconds;
        if (_due > now)
        {
            Arm(_due);
            return;
        }
        Raise();
        // Older edges than that are dropped.
        if (now - _due > Pit8254.MaximumBacklog) Advance(now - Pit8254.MaximumBacklog, all: true);
        else Advance(now, all: Has(HpetTimerConfiguration.LevelTriggered));
        if (_due == long.MaxValue) return;
        long spacing = Math.Max((long)UInt128.Min((UInt128)_period * (ulong)(Hpet.TickNanoseconds / 2), long.MaxValue / 4), Pit8254.MinimumSpacing);
        Arm(_due <= now ? now + spacing : Math.Max(_due, now + Pit8254.MinimumSpacing));
    }

    private static int Route(HpetTimerConfiguration configuration) => (int)((ulong)(configuration & HpetTimerConfiguration.RouteMask) >> 9);

    private IInterruptLine? Wire => _owner.ReplacesLegacy && _legacy is not null ? _legacy : _routes[Route(_configuration)];

    private void Raise()
    {
        if (Has(HpetTimerConfiguration.FsbEnable) && !(_owner.ReplacesLegacy && _legacy is not null))
        {
            _sendMessage(_fsbRoute >> 32, (uint)_fsbRoute);
        }
        else if (Has(HpetTimerConfiguration.LevelTriggered))
        {
            Status = true;
            Assert();
        }
        else if (Wire is { } wire)
        {
            // Like the 8254's, the wire falls right before it rises again: who is late still finds its request.
            wire.Set(false);
            wire.Set(true);
            _asserted = wire;
        }
    }

    private void Assert()
    {
        _asserted = Wire;
        _asserted?.Set(true);
    }

    public void ClearStatus()
    {
        if (!Status) return;
        Status = false;
        Release();
    }

    /// <summary>Lets go of the wire.</summary>
    public void Release()
    {
        _asserted?.Set(false);
        _asserted = null;
    }
}

/// <summary>State of one timer of a <see cref="Hpet"/>.</summary>
/// <param name="Due">ns of the next match; <see cref="long.MaxValue"/>: never.</param>
/// <param name="HeldWire">The wire that it holds: an input of the I/O APIC, -1 the legacy one, -2 none.</param>
/// <param name="Timer">ns at which the timer calls back.</param>
internal sealed record HpetTimerState(ulong Configuration, ulong Comparator, ulong Period, ulong FsbRoute, long Due, bool Status, int HeldWire, long? Timer);
