using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Timers;
using Bunraku.Platform;

namespace Bunraku.Machine.Acpi;

/// <summary>
/// ACPI's fixed hardware: PM1 event and control registers, the 32-bit power management timer, a power button, the real-time
/// clock's alarm, and general-purpose events of parts of the board. Offsets: status 0, enable 2, control 4, timer 8, general-purpose status 12, enable 14.
/// There is no SMI command port: the machine is in ACPI mode from the start. With its lock held.
/// </summary>
/// <remarks>ACPI Specification 6.3, sections 4.8.3 "Fixed Hardware Registers" and 4.8.4.1 "General-Purpose Event Register Blocks".</remarks>
internal sealed class PowerManagement : IPortDevice, IDevice, IStateful<PowerManagementState>
{
    /// <summary>Where the registers lie; PM1a event block, PM1a control block, PM timer block, GPE0 block.</summary>
    public const ushort FirstPort = 0x600, EventPort = FirstPort + Status, ControlPort = FirstPort + Control, TimerPort = FirstPort + Timer,
        GeneralEventPort = FirstPort + GeneralStatus;
    public const int Ports = 16;
    public const byte EventLength = 4, ControlLength = 2, TimerLength = 4, GeneralEventLength = 4;

    /// <summary>How many general-purpose events there are.</summary>
    public const int GeneralEvents = 8 * GeneralEventLength / 2;

    /// <summary>The ISA interrupt and global system interrupt that raises the SCI, level-triggered.</summary>
    public const int SciInterrupt = 9;

    /// <summary>SLP_TYP of soft off, as \_S5 says.</summary>
    public const int SleepTypeS5 = 0;

    /// <summary>Frequency of the PM timer in Hz.</summary>
    public const uint TimerFrequency = 3_579_545;

    private const int Status = 0, Enable = 2, Control = 4, Timer = 8, GeneralStatus = 12, GeneralEnable = 14;
    private const ushort TimerEvent = 1 << 0, GlobalEvent = 1 << 5, PowerButtonEvent = 1 << 8, ClockEvent = 1 << 10;
    private const ushort WritableEnables = TimerEvent | GlobalEvent | PowerButtonEvent | ClockEvent;
    private const ushort SciEnable = 1 << 0, BusMasterReload = 1 << 1, SleepEnable = 1 << 13;
    private const int SleepTypeShift = 10;
    /// <summary>TMR_STS is set each time the timer's highest bit changes.</summary>
    private const int CarryBit = 31;

    private readonly ITimeSource _time;
    private readonly IInterruptLine _sci;
    private readonly Action _powerOff;
    private readonly IMachineTimer _carryTimer;
    private ushort _status, _enable, _control, _generalStatus, _generalEnable;
    private ulong _carriesSeen;

    /// <param name="powerOff">The guest entered S5.</param>
    public PowerManagement(ITimeSource time, IInterruptLine sci, Action powerOff)
    {
        _time = time;
        _sci = sci;
        _powerOff = powerOff;
        _carryTimer = time.CreateTimer(Update);
        _clockInput = new ClockInput(this);
    }

    private readonly ClockInput _clockInput;

    /// <summary>Hangs on the real-time clock's interrupt: RTC_STS is set each time that it is asserted.</summary>
    public IInterruptLine RealTimeClock => _clockInput;

    /// <inheritdoc/>
    public string Id => "pm";

    /// <summary>Registers are cleared; the timer counts on, as the clock that drives it.</summary>
    public void Reset()
    {
        _status = _enable = _control = _generalStatus = _generalEnable = 0;
        _carriesSeen = Ticks >> CarryBit;
        Update();
    }

    PowerManagementState IStateful<PowerManagementState>.Save() =>
        new(_status, _enable, _control, _carriesSeen, _clockInput.Asserted, _carryTimer.Deadline, _generalStatus, _generalEnable);

    void IStateful<PowerManagementState>.Restore(PowerManagementState state)
    {
        (_status, _enable, _control, _carriesSeen, _clockInput.Asserted) = (state.Status, state.Enable, state.Control, state.CarriesSeen, state.ClockAsserted);
        (_generalStatus, _generalEnable) = (state.GeneralStatus, state.GeneralEnable);
        _carryTimer.Restore(state.Timer);
    }

    /// <summary>Asks the guest to shut down. With its lock held.</summary>
    public void PressPowerButton()
    {
        _status |= PowerButtonEvent;
        Update();
    }

