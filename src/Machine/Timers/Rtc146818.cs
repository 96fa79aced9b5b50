using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Board;
using Bunraku.Platform;

namespace Bunraku.Machine.Timers;

/// <summary>
/// The real-time clock and CMOS RAM of the PC: MC146818A (Motorola data sheet, 1984) at ports 70h and 71h, 128 bytes, IRQ 8. The clock starts at the
/// host's UTC and then follows virtual time. With its lock held.
/// </summary>
/// <remarks>
/// The bytes are the clock: each update increments them as the chip does, in the format that register B names, whatever the guest wrote there.
/// Updates that nobody observes are carried out when somebody looks. A periodic interrupt that the host delivers late coalesces with the following
/// one exactly as when the guest is slow to read register C.
/// </remarks>
internal sealed class Rtc146818 : IDevice, IStateful<RtcState>
{
    private const int Size = 128;
    private const long Second = 1_000_000_000;
    // Section "Update cycle", table 6: with the 32.768 kHz time base UIP is set 244 µs before the cycle, which takes 1984 µs.
    private const long UpdateInProgressTime = (244 + 1984) * 1000;
    private const byte DontCare = 0xC0, Pm = 0x80;

    private readonly IInterruptLine _irq8;
    private readonly ITimeSource _time;
    private readonly IMachineTimer _timer;
    private readonly byte[] _bytes = new byte[Size];
    private byte _index;
    private RtcRegisterC _flags;
    private long _dividerStart; // virtual time at which the divider chain stood at zero: seconds and periods are counted from here
    private long _lastUpdate; // number of the second that the last update began, counted from there
    private long _lastPeriod; // likewise for the periodic rate

    /// <param name="irq8">The interrupt wire.</param>
    /// <param name="utc">Date and time at this moment of virtual time.</param>
    /// <param name="memorySize">Bytes of RAM, for the firmware's memory size bytes.</param>
    public Rtc146818(IInterruptLine irq8, ITimeSource time, DateTime utc, ulong memorySize)
    {
        _irq8 = irq8;
        _time = time;
        _timer = time.CreateTimer(OnTimer);
        _bytes[CmosAddress.RegisterA] = (byte)RtcRegisterA.Divider32Khz | 6; // 1024 Hz: what PC firmware leaves
        _bytes[CmosAddress.RegisterB] = (byte)RtcRegisterB.Hours24;
        SetTime(utc);
        SetMemorySize(memorySize);
        // The clock is in step with the host's fraction of a second.
        _dividerStart = time.Nanoseconds - utc.Ticks % TimeSpan.TicksPerSecond * TimeSpan.NanosecondsPerTick;
        _lastPeriod = Periods(time.Nanoseconds);
    }

    /// <summary>Bit 7 of port 70h: NMI does not reach the processor.</summary>
    public bool NmiMasked { get; private set; }

    /// <summary>A byte of the CMOS RAM as firmware finds it, 0Eh to 7Fh; the checksum follows by itself. For the board, before the guest runs.</summary>
    public byte this[int address]
    {
        get => _bytes[address];
        set
        {
            ArgumentOutOfRangeException.ThrowIfLessThanOrEqual(address, CmosAddress.RegisterD);
            _bytes[address] = value;
            UpdateChecksum();
        }
    }

    /// <inheritdoc/>
    public string Id => "rtc";

    /// <summary>The RESET pin: interrupts are disabled and their flags cleared; time, date and RAM hang on the battery (data sheet, section "RESET").</summary>
    public void Reset()
    {
        Advance();
        _bytes[CmosAddress.RegisterB] &= (byte)~(RtcRegisterB.PeriodicInterrupt | RtcRegisterB.AlarmInterrupt | RtcRegisterB.UpdateInterrupt
            | RtcRegisterB.SquareWave);
        _flags = 0;
        _index = 0;
        NmiMasked = false;
        UpdateInterrupt();
        Schedule();
    }

    RtcState IStateful<RtcState>.Save() =>
        new([.. _bytes], _index, NmiMasked, (byte)_flags, _dividerStart, _lastUpdate, _lastPeriod, _fellBack, _timer.Deadline);

