using Bunraku.Engines;
using Bunraku.Machine.Interrupts;
using Bunraku.Platform;

namespace Bunraku.Machine.Tests.Time;

/// <summary>The VM's clock on a host whose counter and monotonic clock the test moves.</summary>
public sealed class VirtualClockTests
{
    /// <summary>A counter of a certain rate that was measured with an error.</summary>
    private sealed class FakeCounter(double frequency, double measured) : HostCounter
    {
        private const ulong First = 0xFFF0_0000_0000_0000; // uptime makes no difference, nor does a wrap
        private double _ticks;

        public double Nanoseconds { get; private set; }
        public double Frequency { get; set; } = frequency;

        public void Advance(double nanoseconds)
        {
            Nanoseconds += nanoseconds;
            _ticks += nanoseconds * Frequency / 1e9;
        }

        public override bool IsTimeStampCounter => true;
        public override ulong Read() => First + (ulong)_ticks;
        public override CounterSample Sample() => new(Read(), (long)Nanoseconds);
        public override double MeasureFrequency() => measured;
    }

    private const double Second = 1e9;

    [Theory]
    [InlineData(1_000_000_000ul)]
    [InlineData(2_600_000_000ul)]
    [InlineData(999_999_937ul)]
    [InlineData(1_000_000ul)]
    [InlineData(100_000_000_000ul)]
    public void The_TSC_counts_from_zero_at_its_frequency_and_nanoseconds_agree(ulong frequency)
    {
        var counter = new FakeCounter(2.5e9, 2.5e9);
        var clock = new VirtualClock(counter, frequency);
        Assert.InRange(clock.Counter, 0ul, 2ul * (frequency / 1_000_000_000 + 1));
        for (int n = 0; n < 50; n++)
        {
            counter.Advance(7 * Second / 3);
            Assert.InRange(clock.Counter / (double)frequency, counter.Nanoseconds / 1e9 - 1.1e-6, counter.Nanoseconds / 1e9 + 1e-6);
            Assert.InRange(clock.Nanoseconds - clock.Counter * (1e9 / frequency), -2, 1);
        }
    }

    [Fact]
    public unsafe void The_published_scale_gives_the_same_TSC_as_the_clock()
    {
        var counter = new FakeCounter(2.5e9, 2.5e9);
        var clock = new VirtualClock(counter, 1_000_000_000);
        void Check()
        {
            counter.Advance(1234567);
            Assert.Equal(clock.Counter, (ulong)((UInt128)counter.Read() * clock.Scale->Multiplier >> CounterScale.Shift) + clock.Scale->Offset);
        }
        Check();
        clock.Stop();
        counter.Advance(Second);
        clock.Start();
        Check();
        counter.Frequency *= 1 + 20e-6;
        counter.Advance(10 * Second);
        clock.Correct(clock.Measure(TimeSpan.FromSeconds(1))!.Value);
        Check();
    }

    [Fact]
    public void Stop_and_Start_leave_no_gap_and_no_step()
    {
        var counter = new FakeCounter(3e9, 3e9);
        var clock = new VirtualClock(counter, 2_000_000_000);
        counter.Advance(Second);
        clock.Stop();
        clock.Stop();
        ulong stopped = clock.Counter;
        counter.Advance(1000 * Second);
        Assert.Equal(stopped, clock.Counter);
        clock.Start();
        clock.Start();
        Assert.InRange(clock.Counter - stopped, 0ul, 3ul);
        counter.Advance(Second);
        Assert.InRange(clock.Nanoseconds, 1_999_999_990, 2_000_000_010);
    }

    [Fact]
    public void BehindHost_is_constant_while_time_runs_and_grows_while_it_stands()
    {
        var counter = new FakeCounter(1e9, 1.00001e9);
        var clock = new VirtualClock(counter, 0);
        long behind = clock.BehindHost;
        counter.Advance(100 * Second);
        Assert.Equal(behind, clock.BehindHost);
    }