    /// <summary>A general-purpose event happens: the SCI is raised where the guest has enabled it. With its lock held.</summary>
    /// <param name="number">Below <see cref="GeneralEvents"/>.</param>
    public void RaiseGeneralEvent(int number)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)number, (uint)GeneralEvents, nameof(number));
        _generalStatus |= (ushort)(1 << number);
        Update();
    }

    /// <summary>PM timer ticks since power-on.</summary>
    private ulong Ticks => WideMath.MultiplyDivide((ulong)_time.Nanoseconds, TimerFrequency, 1_000_000_000);

    public uint ReadPort(ushort offset, int size)
    {
        if (offset < Timer) NoteCarry();
        uint timer = (uint)Ticks, value = 0;
        for (int n = 0; n < size; n++)
        {
            int at = offset + n;
            uint register = at switch
            {
                < Enable => _status,
                < Control => _enable,
                < Control + ControlLength => (uint)_control | SciEnable,
                >= Timer and < Timer + TimerLength => timer,
                >= GeneralStatus and < GeneralEnable => _generalStatus,
                >= GeneralEnable and < GeneralEnable + GeneralEventLength / 2 => _generalEnable,
                _ => 0,
            };
            int lane = at is >= Timer and < Timer + TimerLength ? at & 3 : at & 1;
            value |= (register >> (8 * lane) & 0xFF) << (8 * n);
        }
        return value;
    }

    public void WritePort(ushort offset, int size, uint value)
    {
        for (int n = 0; n < size; n++)
        {
            int at = offset + n, shift = 8 * (at & 1);
            var bits = (ushort)((value >> (8 * n) & 0xFF) << shift);
            var lane = (ushort)(0xFF << shift);
            switch (at)
            {
                case < Enable: // write 1 to clear
                    NoteCarry();
                    _status &= (ushort)~bits;
                    break;
                case < Control:
                    _enable = (ushort)(((_enable & ~lane) | bits) & WritableEnables);
                    break;
                case < Control + ControlLength:
                    WriteControl((ushort)((_control & ~lane) | bits));
                    break;
                case >= GeneralStatus and < GeneralEnable: // write 1 to clear
                    _generalStatus &= (ushort)~bits;
                    break;
                case >= GeneralEnable and < GeneralEnable + GeneralEventLength / 2:
                    _generalEnable = (ushort)((_generalEnable & ~lane) | bits);
                    break;
                default:
                    break;
            }
        }
        if (offset < Control || offset + size > GeneralStatus) Update();
    }

    private void WriteControl(ushort value)
    {
        _control = (ushort)(value & (BusMasterReload | 7 << SleepTypeShift));
        if ((value & SleepEnable) != 0 && (value >> SleepTypeShift & 7) == SleepTypeS5) _powerOff();
    }

    private sealed class ClockInput(PowerManagement owner) : IInterruptLine
    {
        public bool Asserted { get; set; }

        public void Set(bool asserted)
        {
            bool rises = asserted && !Asserted;
            Asserted = asserted;
            if (!rises) return;
            owner._status |= ClockEvent;
            owner.Update();
        }
    }

    private void NoteCarry()
    {
        ulong carries = Ticks >> CarryBit;
        if (carries != _carriesSeen) _status |= TimerEvent;
        _carriesSeen = carries;
    }

    /// <summary>Drives the SCI and waits for the next carry if it would raise it.</summary>
    private void Update()
    {
        NoteCarry();
        _sci.Set((_status & _enable | _generalStatus & _generalEnable) != 0);
        if ((_enable & TimerEvent) != 0 && (_status & TimerEvent) == 0)
            _carryTimer.Arm((long)WideMath.MultiplyDivide((_carriesSeen + 1) << CarryBit, 1_000_000_000, TimerFrequency, TimerFrequency - 1));
        else _carryTimer.Cancel();
    }
}

/// <summary>State of a <see cref="PowerManagement"/>.</summary>
/// <param name="CarriesSeen">Changes of the timer's highest bit that the status register has taken note of.</param>
/// <param name="ClockAsserted">The level of the real-time clock's interrupt.</param>
/// <param name="Timer">ns at which the timer of the next carry calls back.</param>
[StateRecord("acpi.pm", version: 2)]
internal sealed record PowerManagementState(ushort Status, ushort Enable, ushort Control, ulong CarriesSeen, bool ClockAsserted, long? Timer,
    ushort GeneralStatus, ushort GeneralEnable);
