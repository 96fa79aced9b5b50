using Bunraku.Engines;

namespace Bunraku.Machine.Timers;

/// <summary>
/// One counter of the 8254 (Intel data sheet 231164-005) as a function of time: nothing runs between accesses, the counting element and OUT follow
/// from the tick at which a count was loaded. Times are CLK ticks and never decrease from call to call.
/// </summary>
internal sealed class PitChannel
{
    private const long Never = long.MaxValue;

    private enum AccessMode { Latch, Low, High, LowThenHigh }

    private int _mode;
    private bool _bcd, _gate;
    private AccessMode _access = AccessMode.LowThenHigh;

    // Access flip-flops and latches
    private byte _writtenLow, _latchedStatus;
    private bool _highWriteNext, _highReadNext, _statusLatched;
    private int _latched = -1;

    // Count register, counting element
    private int _register; // the last count written, 1 to 65536; 0: none since the control word
    private bool _notLoaded = true; // NULL COUNT: the register has not reached the counting element
    private bool _loaded; // the counting element holds a count of this mode
    private int _count; // the count that was loaded
    private long _start; // tick at which it was in the counting element
    private int _held; // what the counting element shows before that
    private long _reloadAt = Never; // modes 2 and 3: when a new count takes over
    private long _stoppedAt = Never; // counting has stood still since then (GATE)

    public PitChannel(bool gate) => _gate = gate;

    /// <summary>As after power-on. GATE is not the counter's own.</summary>
    public void Reset(bool gate) => Restore(new PitChannel(gate).Save(), "");

    public PitChannelState Save() => new(
        _mode, _bcd, _gate, (int)_access, _writtenLow, _latchedStatus, _highWriteNext, _highReadNext, _statusLatched, _latched, _register, _notLoaded, _loaded,
            _count, _start, _held, _reloadAt, _stoppedAt);

    public void Restore(PitChannelState state, string id)
    {
        _mode = StateCheck.Range(state.Mode, 0, 5, id);
        _access = StateCheck.Defined((AccessMode)state.Access, id);
        // Divisors: a counting element that is loaded holds at least 1.
        _count = StateCheck.Range(state.Count, state.Loaded ? 1 : 0, 0x1_0000, id);
        _register = StateCheck.Range(state.Register, state.ReloadAt == Never ? 0 : 1, 0x1_0000, id);
        (_bcd, _gate, _writtenLow, _latchedStatus) = (state.Bcd, state.Gate, state.WrittenLow, state.LatchedStatus);
        (_highWriteNext, _highReadNext, _statusLatched, _latched) = (state.HighWriteNext, state.HighReadNext, state.StatusLatched, state.Latched);
        (_notLoaded, _loaded, _start, _held, _reloadAt, _stoppedAt) = (state.NotLoaded, state.Loaded, state.Start, state.Held, state.ReloadAt, state.StoppedAt);
    }

    public bool Gate => _gate;

    /// <summary>Ticks between rising edges of OUT, 0 when it does not repeat.</summary>
    public int Period => _loaded && _mode is 2 or 3 ? _count : 0;

    private int HighHalf => HighHalfOf(_count);
    private static int HighHalfOf(int count) => (count + 1) / 2;
    private int Modulus => _bcd ? 10_000 : 0x1_0000;
    private bool GateStopsCounting => _mode is 0 or 2 or 3 or 4;

    /// <summary>A control word for this counter; bits 5:4 are not 00.</summary>
    public void WriteControl(byte value, long now)
    {
        _held = Value(now);
        _access = (AccessMode)((value >> 4) & 3);
        _mode = (value >> 1) & 7;
        if (_mode > 5) _mode -= 4; // bit 2 of modes 2 and 3 is a don't-care
        _bcd = (value & 1) != 0;
        _highWriteNext = _highReadNext = _statusLatched = _loaded = false;
        _latched = -1;
        _register = 0;
        _notLoaded = true;
        _reloadAt = _stoppedAt = Never;
    }

    public void WriteCount(byte value, long now)
    {
        switch (_access)
        {
            case AccessMode.Low:
                SetCount(value, now);
                break;
            case AccessMode.High:
                SetCount(value << 8, now);
                break;
            default:
                if (_highWriteNext) SetCount(_writtenLow | (value << 8), now);
                else
                {
                    _writtenLow = value;
                    if (_mode == 0)
                    {
                        // "Writing the first byte disables counting. OUT is set low immediately."
                        _held = Value(now);
                        _loaded = false;
                    }
                }
                _highWriteNext = !_highWriteNext;
                break;
        }
    }

    public byte ReadCount(long now)
    {
        if (_statusLatched)
        {
            _statusLatched = false;
            return _latchedStatus;
        }
        int value = _latched >= 0 ? _latched : Encode(Value(now));
        bool high = _access == AccessMode.High || (_access == AccessMode.LowThenHigh && _highReadNext);
        if (_access == AccessMode.LowThenHigh) _highReadNext = !_highReadNext;
        if (_access != AccessMode.LowThenHigh || high) _latched = -1;
        return (byte)(high ? value >> 8 : value);
    }

    /// <summary>The counter latch command. Ignored while an earlier latch has not been read.</summary>
    public void LatchCount(long now)
    {
        if (_latched < 0) _latched = Encode(Value(now));
    }

    /// <summary>The status part of the read-back command. Ignored while an earlier status has not been read.</summary>
    public void LatchStatus(long now)
    {
        if (_statusLatched) return;
        bool output = Output(now), nullCount = _notLoaded || (_loaded && now < _start);
        _latchedStatus = (byte)((output ? 0x80 : 0) | (nullCount ? 0x40 : 0) | ((int)_access << 4) | (_mode << 1) | (_bcd ? 1 : 0));
        _statusLatched = true;
    }

