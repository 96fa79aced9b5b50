using Bunraku.Hypervisor;
using Bunraku.Machine.Timers;

namespace Bunraku.Machine.Tests;

/// <summary>MC146818A data sheet (Motorola, 1984) and the PC's CMOS map.</summary>
public class Rtc146818Tests
{
    private const long Second = 1_000_000_000;
    private const ulong Gibibyte = 1ul << 30;

    private readonly TestTime _time = new();
    private readonly TestLine _irq8 = new();
    private PortBus _ports = new();
    private Rtc146818 _rtc = null!;

    public Rtc146818Tests() => PowerOn(new DateTime(2024, 2, 28, 23, 59, 50, DateTimeKind.Utc), Gibibyte);

    private void PowerOn(DateTime utc, ulong memory)
    {
        _ports = new PortBus();
        _rtc = new Rtc146818(_irq8, _time, utc, memory);
        _rtc.AttachTo(_ports);
    }

    private byte this[int address]
    {
        get
        {
            _ports.Out(0x70, address);
            return _ports.In(0x71);
        }
        set
        {
            _ports.Out(0x70, address);
            _ports.Out(0x71, value);
        }
    }

    private string Clock => $"{this[0x32]:X2}{this[9]:X2}-{this[8]:X2}-{this[7]:X2} {this[6]} {this[4]:X2}:{this[2]:X2}:{this[0]:X2}";

    [Fact]
    public void Time_starts_at_the_hosts_and_follows_virtual_time()
    {
        Assert.Equal("2024-02-28 4 23:59:50", Clock);
        _time.Advance(9 * Second);
        Assert.Equal("2024-02-28 4 23:59:59", Clock);
        _time.Advance(Second);
        Assert.Equal("2024-02-29 5 00:00:00", Clock); // a leap year
        _time.Advance(24 * 3600 * Second);
        Assert.Equal("2024-03-01 6 00:00:00", Clock);
    }

    [Fact]
    public void Century_and_week_wrap()
    {
        PowerOn(new DateTime(1999, 12, 31, 23, 59, 59, DateTimeKind.Utc), Gibibyte);
        _time.Advance(Second);
        Assert.Equal("2000-01-01 7 00:00:00", Clock);
        _time.Advance(24 * 3600 * Second);
        Assert.Equal("2000-01-02 1 00:00:00", Clock);
    }

    [Fact]
    public void The_fraction_of_the_hosts_second_is_kept()
    {
        PowerOn(new DateTime(2024, 1, 1, 0, 0, 0, DateTimeKind.Utc).AddMilliseconds(750), Gibibyte);
        _time.Advance(Second / 4 - 1);
        Assert.Equal(0x00, this[0]);
        _time.Advance(1);
        Assert.Equal(0x01, this[0]);
    }

    [Fact]
    public void Register_B_binary_and_24_hours()
    {
        this[0x0B] = 0x86; // SET, binary, 24 h
        (this[4], this[2], this[0]) = (9, 59, 59);
        this[0x0B] = 0x06;
        _time.Advance(Second);
        Assert.Equal((10, 0, 0), (this[4], this[2], this[0]));
    }

    [Theory]
    [InlineData(0x11, 0x92)] // 11 AM, then noon
    [InlineData(0x92, 0x81)] // noon, then 1 PM
    [InlineData(0x91, 0x12)] // 11 PM, then midnight
    [InlineData(0x12, 0x01)] // midnight, then 1 AM
    public void Register_B_12_hours(int hour, int next)
    {
        this[0x0B] = 0x80;
        (this[4], this[2], this[0]) = ((byte)hour, 0x59, 0x59);
        this[0x0B] = 0x00;
        _time.Advance(Second);
        Assert.Equal(next, this[4]);
    }

    [Fact]
    public void Register_B_SET_inhibits_updates_and_clears_UIE()
    {
        this[0x0B] = 0x92;
        Assert.Equal(0x82, this[0x0B]);
        byte before = this[0];
        _time.Advance(3 * Second);
        Assert.Equal(before, this[0]);
        Assert.Equal(0, this[0x0C] & 0x10);
        this[0x0B] = 0x02;
        Assert.Equal(before, this[0]);
        _time.Advance(Second);
        Assert.Equal(before + 1, this[0]);
    }

    [Fact]
    public void Register_A_UIP_is_set_244_microseconds_before_the_update_cycle_of_1984_microseconds()
    {
        _time.Advance(Second - 2_228_001);
        Assert.Equal(0x26, this[0x0A]);
        _time.Advance(1);
        Assert.Equal(0xA6, this[0x0A]);
        _time.Advance(2_228_000 - 1);
        Assert.Equal(0xA6, this[0x0A]);
        _time.Advance(1);
        Assert.Equal(0x26, this[0x0A]);
        this[0x0B] = 0x82;
        _time.Advance(Second - 1000);
        Assert.Equal(0x26, this[0x0A]); // SET clears UIP
    }

    [Fact]
    public void Register_A_the_first_update_comes_half_a_second_after_the_divider_reset()
    {
        this[0x0A] = 0x70;
        byte before = this[0];
        _time.Advance(10 * Second);
        Assert.Equal(before, this[0]);
        this[0x0A] = 0x20;
        _time.Advance(Second / 2 - 1);
        Assert.Equal(before, this[0]);
        _time.Advance(1);
        Assert.Equal(before + 1, this[0]);
    }

