using Bunraku.Hypervisor;
using Bunraku.Machine.Serial;

namespace Bunraku.Machine.Tests;

/// <summary>PC16550D data sheet (National Semiconductor, 1995); the sections are those of chapter 8 "Registers".</summary>
public class Uart16550ATests
{
    private const ushort Rbr = 0x3F8, Thr = 0x3F8, Ier = 0x3F9, Iir = 0x3FA, Fcr = 0x3FA, Lcr = 0x3FB, Mcr = 0x3FC, Lsr = 0x3FD, Msr = 0x3FE, Scr = 0x3FF;
    private const int DtrRtsOut2 = 0x0B, Loop = 0x10;
    private const long CharacterAt115200 = 10_000_000_000 / 115_200; // 8N1: ten bits, in ns

    private readonly TestTime _time = new();
    private readonly TestLine _irq = new();
    private readonly PortBus _ports = new();
    private readonly List<byte> _sent = [];
    private readonly Uart16550A _uart;

    public Uart16550ATests()
    {
        _uart = new Uart16550A(_irq, bytes => _sent.AddRange(bytes), _time, new DeviceLock("test"));
        _uart.AttachTo(_ports);
        SetUp(divisor: 1);
    }

    private void SetUp(int divisor)
    {
        _ports.Out(Lcr, 0x83);
        _ports.Out(0x3F8, divisor);
        _ports.Out(0x3F9, divisor >> 8);
        _ports.Out(Lcr, 0x03);
        _ports.Out(Mcr, DtrRtsOut2);
    }

    [Fact]
    public void Section_8_1_DLAB_selects_the_divisor_latch()
    {
        SetUp(0x1234);
        _ports.Out(Ier, 0x05);
        _ports.Out(Lcr, 0x83);
        Assert.Equal(0x34, _ports.In(0x3F8));
        Assert.Equal(0x12, _ports.In(0x3F9));
        _ports.Out(Lcr, 0x03);
        Assert.Equal(0x05, _ports.In(Ier));
    }

    [Fact]
    public void Section_8_7_IER_upper_bits_are_always_zero()
    {
        _ports.Out(Ier, 0xFF);
        Assert.Equal(0x0F, _ports.In(Ier));
    }

    [Fact]
    public void Section_8_8_MCR_upper_bits_are_always_zero()
    {
        _ports.Out(Mcr, 0xEF);
        Assert.Equal(0x0F, _ports.In(Mcr));
    }

    [Fact]
    public void Section_8_10_the_scratchpad_holds_a_byte()
    {
        _ports.Out(Scr, 0xA5);
        Assert.Equal(0xA5, _ports.In(Scr));
    }

    [Fact]
    public void Section_8_4_transmitter_is_empty_at_once_and_the_character_leaves()
    {
        _ports.Out(Thr, 'A');
        Assert.Equal([(byte)'A'], _sent);
        Assert.Equal(0x60, _ports.In(Lsr));
    }

    [Fact]
    public void Section_8_1_word_length_cuts_characters()
    {
        _ports.Out(Lcr, 0x00); // five bits
        _ports.Out(Thr, 0xFF);
        Assert.Equal([(byte)0x1F], _sent);
        _uart.Enqueue([0xFF]);
        Assert.Equal(0x1F, _ports.In(Rbr));
    }

    [Fact]
    public void Section_8_6_enabling_THRE_raises_it_and_reading_IIR_resets_it()
    {
        Assert.Equal(0x01, _ports.In(Iir));
        _ports.Out(Ier, 0x02);
        Assert.True(_irq.Asserted);
        Assert.Equal(0x02, _ports.In(Iir));
        Assert.False(_irq.Asserted);
        Assert.Equal(0x01, _ports.In(Iir));
    }

