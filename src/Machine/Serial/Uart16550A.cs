using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Timers;

namespace Bunraku.Machine.Serial;

/// <summary>
/// The serial port of the PC: a 16550A with both FIFOs (PC16550D data sheet, National Semiconductor, 1995), its interrupt gated by OUT2 as on the
/// IBM asynchronous adapter. The transmitter is infinitely fast: a character leaves the moment it is written, and whoever looks finds it empty. Its interrupt
/// comes when the guest looks at another register, or else after a character time as on the chip: a driver that fills the FIFO in its handler would otherwise
/// have an interrupt waiting after the first character, which makes the engine look for its window after every block.
/// The receiver takes characters from a queue without bound and never faster than the guest reads, so that only the loopback can overrun it.
/// </summary>
/// <remarks>Registers run with the lock held; <see cref="Enqueue"/>, <see cref="EnqueueBreak"/> and <see cref="SetModemLines"/> take it themselves.</remarks>
public sealed partial class Uart16550A : IDevice, IStateful<UartState>
{
    /// <summary>I/O port of the first serial port (IRQ 4).</summary>
    public const ushort Com1 = 0x3F8;
    /// <summary>I/O port of the second serial port (IRQ 3).</summary>
    public const ushort Com2 = 0x2F8;
    /// <summary>Number of ports.</summary>
    public const int Ports = 8;
    private const int FifoDepth = 16;

    /// <summary>
    /// The line has no speed of its own, but a receiver that never runs dry would keep a driver in its interrupt handler for ever; Linux gives up
    /// after 131072 characters, and as the request then still stands, no edge ever comes again. So after this many characters there is a pause, in ns. The
    /// handler is then over before the next tick of the guest's clock: while an interrupt waits behind it, the engine looks for its window after every block.
    /// </summary>
    private const int LongestBurst = 512, BurstPause = 100_000;
    private const long InputClock = 1_843_200; // Hz, the PC's crystal; a bit lasts 16 × divisor periods
    private static ReadOnlySpan<byte> TriggerLevels => [1, 4, 8, 14];

    private readonly IInterruptLine _irq;
    private readonly Action<ReadOnlySpan<byte>> _output;
    private readonly ITimeSource _time;
    private readonly IMachineTimer _timeoutTimer;
    private readonly IMachineTimer _burstTimer;
    private readonly IMachineTimer _transmitterTimer;
    private bool _transmitterTimerArmed, _transmittedSince; // since the timer was armed
    private bool _transmitted; // and nothing else happened since: the transmitter's interrupt is due
    private int _burst; // characters that came without a pause
    private readonly DeviceLock _lock;
    private readonly Queue<Character> _incoming = new();

    private readonly Character[] _fifo = new Character[FifoDepth];
    private int _head, _count, _trigger = 1;
    private byte _lastRead, _scratch;
    private ushort _divisor = 1;
    private bool _fifosEnabled, _overrun, _transmitterInterrupt, _characterTimeout, _requested;
    private long _timeoutDeadline = long.MaxValue;
    private bool _timeoutArmed, _timeoutRestarts;
    private UartInterrupts _enabled;
    private UartLineControl _lineControl;
    private UartModemControl _modemControl;
    private UartModemLines _peerLines = UartModemLines.Cts | UartModemLines.Dsr | UartModemLines.Dcd;
    private UartModemLines _seenLines;
    private byte _modemDeltas;

    /// <param name="irq">The interrupt request line (IRQ 4 for COM1).</param>
    /// <param name="output">Receives what the guest transmits, one character a call, with the lock held: it must not wait for anything.</param>
    /// <param name="lock">Held for the registers and the timers.</param>
    public Uart16550A(IInterruptLine irq, Action<ReadOnlySpan<byte>> output, ITimeSource time, DeviceLock @lock)
    {
        _irq = irq;
        _output = output;
        _time = time;
        _lock = @lock;
        _timeoutTimer = time.CreateTimer(OnTimeoutTimer);
        _burstTimer = time.CreateTimer(OnBurstTimer);
        _transmitterTimer = time.CreateTimer(OnTransmitterTimer);
        _seenLines = _peerLines;
    }

    /// <param name="Errors">Of Parity, Framing and Break; they are reported when the character is next to be read.</param>
    private readonly record struct Character(byte Data, UartLineStatus Errors);

