using Bunraku.Machine.Acpi;

namespace Bunraku.Machine.Tests.Acpi;

/// <summary>ACPI Specification 6.3, section 4.8.3 "Fixed Hardware Registers".</summary>
public sealed class PowerManagementTests
{
    private const ushort Status = 0, Enable = 2, Control = 4, Timer = 8, GeneralStatus = 12, GeneralEnable = 14;
    private const uint TimerEvent = 1, PowerButton = 1 << 8, ClockAlarm = 1 << 10;

    private readonly TestTime _time = new();
    private readonly TestLine _sci = new();
    private readonly PowerManagement _power;
    private int _poweredOff;

    public PowerManagementTests() => _power = new PowerManagement(_time, _sci, () => _poweredOff++);

    [Fact]
    public void PowerManagementTimerRunsAt3579545Hz()
    {
        // 4.8.3.3: "a free running timer that runs off a 3.579545 MHz clock".
        for (int n = 1; n <= 1000; n++)
        {
            _time.Advance(1_000_000_000);
            Assert.Equal((uint)(3_579_545L * n), _power.ReadPort(Timer, 4));
        }
    }

    [Fact]
    public void PowerManagementTimerReadsByLanes()
    {
        _time.Advance(123_456_789_012);
        uint whole = _power.ReadPort(Timer, 4), bytes = 0;
        for (ushort n = 0; n < 4; n++) bytes |= _power.ReadPort((ushort)(Timer + n), 1) << (8 * n);
        Assert.Equal(whole, bytes);
        Assert.Equal(whole >> 16, _power.ReadPort(Timer + 2, 2));
    }

    [Fact]
    public void TimerStatusIsSetWhenTheHighestBitChanges()
    {
        // 4.8.3.1: TMR_STS "is set any time the most significant bit of the PM timer changes"; with TMR_EN it raises the SCI.
        long half = (long)Math.Ceiling((double)(1L << 31) * 1_000_000_000 / 3_579_545);
        _power.WritePort(Enable, 2, TimerEvent);
        _time.Advance(half - 1000);
        Assert.Equal(0u, _power.ReadPort(Status, 2));
        Assert.False(_sci.Asserted);
        _time.Advance(2000);
        Assert.True(_sci.Asserted);
        Assert.Equal(TimerEvent, _power.ReadPort(Status, 2));
        _power.WritePort(Status, 2, TimerEvent);
        Assert.Equal(0u, _power.ReadPort(Status, 2));
        Assert.False(_sci.Asserted);
        _time.Advance(half);
        Assert.True(_sci.Asserted);
    }

    [Fact]
    public void FixedPowerButton()
    {
        _power.WritePort(Enable, 2, PowerButton);
        Assert.Equal(PowerButton, _power.ReadPort(Enable, 2));
        _power.PressPowerButton();
        Assert.True(_sci.Asserted);
        Assert.Equal(PowerButton, _power.ReadPort(Status, 2));
        _power.WritePort(Status, 2, TimerEvent); // another bit
        Assert.True(_sci.Asserted);
        _power.WritePort(Status + 1, 1, PowerButton >> 8); // write 1 to clear, by bytes too
        Assert.False(_sci.Asserted);
    }

    [Fact]
    public void RealTimeClockAlarm()
    {
        // 4.8.3.1.1: RTC_STS "is set when the RTC generates an alarm (asserts the RTC IRQ signal)"; RTC_EN lets it raise the SCI.
        _power.RealTimeClock.Set(true);
        Assert.Equal(ClockAlarm, _power.ReadPort(Status, 2));
        Assert.False(_sci.Asserted);
        _power.WritePort(Enable, 2, ClockAlarm);
        Assert.Equal(ClockAlarm, _power.ReadPort(Enable, 2));
        Assert.True(_sci.Asserted);
        _power.WritePort(Status, 2, ClockAlarm);
        Assert.False(_sci.Asserted);
        _power.RealTimeClock.Set(true); // still asserted: no new alarm
        Assert.False(_sci.Asserted);
        _power.RealTimeClock.Set(false);
        _power.RealTimeClock.Set(true);
        Assert.True(_sci.Asserted);
    }

    [Fact]
    public void GeneralPurposeEvents()
    {
        // 4.8.4.1: the first half of the block is status, set by hardware and cleared by writing 1; the second half enables the SCI for each bit.
        _power.RaiseGeneralEvent(5);
        _power.RaiseGeneralEvent(15);
        Assert.Equal(0x8020u, _power.ReadPort(GeneralStatus, 2));
        Assert.Equal(0x80u, _power.ReadPort(GeneralStatus + 1, 1));
        Assert.False(_sci.Asserted);
        _power.WritePort(GeneralEnable, 1, 1 << 5);
        Assert.Equal(1u << 5, _power.ReadPort(GeneralEnable, 2));
        Assert.True(_sci.Asserted);
        _power.WritePort(GeneralStatus, 1, 0xDF);
        Assert.True(_sci.Asserted);
        _power.WritePort(GeneralStatus, 1, 1 << 5);
        Assert.False(_sci.Asserted);
        Assert.Equal(0x8000u, _power.ReadPort(GeneralStatus, 2));
        _power.Reset();
        Assert.Equal(0u, _power.ReadPort(GeneralStatus, 4));
        Assert.Throws<ArgumentOutOfRangeException>(() => _power.RaiseGeneralEvent(PowerManagement.GeneralEvents));
    }

    [Fact]
    public void AcpiModeIsAlwaysOn()
    {
        // 4.8.3.2: SCI_EN is set while power management events raise the SCI.
        Assert.Equal(1u, _power.ReadPort(Control, 2));
        _power.WritePort(Control, 2, 0);
        Assert.Equal(1u, _power.ReadPort(Control, 2));
    }

    [Theory]
    [InlineData(0x2000u, 2, 0, true)] // SLP_EN with S5's SLP_TYP
    [InlineData(0x20u, 1, 1, true)] // high byte alone
    [InlineData(0x3400u, 2, 0, false)] // a sleep state that the machine does not have
    [InlineData(0x0000u, 2, 0, false)]
    public void SleepEnableEntersSoftOff(uint value, int size, int lane, bool off)
    {
        _power.WritePort((ushort)(Control + lane), size, value);
        Assert.Equal(off ? 1 : 0, _poweredOff);
    }

    [Fact]
    public void RandomAccesses()
    {
        var random = new Random(1);
        for (int n = 0; n < 100_000; n++)
        {
            int size = 1 << random.Next(3);
            var offset = (ushort)random.Next(PowerManagement.Ports - size + 1);
            if (random.Next(2) == 0) _power.WritePort(offset, size, (uint)random.Next());
            else Assert.Equal(0u, size == 4 ? 0 : _power.ReadPort(offset, size) >> (8 * size));
            _time.Advance(random.Next());
            if (random.Next(100) == 0) _power.RaiseGeneralEvent(random.Next(PowerManagement.GeneralEvents));
            uint general = _power.ReadPort(GeneralStatus, 2) & _power.ReadPort(GeneralEnable, 2);
            Assert.Equal((_power.ReadPort(Status, 2) & _power.ReadPort(Enable, 2) | general) != 0, _sci.Asserted);
        }
    }
}
