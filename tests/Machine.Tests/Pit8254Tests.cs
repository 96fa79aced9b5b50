using Bunraku.Hypervisor;
using Bunraku.Machine.Timers;

namespace Bunraku.Machine.Tests;

/// <summary>Intel 8254 data sheet (231164-005), "Mode definitions" and "Read operations"; port 61h as in the PIIX data sheet.</summary>
public class Pit8254Tests
{
    private const ushort Control = 0x43, SystemControl = 0x61;
    private const int Counter2 = 2;

    private readonly TestTime _time = new();
    private readonly TestLine _irq0 = new();
    private readonly PortBus _ports = new();

    public Pit8254Tests()
    {
        new Pit8254(_irq0, _time).AttachTo(_ports);
        _ports.Out(SystemControl, 1); // GATE 2 high
    }

    /// <summary>Moves to the first nanosecond of a CLK tick (105/88 MHz), counted from the start.</summary>
    private void GoTo(long tick) => _time.Advance((tick * 17_600 + 20) / 21 - _time.Nanoseconds);

    private long Tick => _time.Nanoseconds * 21 / 17_600;

    /// <summary>Programs a counter; returns the tick of the CLK pulse that loads the count.</summary>
    private long Program(int counter, int mode, int count, bool bcd = false)
    {
        _ports.Out(Control, counter << 6 | 0x30 | mode << 1 | (bcd ? 1 : 0));
        WriteCount(counter, count);
        return Tick + 1;
    }

    private void WriteCount(int counter, int count)
    {
        _ports.Out((ushort)(0x40 + counter), count);
        _ports.Out((ushort)(0x40 + counter), count >> 8);
    }

    private int ReadCount(int counter)
    {
        _ports.Out(Control, counter << 6);
        int low = _ports.In((ushort)(0x40 + counter));
        return low | _ports.In((ushort)(0x40 + counter)) << 8;
    }

    private bool Out2 => (_ports.In(SystemControl) & 0x20) != 0;

    private int Status(int counter)
    {
        _ports.Out(Control, 0xE0 | (2 << counter));
        return _ports.In((ushort)(0x40 + counter));
    }

    /// <summary>OUT 2 and the count at consecutive ticks.</summary>
    private (string Out, int[] Counts) Trace(long from, int ticks)
    {
        char[] levels = new char[ticks];
        int[] counts = new int[ticks];
        for (int n = 0; n < ticks; n++)
        {
            GoTo(from + n);
            levels[n] = Out2 ? 'H' : 'L';
            counts[n] = ReadCount(Counter2);
        }
        return (new string(levels), counts);
    }

    [Fact]
    public void Mode_0_OUT_is_low_until_the_count_reaches_zero()
    {
        long load = Program(Counter2, 0, 4);
        Assert.False(Out2);
        (string levels, int[] counts) = Trace(load, 7);
        Assert.Equal("LLLLHHH", levels); // N + 1 CLK pulses after the count was written
        Assert.Equal([4, 3, 2, 1, 0, 0xFFFF, 0xFFFE], counts);
    }

    [Fact]
    public void Mode_0_GATE_low_disables_counting()
    {
        long load = Program(Counter2, 0, 4);
        GoTo(load + 1);
        _ports.Out(SystemControl, 0);
        GoTo(load + 100);
        Assert.False(Out2);
        Assert.Equal(3, ReadCount(Counter2));
        _ports.Out(SystemControl, 1);
        Assert.Equal("LLLH", Trace(load + 100, 4).Out);
    }

    [Fact]
    public void Mode_0_the_first_byte_of_a_new_count_stops_counting_and_sets_OUT_low()
    {
        long load = Program(Counter2, 0, 2);
        GoTo(load + 5);
        Assert.True(Out2);
        _ports.Out(0x42, 3);
        Assert.False(Out2);
        GoTo(load + 50);
        Assert.False(Out2);
        _ports.Out(0x42, 0);
        Assert.Equal("LLLH", Trace(load + 51, 4).Out);
    }

    [Fact]
    public void Mode_1_GATE_triggers_a_pulse_of_N_ticks_and_retriggers()
    {
        _ports.Out(SystemControl, 0);
        Program(Counter2, 1, 3);
        GoTo(100);
        Assert.True(Out2);
        _ports.Out(SystemControl, 1);
        Assert.Equal("LLLHH", Trace(101, 5).Out);
        _ports.Out(SystemControl, 0);
        _ports.Out(SystemControl, 1); // tick 105
        GoTo(107);
        Assert.False(Out2);
        _ports.Out(SystemControl, 0);
        _ports.Out(SystemControl, 1);
        Assert.Equal("LLLH", Trace(108, 4).Out);
    }