    /// <summary>
    /// The other end honours RTS: characters wait in the queue while the guest holds it inactive, so that input that is there before the guest opened
    /// the port is not lost when its driver clears the FIFOs. False: a three-wire cable, characters come at any time. Set before the guest runs.
    /// </summary>
    public bool HonourRequestToSend { get; init; } = true;

    /// <summary>
    /// The line is as a PC's firmware leaves it, at first and after a reset: eight data bits, no parity, one stop bit. The reset of the chip alone leaves five
    /// data bits (table "Master reset").
    /// </summary>
    public bool SetUpByFirmware
    {
        get;
        init
        {
            field = value;
            _lineControl = InitialLineControl;
        }
    }

    private UartLineControl InitialLineControl => SetUpByFirmware ? UartLineControl.WordLength : 0;

    /// <summary>Characters that the guest has not read yet, wherever they are. Thread-safe.</summary>
    public int Unread
    {
        get
        {
            lock (_lock) return _incoming.Count + _count;
        }
    }

    /// <summary>Characters that wait for room in the receiver. Thread-safe; for sources that want to hold back.</summary>
    public int QueuedInput
    {
        get
        {
            lock (_lock) return _incoming.Count;
        }
    }

    /// <summary>Puts the eight registers on a bus, with the device's lock. Before the guest runs.</summary>
    public void AttachTo(PortBus ports, ushort firstPort = Com1) => ports.Add(firstPort, Ports, new ByteRegisters(Read, Write), _lock);

    /// <summary>Characters arrive on the line. Any thread; never blocks for the guest.</summary>
    public void Enqueue(ReadOnlySpan<byte> characters)
    {
        lock (_lock)
        {
            foreach (byte c in characters) _incoming.Enqueue(new Character(c, 0));
            Feed();
            UpdateInterrupt();
        }
    }

    /// <summary>A break condition arrives (BI with a zero character and a framing error). Any thread.</summary>
    public void EnqueueBreak()
    {
        lock (_lock)
        {
            _incoming.Enqueue(BreakCharacter);
            Feed();
            UpdateInterrupt();
        }
    }

    /// <summary>The other end sets its modem lines; a connected terminal (the initial state) has CTS, DSR and DCD active. Any thread.</summary>
    public void SetModemLines(UartModemLines lines)
    {
        lock (_lock)
        {
            _peerLines = lines;
            UpdateModemStatus();
            UpdateInterrupt();
        }
    }

    private static Character BreakCharacter => new(0, UartLineStatus.Break | UartLineStatus.Framing);

    private bool Loopback => _modemControl.HasFlag(UartModemControl.Loop);
    private bool DivisorAccess => _lineControl.HasFlag(UartLineControl.DivisorLatchAccess);
    private byte WordMask => (byte)(0xFF >> (3 - (int)(_lineControl & UartLineControl.WordLength)));

    private byte Read(int offset)
    {
        FinishTransmission();
        byte value = offset switch
        {
            0 => DivisorAccess ? (byte)_divisor : ReadReceiver(),
            1 => DivisorAccess ? (byte)(_divisor >> 8) : (byte)_enabled,
            2 => ReadInterruptId(),
            3 => (byte)_lineControl,
            4 => (byte)_modemControl,
            5 => ReadLineStatus(),
            6 => ReadModemStatus(),
            _ => _scratch,
        };
        UpdateInterrupt();
        return value;
    }

    private void Write(int offset, byte value)
    {
        if (offset != 0) FinishTransmission();
        switch (offset)
        {
            case 0 when DivisorAccess:
                _divisor = (ushort)((_divisor & 0xFF00) | value);
                break;
            case 0:
                Transmit(value);
                break;
            case 1 when DivisorAccess:
                _divisor = (ushort)((_divisor & 0xFF) | (value << 8));
                break;
            case 1:
                UartInterrupts enabled = (UartInterrupts)value & UartInterrupts.All;
                // THR is always empty: enabling its interrupt raises it at once.
                if ((enabled & ~_enabled).HasFlag(UartInterrupts.TransmitterEmpty)) _transmitterInterrupt = true;
                _enabled = enabled;
                break;
            case 2:
                WriteFifoControl(value);
                break;
            case 3:
                UartLineControl old = _lineControl;
                _lineControl = (UartLineControl)value;
                if (Loopback && (_lineControl & ~old).HasFlag(UartLineControl.SetBreak)) Receive(BreakCharacter);
                break;
            case 4:
                _modemControl = (UartModemControl)value & UartModemControl.All;
                UpdateModemStatus();
                Feed();
                break;
            case 5 or 6:
                break; // section 8.4: writing LSR is for factory testing only; MSR is read-only
            default:
                _scratch = value;
                break;
        }
        UpdateInterrupt();
    }

