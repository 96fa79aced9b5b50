using Bunraku.Engines;
using Bunraku.Hypervisor;

namespace Bunraku.Machine.Timers;

/// <summary>
/// High Precision Event Timers: a 64-bit counter of 100 MHz and three comparators, the first of them periodic too, with legacy replacement, I/O APIC and
/// message interrupts. Offsets are from its base, FED00000h. With its lock held.
/// </summary>
/// <remarks>
/// IA-PC HPET (High Precision Event Timers) Specification, revision 1.0a. Periodic interrupts are due at multiples of the period from the first, so that
/// lateness never accumulates; edges that the host delivers late are worked off as those of the 8254 are (<see cref="Pit8254"/>), with the same bounds.
/// A level-triggered timer's edges meet in its status bit and are one interrupt.
/// </remarks>
internal sealed class Hpet : IMmioDevice, IDevice, IStateful<HpetState>
{
    public const ulong Length = 0x400;
    public const int Timers = 3;
    /// <summary>Nanoseconds of a tick, and the same in femtoseconds as the capability register has it.</summary>
    public const long TickNanoseconds = 10;
    private const uint PeriodFemtoseconds = (uint)TickNanoseconds * 1_000_000;

    private const uint VendorId = 0x8086, Revision = 1, Counter64Bit = 1 << 13, LegacyCapable = 1 << 15;

    /// <summary>Lower half of the capability register, which the ACPI table repeats.</summary>
    public const uint BlockId = Revision | Timers - 1 << 8 | Counter64Bit | LegacyCapable | VendorId << 16;

    private readonly ITimeSource _time;
    private readonly HpetTimer[] _timers;
    private readonly Action<bool> _replaceLegacy;
    private HpetConfiguration _configuration;
    private ulong _stoppedAt; // the counter while it stands still
    private long _zero;       // nanoseconds at which the running counter was _base
    private ulong _base;

    /// <param name="routes">Wires by I/O APIC input; inputs that are null cannot be chosen.</param>
    /// <param name="legacy">Where timers 0 and 1 go under legacy replacement: IRQ 0 and IRQ 8.</param>
    /// <param name="replaceLegacy">Told to take the 8254 and the clock off those wires (true) or put them back.</param>
    /// <param name="sendMessage">A message's address and data.</param>
    public Hpet(ITimeSource time, IInterruptLine?[] routes, IReadOnlyList<IInterruptLine> legacy, Action<bool> replaceLegacy, Action<ulong, uint> sendMessage)
    {
        _time = time;
        _replaceLegacy = replaceLegacy;
        _timers = [.. Enumerable.Range(0, Timers)
            .Select(n => new HpetTimer(this, time, routes, n < legacy.Count ? legacy[n] : null, sendMessage, periodic: n == 0))];
    }

    /// <inheritdoc/>
    public string Id => "hpet";

    /// <inheritdoc/>
    public void Reset()
    {
        foreach (HpetTimer timer in _timers) timer.Reset();
        if (ReplacesLegacy) _replaceLegacy(false);
        _configuration = 0;
        StartFrom(0, 0);
    }

    HpetState IStateful<HpetState>.Save() => new((ulong)_configuration, _stoppedAt, _zero, _base, [.. _timers.Select(t => t.Save())]);

    void IStateful<HpetState>.Restore(HpetState state)
    {
        StateCheck.Length(state.Timers, _timers.Length, Id);
        (_configuration, _stoppedAt, _zero, _base) = ((HpetConfiguration)state.Configuration, state.StoppedAt, state.Zero, state.Base);
        for (int n = 0; n < _timers.Length; n++) _timers[n].Restore(state.Timers[n], Id);
    }

    internal bool IsEnabled => (_configuration & HpetConfiguration.Enable) != 0;
    internal bool ReplacesLegacy => (_configuration & HpetConfiguration.LegacyReplacement) != 0;

    /// <summary>The main counter at a time.</summary>
    internal ulong CounterAt(long nanoseconds) => IsEnabled ? (ulong)((nanoseconds - _zero) / TickNanoseconds) + _base : _stoppedAt;

    /// <summary>
    /// When the running counter is <paramref name="ticks"/> further than at <paramref name="nanoseconds"/>; <see cref="long.MaxValue"/> for never.
    /// </summary>
    internal long TimeOf(long nanoseconds, ulong ticks)
    {
        long whole = (nanoseconds - _zero) / TickNanoseconds; // ticks since _zero
        UInt128 time = ((UInt128)(ulong)whole + ticks) * (ulong)TickNanoseconds + (ulong)_zero;
        return time > long.MaxValue / 2 ? long.MaxValue : (long)time;
    }