    /// <summary>
    /// Five parts in a million of error in the first measurement, then looks as <c>ClockDiscipline</c> takes them: ten minutes later time is right to a
    /// microsecond.
    /// </summary>
    [Theory]
    [InlineData(5e-6)]
    [InlineData(-5e-6)]
    [InlineData(200e-6)]
    public void Corrections_bring_time_back_to_the_hosts_clock_and_never_back(double error)
    {
        var counter = new FakeCounter(2.6e9, 2.6e9 * (1 + error));
        var clock = new VirtualClock(counter, 0);
        ulong last = 0;
        int look = 0;
        for (double next = 1, now = 0; now < 600; now += 0.25)
        {
            counter.Advance(0.25 * Second);
            Assert.InRange(clock.Counter, last + 1, ulong.MaxValue);
            last = clock.Counter;
            if (now < next) continue;
            double span = ++look < 3 ? 5 * look : 60;
            next = now + span;
            if (clock.Measure(TimeSpan.FromSeconds(span)) is { } correction)
            {
                clock.Correct(correction);
                Assert.InRange(clock.Counter - last, 0ul, 10ul);
            }
        }
        Assert.InRange(clock.Nanoseconds - counter.Nanoseconds, -3000, 3000);
    }

    [Fact]
    public void A_counter_that_leaps_is_not_followed()
    {
        var counter = new FakeCounter(2.6e9, 2.6e9);
        var clock = new VirtualClock(counter, 0);
        counter.Advance(10 * Second);
        counter.Frequency *= 1.1;
        counter.Advance(10 * Second);
        Assert.Null(clock.Measure(TimeSpan.FromSeconds(60)));
    }

    [Theory]
    [InlineData(999_999ul)]
    [InlineData(100_000_000_001ul)]
    public void Frequencies_beyond_all_processors_are_refused(ulong frequency) =>
        Assert.Throws<ArgumentOutOfRangeException>(() => new VirtualClock(new FakeCounter(1e9, 1e9), frequency));

    [Fact]
    public void The_hosts_own_counter_keeps_up_with_its_monotonic_clock()
    {
        var clock = new VirtualClock();
        long behind = clock.BehindHost, last = 0;
        for (int n = 0; n < 200_000; n++)
        {
            long before = HostCounter.MonotonicNanoseconds, now = clock.Nanoseconds;
            Assert.True(now >= last, $"{now} after {last}");
            last = now;
            // A millisecond: rates are right to parts in a million, but this thread may be interrupted.
            Assert.InRange(now + behind, before - 1_000_000, long.MaxValue);
        }
        Assert.InRange(clock.Nanoseconds + behind, 0, HostCounter.MonotonicNanoseconds + 1_000_000);
    }

    [Theory]
    [InlineData(1_000_000_000ul)]
    [InlineData(2_596_120_000ul)]
    [InlineData(2_600_000_000ul)]
    [InlineData(24_000_000ul)]
    [InlineData(3_187_204_000ul)]
    [InlineData(4_294_000_000ul)]
    public void Cpuid_15h_16h_and_40000010h_tell_the_frequency(ulong frequency)
    {
        var model = new CpuModel("m", "GenuineIntel", 6, 1, 1, "M", new HashSet<CpuFeature> { CpuFeature.Hypervisor });
        var subject = new CpuidSubject(model, 0, 1, frequency);
        CpuidResult crystal = CpuidLeaves.Query(subject, 0x15, 0);
        // As Linux multiplies (native_calibrate_tsc): kHz, in 32 bits.
        uint kilohertz = unchecked(crystal.Ecx / 1000 * crystal.Ebx / crystal.Eax);
        Assert.InRange(kilohertz, frequency / 1000.0 * (1 - 1e-6) - 1, frequency / 1000.0 * (1 + 1e-6) + 1);
        Assert.InRange((double)crystal.Ecx * crystal.Ebx / crystal.Eax / frequency, 1 - 2e-7, 1 + 2e-7);
        Assert.Equal(LocalApic.TimerFrequency, crystal.Ecx); // Linux takes the APIC timer to run at the crystal's
        Assert.Equal((uint)(frequency / 1_000_000), CpuidLeaves.Query(subject, 0x16, 0).Eax);
        CpuidResult timing = CpuidLeaves.Query(subject, 0x4000_0010, 0);
        Assert.Equal(((uint)(frequency / 1000), 1_000_000u), (timing.Eax, timing.Ebx));
    }
}