    void IStateful<RtcState>.Restore(RtcState state)
    {
        StateCheck.Length(state.Bytes, Size, Id).CopyTo(_bytes, 0);
        _index = StateCheck.Range(state.Index, (byte)0, (byte)(Size - 1), Id);
        (NmiMasked, _flags, _dividerStart, _lastUpdate, _lastPeriod, _fellBack) =
            (state.NmiMasked, (RtcRegisterC)state.Flags, state.DividerStart, state.LastUpdate, state.LastPeriod, state.FellBack);
        _timer.Restore(state.Timer);
    }

    /// <summary>The port that says which register the next one is.</summary>
    public const ushort IndexPort = 0x70;

    /// <param name="lock">Held for the registers; null: the device is alone.</param>
    public void AttachTo(PortBus ports, DeviceLock? @lock = null) => ports.Add(IndexPort, 2, new ByteRegisters(Read, Write), @lock);

    private RtcRegisterB Control => (RtcRegisterB)_bytes[CmosAddress.RegisterB];
    private bool DividerRuns => ((RtcRegisterA)_bytes[CmosAddress.RegisterA] & RtcRegisterA.Divider) == RtcRegisterA.Divider32Khz;

    // The index port is write-only.
    private byte Read(int offset) => offset == 0 ? (byte)0xFF : ReadData();

    private void Write(int offset, byte value)
    {
        if (offset == 0)
        {
            _index = (byte)(value & (Size - 1));
            NmiMasked = (value & 0x80) != 0;
            return;
        }
        Advance();
        WriteData(value);
        UpdateInterrupt();
        Schedule();
    }

    private byte ReadData()
    {
        Advance();
        switch (_index)
        {
            case CmosAddress.RegisterA:
                return (byte)(_bytes[_index] | (UpdateInProgress ? (int)RtcRegisterA.UpdateInProgress : 0));
            case CmosAddress.RegisterC:
                byte value = (byte)(_flags | (Requesting ? RtcRegisterC.Request : 0));
                _flags = 0;
                UpdateInterrupt();
                Schedule();
                return value;
            case CmosAddress.RegisterD:
                return 0x80; // VRT: the battery is good
            default:
                return _bytes[_index];
        }
    }

    private void WriteData(byte value)
    {
        switch (_index)
        {
            case CmosAddress.RegisterA:
                bool ran = DividerRuns;
                _bytes[_index] = (byte)(value & ~(int)RtcRegisterA.UpdateInProgress);
                long now = _time.Nanoseconds;
                if (DividerRuns && !ran)
                {
                    // "When the divider reset is removed the first update cycle begins one-half second later."
                    _dividerStart = now - Second / 2;
                    _lastUpdate = 0;
                }
                if (DividerRuns) _lastPeriod = Periods(now);
                break;
            case CmosAddress.RegisterB:
                RtcRegisterB control = (RtcRegisterB)value;
                if (control.HasFlag(RtcRegisterB.Set)) control &= ~RtcRegisterB.UpdateInterrupt; // "UIE is cleared when SET goes high"
                _bytes[_index] = (byte)control;
                break;
            case CmosAddress.RegisterC or CmosAddress.RegisterD:
                break;
            default:
                _bytes[_index] = value;
                break;
        }
    }

    private bool UpdateInProgress =>
        DividerRuns && !Control.HasFlag(RtcRegisterB.Set) && Second - (_time.Nanoseconds - _dividerStart) % Second <= UpdateInProgressTime;

    private bool Requesting => ((byte)_flags & (byte)Control & (byte)RtcRegisterC.Sources) != 0;

    private void UpdateInterrupt() => _irq8.Set(Requesting);

    /// <summary>Ticks of the 32.768 kHz time base from one periodic interrupt to the next, 0 for none (table 5).</summary>
    private int PeriodTicks
    {
        get
        {
            int rate = (int)((RtcRegisterA)_bytes[CmosAddress.RegisterA] & RtcRegisterA.RateSelect);
            return rate == 0 ? 0 : rate <= 2 ? 1 << (rate + 6) : 1 << (rate - 1);
        }
    }

    /// <summary>Periods that the divider chain completed up to a time.</summary>
    private long Periods(long now)
    {
        int ticks = PeriodTicks;
        return ticks == 0 ? 0 : (long)WideMath.MultiplyDivide((ulong)(now - _dividerStart), 32_768, Second) / ticks;
    }