    private void Transmit(byte value)
    {
        _transmitterInterrupt = false;
        value &= WordMask;
        if (_lineControl.HasFlag(UartLineControl.SetBreak))
        {
            // The output is held in the spacing state; the character does not get out.
        }
        else if (Loopback) Receive(new Character(value, 0));
        else _output([value]);
        _transmitted = _transmittedSince = true;
        if (!_transmitterTimerArmed && _enabled.HasFlag(UartInterrupts.TransmitterEmpty)) ArmTransmitterTimer();
    }

    private void FinishTransmission()
    {
        if (!_transmitted) return;
        _transmitted = false;
        _transmitterInterrupt = true;
    }

    private void ArmTransmitterTimer()
    {
        _transmitterTimerArmed = true;
        _transmittedSince = false;
        _transmitterTimer.Arm(_time.Nanoseconds + CharacterTimes(1));
    }

    private void OnTransmitterTimer()
    {
        _transmitterTimerArmed = false;
        if (!_transmitted) return;
        if (_transmittedSince)
        {
            // The driver is still at it. One look a character time spares arming the timer for each character.
            ArmTransmitterTimer();
            return;
        }
        FinishTransmission();
        UpdateInterrupt();
    }

    private void WriteFifoControl(byte value)
    {
        UartFifoControl control = (UartFifoControl)value;
        bool enable = control.HasFlag(UartFifoControl.Enable);
        if (enable != _fifosEnabled || (enable && control.HasFlag(UartFifoControl.ResetReceiver))) ClearReceiver();
        _fifosEnabled = enable;
        if (enable) _trigger = TriggerLevels[value >> 6]; // the other bits are programmed only together with bit 0
        Feed();
    }

    private void ClearReceiver()
    {
        _count = 0;
        _characterTimeout = false;
        _timeoutDeadline = long.MaxValue;
    }

    private void Feed()
    {
        if (Loopback || _burst >= LongestBurst || (HonourRequestToSend && !_modemControl.HasFlag(UartModemControl.Rts))) return;
        int capacity = _fifosEnabled ? FifoDepth : 1;
        while (_count < capacity && _incoming.TryDequeue(out Character c))
        {
            Receive(c with { Data = (byte)(c.Data & WordMask) });
            if (++_burst < LongestBurst) continue;
            _burstTimer.Arm(_time.Nanoseconds + BurstPause);
            return;
        }
        if (_incoming.Count == 0) _burst = 0;
    }

    private void OnBurstTimer()
    {
        _burst = 0;
        Feed();
        UpdateInterrupt();
    }

    private void Receive(Character c)
    {
        if (_count < (_fifosEnabled ? FifoDepth : 1)) _fifo[(_head + _count++) % FifoDepth] = c;
        else
        {
            // Section 8.4, bit 1: RBR is overwritten; a full FIFO stays as it is and the character in the shift register is lost.
            _overrun = true;
            if (!_fifosEnabled) _fifo[_head] = c;
        }
        _timeoutRestarts = true;
    }

    private byte ReadReceiver()
    {
        if (_count == 0) return _lastRead;
        _lastRead = _fifo[_head].Data;
        _head = (_head + 1) % FifoDepth;
        _count--;
        _characterTimeout = false;
        Feed();
        _timeoutRestarts = true;
        return _lastRead;
    }

    /// <summary>Section 8.11 "FIFO interrupt mode operation": four character times from the last character received or read, while there is one.</summary>
    private void RestartTimeout()
    {
        if (!_fifosEnabled || _count == 0)
        {
            _timeoutDeadline = long.MaxValue;
            return;
        }
        _timeoutDeadline = _time.Nanoseconds + CharacterTimes(4);
        // An armed timer is left alone: when it comes it sees the later deadline. That spares an operation per character.
        if (_timeoutArmed) return;
        _timeoutArmed = true;
        _timeoutTimer.Arm(_timeoutDeadline);
    }

