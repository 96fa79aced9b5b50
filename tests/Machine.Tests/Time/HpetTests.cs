using Bunraku.Hypervisor;
using Bunraku.Machine.Timers;

namespace Bunraku.Machine.Tests.Time;

/// <summary>IA-PC HPET (High Precision Event Timers) Specification, revision 1.0a. Names say the section.</summary>
public sealed class HpetTests
{
    private const ulong Capabilities = 0x000, Configuration = 0x010, Status = 0x020, Counter = 0x0F0;
    private const ulong Level = 2, Enable = 4, Periodic = 8, ValueSet = 0x40, Force32 = 0x100, Fsb = 1 << 14;

    private readonly TestTime _time = new();
    private readonly TestLine _irq0 = new(), _irq8 = new(), _input20 = new(), _input21 = new();
    private readonly List<(ulong, uint)> _messages = [];
    private readonly Hpet _hpet;
    private bool _replaced;

    public HpetTests()
    {
        var routes = new IInterruptLine?[24];
        (routes[20], routes[21]) = (_input20, _input21);
        _hpet = new Hpet(_time, routes, [_irq0, _irq8], replace => _replaced = replace, (address, data) => _messages.Add((address, data)));
    }

    private ulong Read(ulong offset, int size = 8) => _hpet.ReadMmio(offset, size);
    private void Write(ulong offset, ulong value, int size = 8) => _hpet.WriteMmio(offset, size, value);
    private static ulong Timer(int n, ulong register = 0) => 0x100 + (ulong)n * 0x20 + register;
    private void Start() => Write(Configuration, 1);
    private static ulong Route(ulong input) => input << 9;

    [Fact]
    public void Section_2_3_4_general_capabilities()
    {
        ulong value = Read(Capabilities);
        Assert.Equal(10_000_000u, (uint)(value >> 32)); // femtoseconds
        Assert.Equal((1u, 2u, true, true), ((uint)value & 0xFF, (uint)value >> 8 & 0x1F, (value & 1 << 13) != 0, (value & 1 << 15) != 0));
        Assert.Equal((uint)value, (uint)Read(Capabilities, 4));
        Assert.Equal(value >> 32, Read(Capabilities + 4, 4));
        Write(Capabilities, ulong.MaxValue);
        Assert.Equal(value, Read(Capabilities));
    }

    [Fact]
    public void Section_2_3_7_the_main_counter_runs_while_enabled_and_keeps_its_value_while_not()
    {
        _time.Advance(1000);
        Assert.Equal(0ul, Read(Counter));
        Write(Counter, 0xFFFF_FFF0);
        Start();
        _time.Advance(1000);
        Assert.Equal(0xFFFF_FFF0ul + 100, Read(Counter));
        Assert.Equal(1ul, Read(Counter + 4, 4));
        Write(Configuration, 0);
        _time.Advance(1000);
        Assert.Equal(0xFFFF_FFF0ul + 100, Read(Counter));
    }

    [Fact]
    public void Section_2_3_8_a_route_that_is_not_supported_does_not_stick()
    {
        Assert.Equal(3ul << 20, Read(Timer(0)) >> 32);
        Write(Timer(0), Route(20));
        Assert.Equal(20ul, Read(Timer(0)) >> 9 & 0x1F);
        Write(Timer(0), Route(3));
        Assert.Equal(20ul, Read(Timer(0)) >> 9 & 0x1F);
        Write(Timer(1), Periodic); // only timer 0 is capable
        Assert.Equal(0ul, Read(Timer(1)) & (Periodic | 0x10));
        Assert.Equal(0x10ul, Read(Timer(0)) & 0x10);
    }

    [Fact]
    public void Section_2_3_9_2_1_non_periodic_mode_interrupts_once()
    {
        Write(Timer(1), Enable | Route(21));
        Write(Timer(1, 8), 100);
        Start();
        _time.Advance(999);
        Assert.Equal(0, _input21.Edges);
        _time.Advance(1);
        Assert.Equal(1, _input21.Edges);
        _time.Advance(1_000_000_000_000);
        Assert.Equal(1, _input21.Edges);
        Assert.Equal(100ul, Read(Timer(1, 8)));
    }

    [Fact]
    public void Section_2_3_9_2_1_in_32_bit_mode_it_interrupts_again_when_the_counter_comes_round()
    {
        Write(Timer(1), Enable | Route(21) | Force32);
        Write(Timer(1, 8), 100);
        Start();
        _time.Advance(1000);
        Assert.Equal(1, _input21.Edges);
        _time.Advance((1L << 32) * 10);
        Assert.Equal(2, _input21.Edges);
    }