    /// <summary>Brings the registers up to the present.</summary>
    private void Advance()
    {
        if (!DividerRuns) return;
        long now = _time.Nanoseconds, second = (now - _dividerStart) / Second, period = Periods(now);
        if (period != _lastPeriod && PeriodTicks != 0) _flags |= RtcRegisterC.Periodic;
        _lastPeriod = period;
        if (Control.HasFlag(RtcRegisterB.Set)) _lastUpdate = second; // the updates are inhibited, and not made up for
        for (; _lastUpdate < second; _lastUpdate++) Update();
        UpdateInterrupt();
    }

    private void OnTimer()
    {
        Advance();
        Schedule();
    }

    /// <summary>A timer is needed only while something could raise the line that is not raised.</summary>
    private void Schedule()
    {
        long deadline = long.MaxValue;
        if (DividerRuns && !Requesting)
        {
            if (Control.HasFlag(RtcRegisterB.PeriodicInterrupt) && PeriodTicks is > 0 and int ticks)
                deadline = _dividerStart + (long)(((Int128)(_lastPeriod + 1) * ticks * Second + 32_767) / 32_768);
            if (!Control.HasFlag(RtcRegisterB.Set) && (Control & (RtcRegisterB.UpdateInterrupt | RtcRegisterB.AlarmInterrupt)) != 0)
                deadline = Math.Min(deadline, _dividerStart + (_lastUpdate + 1) * Second);
        }
        if (deadline == long.MaxValue) _timer.Cancel();
        else _timer.Arm(deadline);
    }

    /// <summary>One update cycle.</summary>
    private void Update()
    {
        if (IncrementSeconds()) IncrementHours();
        _flags |= RtcRegisterC.UpdateEnded;
        if (AlarmMatches(CmosAddress.Seconds) && AlarmMatches(CmosAddress.Minutes) && AlarmMatches(CmosAddress.Hours)) _flags |= RtcRegisterC.Alarm;
    }

    /// <summary>The alarm byte follows its time byte; "don't care" is any value from C0h to FFh.</summary>
    private bool AlarmMatches(int address) => _bytes[address + 1] >= DontCare || _bytes[address + 1] == _bytes[address];

    private bool IncrementSeconds() => Increment(CmosAddress.Seconds, 0, 59) && Increment(CmosAddress.Minutes, 0, 59);

    private void IncrementHours()
    {
        int hour = Hour;
        if (Control.HasFlag(RtcRegisterB.DaylightSaving)) hour += DaylightCorrection(hour);
        Hour = hour >= 23 ? 0 : hour + 1;
        if (hour >= 23) IncrementDay();
    }

    private bool _fellBack; // the repeated hour of October has begun

    /// <summary>
    /// Register B, DSE: on the last Sunday in April 1:59:59 is followed by 3:00:00; on the last Sunday in October it is followed, the first time, by 1:00:00.
    /// </summary>
    private int DaylightCorrection(int hour)
    {
        int month = Get(CmosAddress.Month), day = Get(CmosAddress.DayOfMonth);
        if (hour != 1 || Get(CmosAddress.DayOfWeek) != 1) return 0;
        if (month == 4 && day > 30 - 7) return 1;
        if (month != 10 || day <= 31 - 7) return 0;
        _fellBack = !_fellBack;
        return _fellBack ? -1 : 0;
    }

    private void IncrementDay()
    {
        Increment(CmosAddress.DayOfWeek, 1, 7);
        if (!Increment(CmosAddress.DayOfMonth, 1, DaysInMonth)) return;
        if (!Increment(CmosAddress.Month, 1, 12)) return;
        if (Increment(CmosAddress.Year, 0, 99)) Increment(CmosAddress.Century, 0, 99);
    }

    private int DaysInMonth
    {
        get
        {
            int year = Get(CmosAddress.Century) * 100 + Get(CmosAddress.Year), month = Get(CmosAddress.Month);
            return year is >= 1 and <= 9999 && month is >= 1 and <= 12 ? DateTime.DaysInMonth(year, month) : 31;
        }
    }