    /// <summary>Nanoseconds that so many characters take on the line, with start, parity and stop bits.</summary>
    private long CharacterTimes(int count)
    {
        int halfBits = 2 * (1 + 5 + (int)(_lineControl & UartLineControl.WordLength)) + (_lineControl.HasFlag(UartLineControl.ParityEnable) ? 2 : 0)
            + (!_lineControl.HasFlag(UartLineControl.TwoStopBits) ? 2 : (_lineControl & UartLineControl.WordLength) == 0 ? 3 : 4);
        long divisor = Math.Max(_divisor, (ushort)1); // 0 is not defined
        return count * halfBits * 16 * divisor * (1_000_000_000 / 2) / InputClock;
    }

    private void OnTimeoutTimer()
    {
        _timeoutArmed = false;
        if (_timeoutDeadline == long.MaxValue) return;
        if (_time.Nanoseconds < _timeoutDeadline)
        {
            _timeoutArmed = true;
            _timeoutTimer.Arm(_timeoutDeadline);
            return;
        }
        _timeoutDeadline = long.MaxValue;
        _characterTimeout = true;
        UpdateInterrupt();
    }

    private UartLineStatus TopErrors => _count > 0 ? _fifo[_head].Errors : 0;

    private byte ReadLineStatus()
    {
        UartLineStatus status = UartLineStatus.HoldingEmpty | UartLineStatus.TransmitterEmpty | TopErrors;
        if (_count > 0) status |= UartLineStatus.DataReady;
        if (_overrun) status |= UartLineStatus.Overrun;
        if (_fifosEnabled)
        {
            for (int n = 0; n < _count; n++)
                if (_fifo[(_head + n) % FifoDepth].Errors != 0) status |= UartLineStatus.ErrorInFifo;
        }
        _overrun = false;
        if (_count > 0) _fifo[_head] = _fifo[_head] with { Errors = 0 };
        return (byte)status;
    }

    private byte ReadModemStatus()
    {
        byte value = (byte)(_modemDeltas | (byte)_seenLines);
        _modemDeltas = 0;
        return value;
    }

    private void UpdateModemStatus()
    {
        UartModemLines lines = _peerLines;
        if (Loopback)
        {
            // Section 8.8, bit 4: the four outputs are connected to the four inputs.
            lines = 0;
            if (_modemControl.HasFlag(UartModemControl.Rts)) lines |= UartModemLines.Cts;
            if (_modemControl.HasFlag(UartModemControl.Dtr)) lines |= UartModemLines.Dsr;
            if (_modemControl.HasFlag(UartModemControl.Out1)) lines |= UartModemLines.Ri;
            if (_modemControl.HasFlag(UartModemControl.Out2)) lines |= UartModemLines.Dcd;
        }
        UartModemLines changed = lines ^ _seenLines;
        if (lines.HasFlag(UartModemLines.Ri)) changed &= ~UartModemLines.Ri; // TERI is the trailing edge only
        _modemDeltas |= (byte)((byte)changed >> 4);
        _seenLines = lines;
    }

    private UartInterruptId PendingInterrupt
    {
        get
        {
            if (_enabled.HasFlag(UartInterrupts.LineStatus) && (_overrun || TopErrors != 0)) return UartInterruptId.LineStatus;
            if (_enabled.HasFlag(UartInterrupts.ReceivedData))
            {
                if (_count >= (_fifosEnabled ? _trigger : 1)) return UartInterruptId.ReceivedData;
                if (_characterTimeout) return UartInterruptId.CharacterTimeout;
            }
            if (_enabled.HasFlag(UartInterrupts.TransmitterEmpty) && _transmitterInterrupt) return UartInterruptId.TransmitterEmpty;
            if (_enabled.HasFlag(UartInterrupts.ModemStatus) && _modemDeltas != 0) return UartInterruptId.ModemStatus;
            return UartInterruptId.None;
        }
    }

    private byte ReadInterruptId()
    {
        UartInterruptId id = PendingInterrupt;
        if (id == UartInterruptId.TransmitterEmpty) _transmitterInterrupt = false;
        return (byte)(id | (_fifosEnabled ? UartInterruptId.FifosEnabled : 0));
    }

    /// <summary>OUT2 gates the request on the PC's adapter; the loopback forces that output inactive.</summary>
    private void UpdateInterrupt()
    {
        if (_timeoutRestarts)
        {
            _timeoutRestarts = false;
            RestartTimeout();
        }
        bool request = PendingInterrupt != UartInterruptId.None && (_modemControl & (UartModemControl.Out2 | UartModemControl.Loop)) == UartModemControl.Out2;
        if (request == _requested) return; // most accesses change nothing, and the wire leads through several controllers
        _requested = request;
        _irq.Set(request);
    }
}