    [Fact]
    public void Mode_1_a_new_count_waits_for_the_next_trigger()
    {
        _ports.Out(SystemControl, 0);
        Program(Counter2, 1, 3);
        Assert.Equal(0x40, Status(Counter2) & 0x40); // NULL COUNT: not loaded yet
        _ports.Out(SystemControl, 1);
        GoTo(2);
        WriteCount(Counter2, 5);
        Assert.Equal("LLHH", Trace(2, 4).Out);
        _ports.Out(SystemControl, 0);
        _ports.Out(SystemControl, 1);
        Assert.Equal("LLLLLH", Trace(6, 6).Out);
    }

    [Fact]
    public void Mode_2_OUT_is_low_for_the_last_of_N_ticks()
    {
        long load = Program(Counter2, 2, 3);
        (string levels, int[] counts) = Trace(load, 7);
        Assert.Equal("HHLHHLH", levels);
        Assert.Equal([3, 2, 1, 3, 2, 1, 3], counts);
    }

    [Fact]
    public void Mode_2_a_new_count_takes_over_at_the_end_of_the_cycle()
    {
        long load = Program(Counter2, 2, 4);
        GoTo(load + 1);
        WriteCount(Counter2, 3);
        Assert.Equal([3, 2, 1, 3, 2, 1, 3], Trace(load + 1, 7).Counts);
    }

    [Fact]
    public void Mode_2_GATE_low_sets_OUT_high_and_its_rise_reloads()
    {
        long load = Program(Counter2, 2, 3);
        GoTo(load + 2);
        Assert.False(Out2);
        _ports.Out(SystemControl, 0);
        Assert.True(Out2);
        GoTo(load + 20);
        Assert.True(Out2);
        _ports.Out(SystemControl, 1);
        Assert.Equal("HHLH", Trace(load + 21, 4).Out);
    }

    [Theory]
    [InlineData(4, "HHLLHHLLH", new[] { 4, 2, 4, 2, 4, 2, 4, 2, 4 })]
    [InlineData(5, "HHHLLHHHLL", new[] { 4, 2, 0, 4, 2, 4, 2, 0, 4, 2 })]
    public void Mode_3_even_and_odd_counts(int count, string levels, int[] counts)
    {
        long load = Program(Counter2, 3, count);
        (string actual, int[] actualCounts) = Trace(load, levels.Length);
        Assert.Equal(levels, actual);
        Assert.Equal(counts, actualCounts);
    }

    [Fact]
    public void Mode_3_a_new_count_takes_over_at_the_end_of_the_half_cycle()
    {
        long load = Program(Counter2, 3, 4);
        WriteCount(Counter2, 4);
        GoTo(load);
        WriteCount(Counter2, 6);
        Assert.Equal("HHLLLHHHLLL", Trace(load, 11).Out);
        load = Program(Counter2, 3, 6);
        GoTo(load + 4);
        WriteCount(Counter2, 4);
        Assert.Equal("LLHHLLHH", Trace(load + 4, 8).Out);
    }

    [Fact]
    public void Mode_4_strobes_low_for_one_tick_after_N()
    {
        long load = Program(Counter2, 4, 3);
        (string levels, int[] counts) = Trace(load, 6);
        Assert.Equal("HHHLHH", levels);
        Assert.Equal([3, 2, 1, 0, 0xFFFF, 0xFFFE], counts);
    }

    [Fact]
    public void Mode_5_GATE_triggers_the_strobe()
    {
        _ports.Out(SystemControl, 0);
        Program(Counter2, 5, 3);
        GoTo(50);
        _ports.Out(SystemControl, 1);
        Assert.Equal("HHHLHH", Trace(51, 6).Out);
    }

    [Fact]
    public void BCD_counts_four_decades()
    {
        long load = Program(Counter2, 0, 0x1000, bcd: true);
        GoTo(load + 1);
        Assert.Equal(0x0999, ReadCount(Counter2));
        GoTo(load + 1001);
        Assert.Equal(0x9999, ReadCount(Counter2));
        load = Program(Counter2, 2, 0, bcd: true);
        GoTo(load + 9_999);
        Assert.Equal(1, ReadCount(Counter2));
        GoTo(load + 10_000);
        Assert.Equal(0, ReadCount(Counter2)); // 10000
    }

    [Fact]
    public void A_count_of_zero_is_65536()
    {
        long load = Program(Counter2, 0, 0);
        GoTo(load + 65_535);
        Assert.False(Out2);
        GoTo(load + 65_536);
        Assert.True(Out2);
    }

    [Fact]
    public void Access_modes_read_and_write_one_byte()
    {
        _ports.Out(Control, 0x90); // counter 2, low byte, mode 0
        _ports.Out(0x42, 10);
        GoTo(1);
        Assert.Equal(10, _ports.In(0x42));
        Assert.Equal(10, _ports.In(0x42));
        _ports.Out(Control, 0xA0); // high byte
        _ports.Out(0x42, 2);
        GoTo(2);
        Assert.Equal(2, _ports.In(0x42));
    }