    [Fact]
    public void Section_8_6_a_transmitted_character_resets_THRE_and_whoever_looks_finds_the_transmitter_empty()
    {
        _ports.Out(Ier, 0x02);
        int edges = _irq.Edges;
        _ports.Out(Thr, 'A');
        Assert.False(_irq.Asserted);
        _ports.Out(Thr, 'B');
        Assert.Equal(0x02, _ports.In(Iir)); // which resets it, and so the wire stays low
        Assert.Equal(edges, _irq.Edges);
        _ports.Out(Thr, 'C');
        Assert.Equal(0x60, _ports.In(Lsr));
        Assert.Equal(edges + 1, _irq.Edges);
        Assert.Equal("ABC"u8.ToArray(), _sent);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(12)]
    public void Section_8_11_THRE_comes_by_itself_a_character_time_after_the_transmitter_ran_empty(int divisor)
    {
        SetUp(divisor);
        _ports.Out(Ier, 0x02);
        int edges = _irq.Edges;
        _ports.Out(Thr, 'A');
        _time.Advance(CharacterAt115200 * divisor - 1000);
        Assert.Equal(edges, _irq.Edges);
        _ports.Out(Thr, 'B');
        _time.Advance(CharacterAt115200 * divisor - 1000);
        Assert.Equal(edges, _irq.Edges);
        _time.Advance(CharacterAt115200 * divisor + 2000);
        Assert.Equal(edges + 1, _irq.Edges);
        Assert.Equal(0x02, _ports.In(Iir));
        _time.Advance(1_000_000_000);
        Assert.Equal(edges + 1, _irq.Edges);
    }

    [Fact]
    public void Firmware_leaves_the_line_at_eight_data_bits_after_a_reset_too()
    {
        var ports = new PortBus();
        var uart = new Uart16550A(_irq, bytes => _sent.AddRange(bytes), _time, new DeviceLock("test")) { SetUpByFirmware = true };
        uart.AttachTo(ports);
        ports.Out(Thr, 0xFF);
        Assert.Equal([(byte)0xFF], _sent);
        ports.Out(Lcr, 0x00);
        uart.Reset();
        Assert.Equal(0x03, ports.In(Lcr));
    }

    [Fact]
    public void Table_IV_priorities_line_status_then_data_then_THRE_then_modem()
    {
        _ports.Out(Ier, 0x0F);
        _uart.EnqueueBreak();
        _uart.SetModemLines(UartModemLines.None);
        Assert.Equal(0x06, _ports.In(Iir));
        Assert.Equal(0x79, _ports.In(Lsr)); // TEMT, THRE, BI, FE, DR
        Assert.Equal(0x04, _ports.In(Iir));
        Assert.Equal(0, _ports.In(Rbr));
        Assert.Equal(0x02, _ports.In(Iir));
        Assert.Equal(0x00, _ports.In(Iir));
        Assert.Equal(0x0B, _ports.In(Msr));
        Assert.Equal(0x01, _ports.In(Iir));
        Assert.False(_irq.Asserted);
    }

    [Fact]
    public void Section_8_5_FCR_without_bit_0_programs_nothing_else()
    {
        _ports.Out(Fcr, 0xC0);
        Assert.Equal(0x01, _ports.In(Iir));
        _ports.Out(Fcr, 0xC1);
        Assert.Equal(0xC1, _ports.In(Iir));
    }

    [Theory]
    [InlineData(0x01, 1)]
    [InlineData(0x41, 4)]
    [InlineData(0x81, 8)]
    [InlineData(0xC1, 14)]
    public void Section_8_5_trigger_levels(int fcr, int level)
    {
        _ports.Out(Fcr, fcr);
        _ports.Out(Ier, 0x01);
        for (int n = 1; n < level; n++) _uart.Enqueue([(byte)n]);
        Assert.False(_irq.Asserted);
        _uart.Enqueue([(byte)level]);
        Assert.True(_irq.Asserted);
        Assert.Equal(0xC4, _ports.In(Iir));
        _ports.In(Rbr);
        Assert.False(_irq.Asserted); // "cleared as soon as the FIFO drops below its programmed trigger level"
    }

