using Bunraku.Engines;
using Bunraku.Hypervisor;

namespace Bunraku.Machine.Serial;

/// <summary>State of a <see cref="Uart16550A"/>.</summary>
/// <param name="Incoming">
/// Characters on the line that wait for room, and those in the receiver (<paramref name="Fifo"/>), the oldest first: the character in bits 7:0, its line status
/// in 15:8.
/// </param>
[StateRecord("uart16550a", version: 1)]
internal sealed record UartState(
    ushort[] Incoming, ushort[] Fifo, int Burst, byte LastRead, byte Scratch, ushort Divisor, bool FifosEnabled, int Trigger, bool Overrun,
        bool TransmitterInterrupt, bool CharacterTimeout,
    long TimeoutDeadline, bool TimeoutArmed, long? TimeoutTimer, long? BurstTimer, byte Enabled, byte LineControl, byte ModemControl, byte PeerLines,
        byte SeenLines, byte ModemDeltas,
    bool Transmitted, bool TransmittedSince, bool TransmitterTimerArmed, long? TransmitterTimer, bool Requested);

public sealed partial class Uart16550A
{
    /// <inheritdoc/>
    public string Id { get; init; } = "com1";

    /// <summary>
    /// Master reset (section 8.1, table "Master reset"). Characters on the line, and what the other end does with its modem lines, are not ours to reset.
    /// </summary>
    public void Reset()
    {
        _fifosEnabled = _overrun = _transmitterInterrupt = false;
        (_head, _trigger) = (0, 1);
        ClearReceiver();
        (_enabled, _lineControl, _modemControl, _modemDeltas) = (0, InitialLineControl, 0, 0);
        (_lastRead, _scratch, _divisor) = (0, 0, 1);
        _seenLines = _peerLines;
        _burst = 0;
        _timeoutArmed = _timeoutRestarts = _transmitted = _transmittedSince = _transmitterTimerArmed = false;
        _timeoutTimer.Cancel();
        _transmitterTimer.Cancel();
        _burstTimer.Cancel();
        UpdateInterrupt();
    }

    UartState IStateful<UartState>.Save() => new(
        [.. _incoming.Select(Pack)], [.. Enumerable.Range(0, _count).Select(n => Pack(_fifo[(_head + n) % FifoDepth]))], _burst, _lastRead, _scratch, _divisor,
            _fifosEnabled, _trigger, _overrun,
        _transmitterInterrupt, _characterTimeout, _timeoutDeadline, _timeoutArmed, _timeoutTimer.Deadline, _burstTimer.Deadline, (byte)_enabled,
            (byte)_lineControl, (byte)_modemControl,
        (byte)_peerLines, (byte)_seenLines, _modemDeltas, _transmitted, _transmittedSince, _transmitterTimerArmed, _transmitterTimer.Deadline, _requested);

    void IStateful<UartState>.Restore(UartState state)
    {
        StateCheck.Range(state.Fifo.Length, 0, FifoDepth, Id);
        StateCheck.Range(state.Trigger, 1, FifoDepth, Id);
        _incoming.Clear();
        foreach (ushort c in state.Incoming) _incoming.Enqueue(Unpack(c));
        (_head, _count) = (0, state.Fifo.Length);
        for (int n = 0; n < _count; n++) _fifo[n] = Unpack(state.Fifo[n]);
        (_burst, _lastRead, _scratch, _divisor) = (state.Burst, state.LastRead, state.Scratch, state.Divisor);
        (_fifosEnabled, _trigger, _overrun, _transmitterInterrupt) = (state.FifosEnabled, state.Trigger, state.Overrun, state.TransmitterInterrupt);
        (_characterTimeout, _timeoutDeadline, _timeoutArmed) = (state.CharacterTimeout, state.TimeoutDeadline, state.TimeoutArmed);
        _timeoutTimer.Restore(state.TimeoutTimer);
        _burstTimer.Restore(state.BurstTimer);
        _transmitterTimer.Restore(state.TransmitterTimer);
        (_transmitted, _transmittedSince, _transmitterTimerArmed, _requested) =
            (state.Transmitted, state.TransmittedSince, state.TransmitterTimerArmed, state.Requested);
        (_enabled, _lineControl, _modemControl) = ((UartInterrupts)state.Enabled, (UartLineControl)state.LineControl, (UartModemControl)state.ModemControl);
        (_peerLines, _seenLines, _modemDeltas) = ((UartModemLines)state.PeerLines, (UartModemLines)state.SeenLines, state.ModemDeltas);
    }

    private static ushort Pack(Character c) => (ushort)(c.Data | (int)c.Errors << 8);

    private static Character Unpack(ushort c) => new((byte)c, (UartLineStatus)(c >> 8));
}