    public ulong ReadMmio(ulong offset, int size)
    {
        ulong register = Read(offset & ~7ul) >> (int)(8 * (offset & 7));
        return size >= 8 ? register : register & ((1ul << 8 * size) - 1);
    }

    /// <summary>Aligned 32- and 64-bit writes; others are not allowed by the specification, section 2.3.1, and have no effect.</summary>
    public void WriteMmio(ulong offset, int size, ulong value)
    {
        if (size is not (4 or 8) || (offset & ((ulong)size - 1)) != 0) return;
        bool high = size == 4 && (offset & 4) != 0;
        ulong mask = size == 8 ? ulong.MaxValue : high ? ~(ulong)uint.MaxValue : uint.MaxValue;
        Write(offset & ~7ul, high ? value << 32 : value & mask, mask);
    }

    private ulong Read(ulong register)
    {
        if (register >= HpetRegister.FirstTimer)
        {
            int n = (int)((register - HpetRegister.FirstTimer) / HpetRegister.TimerStride);
            return n < Timers ? _timers[n].Read((register - HpetRegister.FirstTimer) % HpetRegister.TimerStride) : 0;
        }
        switch (register)
        {
            case HpetRegister.Capabilities:
                return BlockId | (ulong)PeriodFemtoseconds << 32;
            case HpetRegister.Configuration:
                return (ulong)_configuration;
            case HpetRegister.InterruptStatus:
                ulong status = 0;
                for (int n = 0; n < Timers; n++)
                    if (_timers[n].Status) status |= 1ul << n;
                return status;
            case HpetRegister.MainCounter:
                return CounterAt(_time.Nanoseconds);
            default:
                return 0;
        }
    }

    private void Write(ulong register, ulong value, ulong mask)
    {
        if (register >= HpetRegister.FirstTimer)
        {
            int n = (int)((register - HpetRegister.FirstTimer) / HpetRegister.TimerStride);
            if (n < Timers) _timers[n].Write((register - HpetRegister.FirstTimer) % HpetRegister.TimerStride, value, mask);
            return;
        }
        switch (register)
        {
            case HpetRegister.Configuration:
                Configure((HpetConfiguration)(((ulong)_configuration & ~mask) | value));
                break;
            case HpetRegister.InterruptStatus:
                for (int n = 0; n < Timers; n++)
                    if ((value >> n & 1) != 0) _timers[n].ClearStatus();
                break;
            case HpetRegister.MainCounter:
                // The specification wants the counter halted for this; written while it runs, it goes on from the new value.
                long now = _time.Nanoseconds;
                foreach (HpetTimer timer in _timers) timer.Settle(now);
                StartFrom(now, (CounterAt(now) & ~mask) | value);
                foreach (HpetTimer timer in _timers) timer.Schedule();
                break;
            default:
                break;
        }
    }

    private void StartFrom(long now, ulong counter) => (_zero, _base, _stoppedAt) = (now, counter, counter);

    private void Configure(HpetConfiguration value)
    {
        value &= HpetConfiguration.Enable | HpetConfiguration.LegacyReplacement;
        HpetConfiguration changed = value ^ _configuration;
        long now = _time.Nanoseconds;
        ulong counter = CounterAt(now);
        foreach (HpetTimer timer in _timers) timer.Settle(now);
        if ((changed & HpetConfiguration.LegacyReplacement) != 0)
        {
            foreach (HpetTimer timer in _timers) timer.Release(); // from the wires that it was on
            _replaceLegacy((value & HpetConfiguration.LegacyReplacement) != 0);
        }
        _configuration = value;
        if ((changed & HpetConfiguration.Enable) != 0) StartFrom(now, counter);
        foreach (HpetTimer timer in _timers) timer.Schedule();
    }
}

/// <summary>State of an <see cref="Hpet"/>.</summary>
/// <param name="StoppedAt">The counter while it stands still.</param>
/// <param name="Zero">ns at which the running counter was <paramref name="Base"/>.</param>
[StateRecord("hpet", version: 1)]
internal sealed record HpetState(ulong Configuration, ulong StoppedAt, long Zero, ulong Base, HpetTimerState[] Timers);
