using Bunraku.Engines;
using Bunraku.Hypervisor;

namespace Bunraku.Machine.Timers;

/// <summary>
/// The 8254 programmable interval timer (Intel data sheet 231164-005) at ports 40h to 43h and what hangs on it at port 61h (NMI status and control
/// register of the PIIX family): GATE 2, the speaker bit, OUT 2 and the refresh toggle. Counter 0 drives IRQ 0. With its lock held.
/// </summary>
/// <remarks>
/// Rising edges of OUT 0 are due at multiples of the period from the tick at which the count was loaded, so that lateness never accumulates. An edge
/// that the host delivers late is not lost: the backlog is worked off with edges half a period apart, which leaves the guest time to take each. Bounds:
/// the backlog is at most <see cref="MaximumBacklog"/> long, older edges are dropped; edges come at least <see cref="MinimumSpacing"/> apart, so that
/// a guest cannot occupy the host with a period of some hundred nanoseconds; writing a control word or a count drops the backlog. The counters themselves
/// read exact virtual time always. IRQ 0 falls right before it rises again, not in the middle of the period: a guest that is late then still finds its request.
/// </remarks>
internal sealed class Pit8254 : IDevice, IStateful<PitState>
{
    public const ushort FirstPort = 0x40;

    /// <summary>How far the delivered edges may lag, in ns.</summary>
    public const long MaximumBacklog = 1_000_000_000;

    /// <summary>Least distance of two edges of IRQ 0, in ns.</summary>
    public const long MinimumSpacing = 50_000;

    private const int RefreshDivisor = 18; // counter 1 as every PC's firmware programs it: a refresh each 15 µs

    /// <summary>GATE 0 and 1 are tied high, GATE 2 hangs on port 61h.</summary>
    private static readonly bool[] s_gates = [true, true, false];

    private readonly IInterruptLine _irq0;
    private readonly ITimeSource _time;
    private readonly IMachineTimer _timer;
    private readonly PitChannel[] _channels = [.. s_gates.Select(gate => new PitChannel(gate))];
    private long _edge = long.MaxValue; // tick of the next edge to deliver
    private byte _port61; // the bits that can be written, 3:0

    /// <param name="irq0">The wire of OUT 0.</param>
    public Pit8254(IInterruptLine irq0, ITimeSource time)
    {
        _irq0 = irq0;
        _time = time;
        _timer = time.CreateTimer(OnTimer);
    }

    /// <inheritdoc/>
    public string Id => "pit";

    /// <summary>The chip has no reset pin and starts undefined; a machine that is reset has it as after power-on.</summary>
    public void Reset()
    {
        for (int n = 0; n < _channels.Length; n++) _channels[n].Reset(s_gates[n]);
        _edge = long.MaxValue;
        _timer.Cancel();
        _port61 = 0;
        _irq0.Set(false);
    }

    PitState IStateful<PitState>.Save() => new([.. _channels.Select(c => c.Save())], _edge, _port61, _timer.Deadline);

    void IStateful<PitState>.Restore(PitState state)
    {
        StateCheck.Length(state.Channels, _channels.Length, Id);
        for (int n = 0; n < _channels.Length; n++) _channels[n].Restore(state.Channels[n], Id);
        (_edge, _port61) = (state.Edge, state.Port61);
        _timer.Restore(state.Timer);
    }

    /// <param name="lock">Held for the registers; null: the device is alone.</param>
    public void AttachTo(PortBus ports, DeviceLock? @lock = null)
    {
        @lock ??= new DeviceLock("8254");
        ports.Add(FirstPort, 4, new ByteRegisters(Read, Write), @lock);
        ports.Add(0x61, 1, new ByteRegisters(_ => ReadPort61(), (_, value) => WritePort61(value)), @lock);
    }

    private long Now => PitClock.Ticks(_time.Nanoseconds);

    // A read of the control port leaves the bus floating ("no-operation, 3-state").
    private byte Read(int offset) => offset < 3 ? _channels[offset].ReadCount(Now) : (byte)0xFF;

    private void Write(int offset, byte value)
    {
        long now = Now;
        int select = offset < 3 ? offset : value >> 6;
        if (offset < 3) _channels[offset].WriteCount(value, now);
        else if (select == 3)
        {
            ReadBack(value, now);
            return;
        }
        else if ((value & 0x30) == 0)
        {
            _channels[select].LatchCount(now);
            return;
        }
        else _channels[select].WriteControl(value, now);
        if (select == 0) Reprogrammed(now, isControl: offset == 3);
    }

    private void ReadBack(byte value, long now)
    {
        for (int n = 0; n < _channels.Length; n++)
        {
            if ((value & (2 << n)) == 0) continue;
            if ((value & 0x20) == 0) _channels[n].LatchCount(now);
            if ((value & 0x10) == 0) _channels[n].LatchStatus(now);
        }
    }

    private void Reprogrammed(long now, bool isControl)
    {
        bool output = _channels[0].Output(now);
        // A count changes OUT at once only in mode 0, where it goes low; otherwise a request that still stands must not be withdrawn.
        if (isControl || (!output && _channels[0].Period == 0)) _irq0.Set(output);
        _edge = _channels[0].NextRisingEdge(now);
        if (_edge == long.MaxValue) _timer.Cancel();
        else _timer.Arm(PitClock.Nanoseconds(_edge));
    }

    private void OnTimer()
    {
        long nanoseconds = _time.Nanoseconds, now = PitClock.Ticks(nanoseconds);
        if (_edge == long.MaxValue) return;
        if (_edge <= now)
        {
            _irq0.Set(false);
            _irq0.Set(true);
            long oldest = now - PitClock.Ticks(MaximumBacklog);
            _edge = _channels[0].NextRisingEdge(Math.Max(_edge, oldest));
            if (_edge == long.MaxValue) return;
        }
        long spacing = Math.Max(PitClock.Nanoseconds(_channels[0].Period / 2), MinimumSpacing);
        _timer.Arm(_edge <= now ? nanoseconds + spacing : Math.Max(PitClock.Nanoseconds(_edge), nanoseconds + MinimumSpacing));
    }

    private byte ReadPort61()
    {
        long now = Now;
        int refresh = (int)(now / RefreshDivisor & 1) << 4, output = _channels[2].Output(now) ? 0x20 : 0;
        return (byte)(_port61 | refresh | output);
    }

    /// <summary>Bit 0: GATE 2; bit 1: speaker; bits 2 and 3 would mask the parity and channel check NMIs, which this machine never raises.</summary>
    private void WritePort61(byte value)
    {
        _port61 = (byte)(value & 0xF);
        _channels[2].SetGate((value & 1) != 0, Now);
    }
}

/// <summary>State of a <see cref="Pit8254"/>.</summary>
/// <param name="Edge">CLK tick of the next edge of OUT 0 to deliver.</param>
/// <param name="Timer">ns at which the timer calls back.</param>
[StateRecord("pit8254", version: 1)]
internal sealed record PitState(PitChannelState[] Channels, long Edge, byte Port61, long? Timer);