    [Theory]
    [InlineData(1)]
    [InlineData(12)]
    public void Section_8_11_character_timeout_after_four_character_times(int divisor)
    {
        SetUp(divisor);
        _ports.Out(Fcr, 0x81);
        _ports.Out(Ier, 0x01);
        _uart.Enqueue("ab"u8);
        _time.Advance(4 * CharacterAt115200 * divisor - 1000);
        Assert.Equal(0xC1, _ports.In(Iir));
        _time.Advance(2000 + divisor * 100);
        Assert.True(_irq.Asserted);
        Assert.Equal(0xCC, _ports.In(Iir));
        Assert.Equal((byte)'a', _ports.In(Rbr));
        Assert.Equal(0xC1, _ports.In(Iir)); // cleared, and the timer starts again
        _time.Advance(4 * CharacterAt115200 * divisor + 1000);
        Assert.Equal(0xCC, _ports.In(Iir));
        Assert.Equal((byte)'b', _ports.In(Rbr));
        _time.Advance(1_000_000_000);
        Assert.Equal(0xC1, _ports.In(Iir));
    }

    [Fact]
    public void Section_8_11_each_received_character_restarts_the_timeout()
    {
        _ports.Out(Fcr, 0x81);
        _ports.Out(Ier, 0x01);
        for (int n = 0; n < 6; n++)
        {
            _uart.Enqueue([1]);
            _time.Advance(3 * CharacterAt115200);
            Assert.False(_irq.Asserted);
        }
        _time.Advance(2 * CharacterAt115200);
        Assert.True(_irq.Asserted);
    }

    [Fact]
    public void Input_waits_for_room_and_is_never_lost()
    {
        byte[] input = [.. Enumerable.Range(0, 500).Select(n => (byte)n)]; // in one burst
        _ports.Out(Fcr, 0x01);
        _uart.Enqueue(input);
        Assert.Equal(500 - 16, _uart.QueuedInput);
        List<byte> read = [];
        while ((_ports.In(Lsr) & 1) != 0) read.Add(_ports.In(Rbr));
        Assert.Equal(input, read);
        Assert.Equal(0, _uart.QueuedInput);
    }

    [Fact]
    public void A_driver_that_reads_until_the_receiver_is_empty_comes_to_an_end_and_gets_an_edge_for_the_rest()
    {
        byte[] input = new byte[200_000];
        new Random(1).NextBytes(input);
        _ports.Out(Fcr, 0x01);
        _ports.Out(Ier, 0x01);
        _uart.Enqueue(input);
        List<byte> read = [];
        while (read.Count < input.Length)
        {
            Assert.True(_irq.Asserted);
            int before = read.Count;
            while ((_ports.In(Lsr) & 1) != 0) read.Add(_ports.In(Rbr));
            Assert.InRange(read.Count - before, 1, 65_536); // what Linux's buffer between driver and terminal holds
            Assert.False(_irq.Asserted);
            _time.Advance(1_000_000);
        }
        Assert.Equal(input, read);
    }

    [Fact]
    public void Input_waits_while_the_guest_holds_RTS_inactive()
    {
        _ports.Out(Mcr, 0);
        _uart.Enqueue("x"u8);
        Assert.Equal(0x60, _ports.In(Lsr));
        _ports.Out(Mcr, DtrRtsOut2);
        Assert.Equal(0x61, _ports.In(Lsr));
    }

    [Fact]
    public void Section_8_8_loopback_connects_modem_outputs_to_inputs()
    {
        _ports.In(Msr);
        // Linux's probe: OUT2 and RTS must appear as DCD and CTS.
        _ports.Out(Mcr, Loop | 0x0A);
        Assert.Equal(0x90, _ports.In(Msr) & 0xF0);
        _ports.Out(Mcr, Loop | 0x05);
        Assert.Equal(0x60, _ports.In(Msr) & 0xF0);
        // RI fell: TERI; it rose before: nothing.
        _ports.In(Msr);
        _ports.Out(Mcr, Loop | 0x01);
        Assert.Equal(0x24, _ports.In(Msr));
        _ports.Out(Mcr, Loop | 0x05);
        Assert.Equal(0x60, _ports.In(Msr));
    }