    [Fact]
    public void Counter_latch_holds_until_read_and_later_latches_are_ignored()
    {
        long load = Program(Counter2, 0, 0x1000);
        GoTo(load + 1);
        _ports.Out(Control, 0x80);
        GoTo(load + 2);
        _ports.Out(Control, 0x80);
        Assert.Equal(0xFF, _ports.In(0x42));
        Assert.Equal(0x0F, _ports.In(0x42));
        Assert.Equal(0xFE, _ports.In(0x42));
    }

    [Fact]
    public void Read_back_latches_counts_and_status_of_several_counters_status_first()
    {
        long load = Program(0, 2, 100);
        Program(Counter2, 3, 50);
        GoTo(load + 10);
        _ports.Out(Control, 0xC0 | 0x0A);
        GoTo(load + 20);
        Assert.Equal(0xB4, _ports.In(0x40)); // OUT high, loaded, two bytes, mode 2
        Assert.Equal(90, _ports.In(0x40));
        Assert.Equal(0, _ports.In(0x40));
        Assert.Equal(0xB6, _ports.In(0x42));
        Assert.Equal(30, _ports.In(0x42));
        Assert.Equal(0, _ports.In(0x42));
    }

    [Fact]
    public void Status_NULL_COUNT_from_the_control_word_until_the_count_is_loaded()
    {
        _ports.Out(Control, 0xB4);
        Assert.Equal(0xF4, Status(Counter2));
        WriteCount(Counter2, 10);
        Assert.Equal(0xF4, Status(Counter2));
        GoTo(1);
        Assert.Equal(0xB4, Status(Counter2));
        WriteCount(Counter2, 20);
        Assert.Equal(0x40, Status(Counter2) & 0x40);
        GoTo(10);
        Assert.Equal(0x40, Status(Counter2) & 0x40);
        GoTo(11);
        Assert.Equal(0, Status(Counter2) & 0x40);
    }

    [Fact]
    public void The_control_port_cannot_be_read() => Assert.Equal(0xFF, _ports.In(Control));

    [Fact]
    public void Port_61_refresh_toggles_every_fifteen_microseconds()
    {
        GoTo(17);
        int first = _ports.In(SystemControl) & 0x10;
        GoTo(18);
        Assert.NotEqual(first, _ports.In(SystemControl) & 0x10);
        GoTo(36);
        Assert.Equal(first, _ports.In(SystemControl) & 0x10);
    }

    [Fact]
    public void IRQ0_in_mode_0_rises_once_at_terminal_count()
    {
        long load = Program(0, 0, 1000);
        Assert.False(_irq0.Asserted);
        GoTo(load + 999);
        Assert.False(_irq0.Asserted);
        GoTo(load + 1000);
        Assert.True(_irq0.Asserted);
        GoTo(load + 1_000_000);
        Assert.Equal(1, _irq0.Edges);
        _ports.Out(Control, 0x30);
        Assert.False(_irq0.Asserted);
    }

    [Theory]
    [InlineData(2)]
    [InlineData(3)]
    public void IRQ0_is_periodic_without_drift(int mode)
    {
        Program(0, mode, 11_932);
        int before = _irq0.Edges;
        _time.Advance(3600L * 1_000_000_000);
        long ticks = 3600L * 1_000_000 * 105 / 88;
        Assert.Equal((ticks - 1) / 11_932, _irq0.Edges - before);
    }

    [Fact]
    public void IRQ0_edges_missed_by_a_busy_host_are_delivered_half_a_period_apart()
    {
        long load = Program(0, 2, 1193);
        GoTo(load);
        int before = _irq0.Edges;
        _time.Stall(100_000_000); // 100 ticks late
        _time.Advance(1);
        Assert.Equal(1, _irq0.Edges - before);
        _time.Advance(499_000); // half of 1193 ticks is 499.5 µs
        Assert.Equal(1, _irq0.Edges - before);
        _time.Advance(1_000);
        Assert.Equal(2, _irq0.Edges - before);
        _time.Advance(399_499_999);
        Assert.Equal((100_000_000L + 400_000_000) * 21 / 17_600 / 1193, _irq0.Edges - before);
    }

    [Fact]
    public void IRQ0_backlog_is_bounded()
    {
        long load = Program(0, 2, 1193);
        GoTo(load);
        int before = _irq0.Edges;
        _time.Stall(3600L * 1_000_000_000);
        _time.Advance(5_000_000_000);
        Assert.InRange(_irq0.Edges - before, 5_900, 6_100); // the last second before, and the five after
    }

    [Fact]
    public void IRQ0_with_the_shortest_period_stays_within_the_documented_rate()
    {
        Program(0, 2, 2);
        int before = _irq0.Edges;
        _time.Advance(1_000_000_000);
        Assert.InRange(_irq0.Edges - before, 10_000, 1_000_000_000 / Pit8254.MinimumSpacing + 1);
    }
}