    [Fact]
    public void Section_2_3_9_2_2_periodic_mode_adds_the_last_value_written_to_the_comparator()
    {
        Write(Timer(0), Enable | Periodic | ValueSet | Route(20));
        Write(Timer(0, 8), 500); // accumulator, with VAL_SET, which clears itself
        Assert.Equal(0ul, Read(Timer(0)) & ValueSet);
        Write(Timer(0, 8), 10_000); // period
        Start();
        _time.Advance(5000);
        Assert.Equal(1, _input20.Edges);
        Assert.Equal(10_500ul, Read(Timer(0, 8)));
        _time.Advance(100_000 * 9);
        Assert.Equal(10, _input20.Edges);
        Assert.Equal(100_500ul, Read(Timer(0, 8)));
    }

    [Fact]
    public void Periodic_edges_that_the_host_delivers_late_are_worked_off_none_twice()
    {
        Write(Timer(0), Enable | Periodic | ValueSet | Route(20));
        Write(Timer(0, 8), 100_000); // 1 ms
        Start();
        _time.Stall(100_400_000);
        _time.Advance(99_600_000);
        Assert.Equal(200, _input20.Edges);
        // No more than a second is made good.
        _time.Stall(10_000_000_000);
        _time.Advance(2_000_000_000);
        Assert.InRange(_input20.Edges, 200 + 2990, 200 + 3010);
    }

    [Fact]
    public void Section_2_3_6_the_status_bit_of_a_level_triggered_timer_stands_until_it_is_cleared()
    {
        Write(Timer(2), Enable | Level | Route(20));
        Write(Timer(2, 8), 10);
        Start();
        _time.Advance(100);
        Assert.True(_input20.Asserted);
        Assert.Equal(4ul, Read(Status));
        Write(Status, 3);
        Assert.True(_input20.Asserted);
        Write(Status, 4);
        Assert.False(_input20.Asserted);
        Assert.Equal(0ul, Read(Status));
    }

    [Fact]
    public void Section_2_3_5_legacy_replacement_takes_IRQ_0_and_IRQ_8()
    {
        Write(Timer(0), Enable | Route(20));
        Write(Timer(0, 8), 10);
        Write(Timer(1), Enable | Route(21));
        Write(Timer(1, 8), 20);
        Write(Configuration, 3);
        Assert.True(_replaced);
        _time.Advance(200);
        Assert.Equal((1, 1, 0, 0), (_irq0.Edges, _irq8.Edges, _input20.Edges, _input21.Edges));
        Write(Configuration, 0);
        Assert.False(_replaced);
        Assert.False(_irq0.Asserted || _irq8.Asserted);
    }

    [Fact]
    public void Section_2_5_3_FSB_interrupts_are_writes_of_the_route_register()
    {
        Write(Timer(2), Enable | Fsb);
        Write(Timer(2, 0x10), 0xFEE0_1000_0000_0042);
        Write(Timer(2, 8), 10);
        Start();
        _time.Advance(100);
        Assert.Equal([(0xFEE0_1000ul, 0x42u)], _messages);
    }

    [Fact]
    public void Without_INT_ENB_the_comparator_of_a_periodic_timer_moves_on_in_silence()
    {
        Write(Timer(0), Periodic | ValueSet);
        Write(Timer(0, 8), 100);
        Start();
        _time.Advance(10_500);
        Assert.Equal(0, _input20.Edges + _irq0.Edges);
        Assert.Equal(1100ul, Read(Timer(0, 8)));
    }

    /// <summary>Whatever a guest writes where, nothing is thrown, and time goes on in few steps. The seed is fixed.</summary>
    [Fact]
    public void Wild_accesses()
    {
        Random random = new(7);
        for (int n = 0; n < 200_000; n++)
        {
            int size = 1 << random.Next(4);
            ulong offset = random.Next(3) == 0 ? (ulong)random.Next(0x400) : (ulong)random.Next(0x30) * 8;
            offset &= ~((ulong)size - 1);
            ulong value =
                random.Next(5) switch
                {
                    0 => (ulong)random.NextInt64(long.MinValue, long.MaxValue),
                    1 => ulong.MaxValue,
                    2 => (ulong)random.Next(64),
                    3 => (ulong)random.Next(1 << 16),
                    _ => 0
                };
            if (random.Next(3) == 0) Read(offset, size);
            else Write(offset, value, size);
            if (random.Next(4) == 0) _time.Advance(random.NextInt64(2_000_000));
            if (random.Next(1000) == 0) _time.Stall(random.NextInt64(3_000_000_000));
        }
    }
}