    /// <summary>The hour, 0 to 23 when the byte is valid, in the format of register B.</summary>
    private int Hour
    {
        get
        {
            if (Control.HasFlag(RtcRegisterB.Hours24)) return Get(CmosAddress.Hours);
            byte raw = _bytes[CmosAddress.Hours];
            return FromFormat((byte)(raw & ~Pm)) % 12 + ((raw & Pm) != 0 ? 12 : 0);
        }
        set
        {
            if (Control.HasFlag(RtcRegisterB.Hours24)) Put(CmosAddress.Hours, value);
            else _bytes[CmosAddress.Hours] = (byte)(ToFormat(value % 12 == 0 ? 12 : value % 12) | (value >= 12 ? Pm : 0));
        }
    }

    /// <summary>True when the byte wrapped to <paramref name="first"/>.</summary>
    private bool Increment(int address, int first, int last)
    {
        int value = Get(address);
        bool wraps = value >= last;
        Put(address, wraps ? first : value + 1);
        return wraps;
    }

    private int Get(int address) => FromFormat(_bytes[address]);
    private void Put(int address, int value) => _bytes[address] = ToFormat(value);
    private int FromFormat(byte raw) => Control.HasFlag(RtcRegisterB.Binary) ? raw : (raw >> 4) * 10 + (raw & 15);
    private byte ToFormat(int value) => (byte)(Control.HasFlag(RtcRegisterB.Binary) ? value : (value / 10 << 4) | (value % 10));

    private void SetTime(DateTime utc)
    {
        Put(CmosAddress.Seconds, utc.Second);
        Put(CmosAddress.Minutes, utc.Minute);
        Hour = utc.Hour;
        Put(CmosAddress.DayOfWeek, (int)utc.DayOfWeek + 1); // 1 is Sunday
        Put(CmosAddress.DayOfMonth, utc.Day);
        Put(CmosAddress.Month, utc.Month);
        Put(CmosAddress.Year, utc.Year % 100);
        Put(CmosAddress.Century, utc.Year / 100);
    }

    private void SetMemorySize(ulong size)
    {
        const ulong kilobyte = 1 << 10, block = 64 << 10, megabyte = 1 << 20;
        ulong low = Math.Min(size, MemoryLayout.LowMemoryEnd), high = size - low;
        PutWord(CmosAddress.BaseMemory, 640);
        ulong extended = Math.Min(low > megabyte ? (low - megabyte) / kilobyte : 0, ushort.MaxValue);
        PutWord(CmosAddress.ExtendedMemory, extended);
        PutWord(CmosAddress.ExtendedMemoryCopy, extended);
        PutWord(CmosAddress.MemoryAbove16M, Math.Min(low > 16 * megabyte ? (low - 16 * megabyte) / block : 0, ushort.MaxValue));
        PutWord(CmosAddress.MemoryAbove4G, high / block);
        _bytes[CmosAddress.MemoryAbove4G + 2] = (byte)(high / block >> 16);
        _bytes[CmosAddress.Equipment] = 0x06; // a coprocessor and a pointing device; no diskette, no display
        UpdateChecksum();
    }

    private void PutWord(int address, ulong value)
    {
        _bytes[address] = (byte)value;
        _bytes[address + 1] = (byte)(value >> 8);
    }

    private void UpdateChecksum()
    {
        int sum = 0;
        for (int n = CmosAddress.ChecksumFirst; n <= CmosAddress.ChecksumLast; n++) sum += _bytes[n];
        _bytes[CmosAddress.ChecksumHigh] = (byte)(sum >> 8);
        _bytes[CmosAddress.ChecksumLow] = (byte)sum;
    }
}

/// <summary>State of an <see cref="Rtc146818"/>.</summary>
/// <param name="Bytes">Registers and RAM.</param>
/// <param name="Flags">Register C.</param>
/// <param name="DividerStart">ns at which the divider chain stood at zero.</param>
/// <param name="LastUpdate">Seconds from there to the last update; likewise <paramref name="LastPeriod"/>.</param>
/// <param name="FellBack">The repeated hour of October has begun.</param>
/// <param name="Timer">ns at which the timer calls back.</param>
[StateRecord("mc146818", version: 1)]
internal sealed record RtcState(byte[] Bytes, byte Index, bool NmiMasked, byte Flags, long DividerStart, long LastUpdate, long LastPeriod, bool FellBack,
    long? Timer);