    [Fact]
    public void Section_8_8_loopback_returns_characters_and_sends_nothing()
    {
        _ports.Out(Mcr, Loop | DtrRtsOut2);
        _ports.Out(Thr, 0x5A);
        Assert.Equal(0x61, _ports.In(Lsr));
        Assert.Equal(0x5A, _ports.In(Rbr));
        Assert.Empty(_sent);
    }

    [Fact]
    public void Section_8_4_overrun_overwrites_the_receiver_buffer()
    {
        _ports.Out(Mcr, Loop);
        _ports.Out(Thr, 1);
        _ports.Out(Thr, 2);
        Assert.Equal(0x63, _ports.In(Lsr));
        Assert.Equal(0x61, _ports.In(Lsr)); // reading clears OE
        Assert.Equal(2, _ports.In(Rbr));
    }

    [Fact]
    public void Section_8_4_overrun_keeps_the_full_FIFO_and_loses_the_new_character()
    {
        _ports.Out(Fcr, 0x01);
        _ports.Out(Mcr, Loop);
        for (int n = 0; n < 17; n++) _ports.Out(Thr, n);
        Assert.Equal(0x63, _ports.In(Lsr));
        for (int n = 0; n < 16; n++) Assert.Equal(n, _ports.In(Rbr));
        Assert.Equal(0x60, _ports.In(Lsr));
    }

    [Fact]
    public void Section_8_4_errors_show_with_their_character_at_the_top_of_the_FIFO()
    {
        _ports.Out(Fcr, 0x01);
        _uart.Enqueue("a"u8);
        _uart.EnqueueBreak();
        Assert.Equal(0xE1, _ports.In(Lsr)); // an error somewhere in the FIFO
        _ports.In(Rbr);
        Assert.Equal(0xF9, _ports.In(Lsr)); // now BI and FE
        Assert.Equal(0x61, _ports.In(Lsr));
    }

    [Fact]
    public void Section_8_5_changing_modes_and_bit_1_clear_the_receiver()
    {
        _ports.Out(Mcr, Loop);
        _ports.Out(Thr, 1);
        _ports.Out(Fcr, 0x01);
        Assert.Equal(0x60, _ports.In(Lsr));
        _ports.Out(Thr, 1);
        _ports.Out(Fcr, 0x03);
        Assert.Equal(0x60, _ports.In(Lsr));
        _ports.Out(Thr, 1);
        _ports.Out(Fcr, 0x00);
        Assert.Equal(0x60, _ports.In(Lsr));
    }

    [Fact]
    public void OUT2_gates_the_interrupt_and_the_loopback_forces_it_inactive()
    {
        _ports.Out(Mcr, 0x03);
        _ports.Out(Ier, 0x02);
        Assert.False(_irq.Asserted);
        _ports.Out(Mcr, DtrRtsOut2);
        Assert.True(_irq.Asserted);
        _ports.Out(Mcr, DtrRtsOut2 | Loop);
        Assert.False(_irq.Asserted);
    }

    [Fact]
    public void Section_8_1_set_break_reaches_the_receiver_through_the_loopback()
    {
        _ports.Out(Mcr, Loop);
        _ports.Out(Lcr, 0x43);
        Assert.Equal(0x79, _ports.In(Lsr));
        _ports.Out(Thr, 'x');
        Assert.Equal(0x61, _ports.In(Lsr)); // no character gets out of a line that is held
    }

    [Fact]
    public void Section_8_9_MSR_deltas_follow_the_lines_and_reading_clears_them()
    {
        Assert.Equal(0xB0, _ports.In(Msr));
        _uart.SetModemLines(UartModemLines.Dcd | UartModemLines.Ri);
        Assert.Equal(0xC3, _ports.In(Msr));
        _uart.SetModemLines(UartModemLines.Dcd);
        Assert.Equal(0x84, _ports.In(Msr));
        Assert.Equal(0x80, _ports.In(Msr));
    }
}