    public void SetGate(bool level, long now)
    {
        if (level == _gate) return;
        TakeOver(now);
        _gate = level;
        switch (_mode)
        {
            case 0 or 4:
                if (!_loaded) break;
                if (!level) _stoppedAt = Math.Max(now, _start);
                else if (_stoppedAt != Never)
                {
                    _start += Math.Max(0, now - _stoppedAt);
                    _stoppedAt = Never;
                }
                break;
            case 2 or 3 when !level:
                if (_loaded) _stoppedAt = Math.Max(now, _start);
                break;
            default:
                // A rising edge triggers (1, 5) or restarts (2, 3).
                if (level && _register != 0) Load(now + 1);
                break;
        }
    }

    /// <summary>The OUT pin.</summary>
    public bool Output(long now)
    {
        TakeOver(now);
        if (!_loaded) return _mode != 0;
        long elapsed = Math.Min(now, _stoppedAt) - _start;
        return _mode switch
        {
            0 => elapsed >= _count,
            1 => elapsed < 0 || elapsed >= _count,
            2 => !_gate || elapsed < 0 || elapsed % _count != _count - 1,
            3 => !_gate || elapsed < 0 || elapsed % _count < HighHalf,
            _ => elapsed != _count,
        };
    }

    /// <summary>The first tick after <paramref name="after"/> at which OUT rises if nothing is written; <see cref="long.MaxValue"/> for none.</summary>
    public long NextRisingEdge(long after)
    {
        TakeOver(after);
        if (!_loaded || _stoppedAt != Never) return Never;
        long edge;
        switch (_mode)
        {
            case 0 or 1:
                edge = _start + _count;
                return edge > after ? edge : Never;
            case 2 or 3:
                if (_count == 1) return Never; // not a legal count: OUT never changes
                edge = _start + (after < _start ? 1 : (after - _start) / _count + 1) * _count;
                // A new count that begins with the low half moves the edge.
                return _reloadAt < edge ? _reloadAt + _register / 2 : edge;
            default:
                edge = _start + _count + 1;
                return edge > after ? edge : Never;
        }
    }

    private void SetCount(int raw, long now)
    {
        TakeOver(now);
        int count = _bcd ? Decode(raw) : raw;
        _register = count == 0 ? Modulus : count;
        _notLoaded = true;
        if (_mode is 1 or 5) return; // waits for its trigger
        if (_mode is 0 or 4 || !_loaded || now < _start)
        {
            Load(now + 1);
            return;
        }
        if (_stoppedAt != Never) return; // GATE will load it
        // Modes 2 and 3 finish the current cycle or half-cycle first.
        long position = (now - _start) % _count, cycle = now - position;
        _reloadAt = _mode == 3 && position < HighHalf ? cycle + HighHalf : cycle + _count;
    }

    private void Load(long tick)
    {
        _held = Value(tick - 1);
        _count = _register;
        _start = tick;
        _loaded = true;
        _notLoaded = false;
        _reloadAt = Never;
        _stoppedAt = GateStopsCounting && !_gate ? tick : Never;
    }

    /// <summary>Lets a count that waited for the end of a cycle take its place.</summary>
    private void TakeOver(long now)
    {
        if (_reloadAt == Never || now < _reloadAt) return;
        bool lowFirst = _mode == 3 && (_reloadAt - _start) % _count != 0;
        _count = _register;
        _start = lowFirst ? _reloadAt - HighHalf : _reloadAt;
        _notLoaded = false;
        _reloadAt = Never;
    }

    /// <summary>The counting element.</summary>
    private int Value(long now)
    {
        TakeOver(now);
        long elapsed = Math.Min(now, _stoppedAt) - _start;
        if (!_loaded || elapsed < 0) return _held;
        switch (_mode)
        {
            case 2:
                return _count - (int)(elapsed % _count);
            case 3:
                // Counts by two from the even number at or below the count, once for each half.
                int position = (int)(elapsed % _count);
                return (_count & ~1) - 2 * (position < HighHalf ? position : position - HighHalf);
            default:
                int value = (int)((_count - elapsed) % Modulus);
                return value < 0 ? value + Modulus : value;
        }
    }

    private int Encode(int value)
    {
        if (!_bcd) return value & 0xFFFF;
        value %= 10_000;
        return (value / 1000 << 12) | (value / 100 % 10 << 8) | (value / 10 % 10 << 4) | (value % 10);
    }

    private static int Decode(int bcd) => (bcd >> 12) * 1000 + ((bcd >> 8) & 15) * 100 + ((bcd >> 4) & 15) * 10 + (bcd & 15);
}

/// <summary>State of a <see cref="PitChannel"/>. Times are CLK ticks since power-on.</summary>
/// <param name="Latched">The latched count, -1: none.</param>
/// <param name="ReloadAt">
/// When a new count takes over; <see cref="long.MaxValue"/>: never. As with <paramref name="StoppedAt"/>, when counting was stopped.
/// </param>
internal sealed record PitChannelState(
    int Mode, bool Bcd, bool Gate, int Access, byte WrittenLow, byte LatchedStatus, bool HighWriteNext, bool HighReadNext, bool StatusLatched, int Latched,
        int Register, bool NotLoaded, bool Loaded,
    int Count, long Start, int Held, long ReloadAt, long StoppedAt);