    [Theory]
    [InlineData(1, 256)]
    [InlineData(2, 128)]
    [InlineData(3, 8192)]
    [InlineData(6, 1024)]
    [InlineData(13, 8)]
    [InlineData(15, 2)]
    public void Table_5_periodic_rates(int rate, int frequency)
    {
        this[0x0A] = (byte)(0x20 | rate);
        this[0x0B] = 0x42;
        int interrupts = 0;
        for (long end = _time.Nanoseconds + Second; _time.Nanoseconds < end;)
        {
            _time.Advance(10_000);
            if (!_irq8.Asserted) continue;
            interrupts++;
            Assert.Equal(0xC0, this[0x0C] & 0xC0);
            Assert.False(_irq8.Asserted);
        }
        Assert.Equal(frequency, interrupts);
    }

    [Fact]
    public void Register_C_flags_are_set_without_their_enable_bits_and_reading_clears_them()
    {
        _time.Advance(Second);
        Assert.False(_irq8.Asserted);
        Assert.Equal(0x50, this[0x0C]); // PF and UF, no IRQF
        Assert.Equal(0x00, this[0x0C]);
    }

    [Fact]
    public void An_enable_bit_set_later_raises_IRQ8_for_a_flag_that_stands()
    {
        _time.Advance(Second);
        this[0x0B] = 0x12;
        Assert.True(_irq8.Asserted);
        Assert.Equal(0xD0, this[0x0C]);
        Assert.False(_irq8.Asserted);
    }

    [Fact]
    public void Update_ended_interrupt_every_second()
    {
        this[0x0B] = 0x12;
        for (int n = 0; n < 5; n++)
        {
            _time.Advance(Second - 1);
            Assert.False(_irq8.Asserted);
            _time.Advance(1);
            Assert.True(_irq8.Asserted);
            Assert.Equal(0x90, this[0x0C] & 0x90);
        }
    }

    [Fact]
    public void Alarm_matches_all_three_bytes()
    {
        (this[5], this[3], this[1]) = (0x00, 0x00, 0x05);
        this[0x0B] = 0x22;
        _time.Advance(15 * Second - 1);
        Assert.False(_irq8.Asserted);
        _time.Advance(1);
        Assert.True(_irq8.Asserted);
        Assert.Equal(0xA0, this[0x0C] & 0xA0);
        _time.Advance(24 * 3600 * Second - 1);
        Assert.False(_irq8.Asserted);
        _time.Advance(1);
        Assert.True(_irq8.Asserted);
    }

    [Fact]
    public void Alarm_dont_care_from_C0_to_FF()
    {
        (this[5], this[3], this[1]) = (0xFF, 0xC0, 0x30);
        this[0x0B] = 0x22;
        int alarms = 0;
        for (int n = 0; n < 600; n++)
        {
            _time.Advance(Second);
            if (!_irq8.Asserted) continue;
            alarms++;
            Assert.Equal(0x30, this[0]);
            _ = this[0x0C];
        }
        Assert.Equal(10, alarms);
    }

    [Theory]
    [InlineData(4, 0x28, 0x03)] // the last Sunday of April 2024
    [InlineData(10, 0x27, 0x01)] // the last Sunday of October 2024
    [InlineData(4, 0x21, 0x02)] // another Sunday
    public void Register_B_DSE_changes_the_hour_on_two_Sundays(int month, int day, int hour)
    {
        this[0x0B] = 0x83;
        (this[8], this[7], this[6]) = ((byte)(month / 10 << 4 | month % 10), (byte)day, 1);
        (this[4], this[2], this[0]) = (0x01, 0x59, 0x59);
        this[0x0B] = 0x03;
        _time.Advance(Second);
        Assert.Equal(hour, this[4]);
        _time.Advance(3600 * Second);
        Assert.Equal(hour + 1, this[4]); // the repetition happens once
    }

    [Fact]
    public void Registers_C_and_D_are_read_only_and_VRT_is_set()
    {
        this[0x0D] = 0;
        Assert.Equal(0x80, this[0x0D]);
        this[0x0C] = 0xFF;
        Assert.Equal(0, this[0x0C]);
    }

    [Fact]
    public void Port_70_holds_the_NMI_mask_and_is_write_only()
    {
        _ports.Out(0x70, 0x8F);
        Assert.True(_rtc.NmiMasked);
        Assert.Equal(0xFF, _ports.In(0x70));
        _ports.Out(0x71, 0x5A);
        Assert.Equal(0x5A, this[0x0F]);
        Assert.False(_rtc.NmiMasked);
    }

    [Theory]
    [InlineData(16ul << 20, 15 << 10, 0, 0)]
    [InlineData(512ul << 20, 65535, 496 * 16, 0)]
    [InlineData(5ul << 30, 65535, 3056 * 16, 2 << 14)]
    public void Memory_sizes(ulong memory, int extended, int above16M, int above4G)
    {
        PowerOn(DateTime.UnixEpoch, memory);
        Assert.Equal(640, this[0x15] | this[0x16] << 8);
        Assert.Equal(extended, this[0x17] | this[0x18] << 8);
        Assert.Equal(extended, this[0x30] | this[0x31] << 8);
        Assert.Equal(above16M, this[0x34] | this[0x35] << 8);
        Assert.Equal(above4G, this[0x5B] | this[0x5C] << 8 | this[0x5D] << 16);
    }

    [Fact]
    public void Checksum_covers_10h_to_2Dh()
    {
        _rtc[0x2D] = 0xF0;
        int sum = Enumerable.Range(0x10, 0x1E).Sum(n => this[n]);
        Assert.Equal(sum, this[0x2E] << 8 | this[0x2F]);
        Assert.Equal(0, this[0x0F]);
    }
}
