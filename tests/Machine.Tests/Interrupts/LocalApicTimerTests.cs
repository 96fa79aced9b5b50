using static Bunraku.Machine.Tests.Interrupts.ApicFixture;

namespace Bunraku.Machine.Tests.Interrupts;

/// <summary>Intel SDM vol. 3A (325462-083), "APIC Timer" and "TSC-Deadline Mode".</summary>
public sealed class LocalApicTimerTests
{
    private const byte Vector = 0xEE;

    [Theory]
    [InlineData(0b0000u, 2)]
    [InlineData(0b0001u, 4)]
    [InlineData(0b0010u, 8)]
    [InlineData(0b0011u, 16)]
    [InlineData(0b1000u, 32)]
    [InlineData(0b1001u, 64)]
    [InlineData(0b1010u, 128)]
    [InlineData(0b1011u, 1)]
    public void DivideConfigurationRegister(uint configuration, int divisor)
    {
        var f = new ApicFixture();
        f.Write(LvtTimer, Vector);
        f.Write(Divide, configuration);
        f.Write(InitialCount, 1000);
        f.Time.Advance(999 * divisor);
        Assert.Equal(1u, f.Read(CurrentCount));
        Assert.False(f.Apic().InterruptPending);
        f.Time.Advance(divisor);
        Assert.Equal(0u, f.Read(CurrentCount));
        Assert.Equal([Vector], f.TakeAll());
    }

    [Fact]
    public void OneShotModeStopsAtZero()
    {
        var f = Start(0, 1000);
        f.Time.Advance(10_000);
        Assert.Equal([Vector], f.TakeAll());
        Assert.Equal(0u, f.Read(CurrentCount));
        Assert.Equal(1000u, f.Read(InitialCount));
    }

    [Fact]
    public void PeriodicModeReloadsWithoutDrift()
    {
        var f = Start(Periodic, 100_000);
        for (int n = 0; n < 5; n++)
        {
            f.Time.Advance(100_000);
            Assert.Equal([Vector], f.TakeAll());
        }
        f.Time.Stall(330_000); // a busy host
        Assert.Equal(70_000u, f.Read(CurrentCount)); // the missed reload is seen at once
        Assert.Equal([Vector], f.TakeAll());
        f.Time.Advance(69_999);
        Assert.False(f.Apic().InterruptPending);
        f.Time.Advance(1);
        Assert.True(f.Apic().InterruptPending);
    }

    [Fact]
    public void WritingZeroToTheInitialCountStopsTheTimer()
    {
        var f = Start(Periodic, 1000);
        f.Write(InitialCount, 0);
        f.Time.Advance(1_000_000);
        Assert.False(f.Apic().InterruptPending);
        Assert.Equal(0u, f.Read(CurrentCount));
    }

    [Fact]
    public void MaskedTimerCountsWithoutInterrupt()
    {
        var f = Start(Masked, 1000);
        f.Time.Advance(400);
        Assert.Equal(600u, f.Read(CurrentCount));
        f.Time.Advance(600);
        Assert.False(f.Apic().InterruptPending);
    }

    [Fact]
    public void ModeChangesBetweenOneShotAndPeriodicKeepTheCount()
    {
        var f = Start(0, 100_000);
        f.Time.Advance(60_000);
        f.Write(LvtTimer, Vector | Periodic);
        Assert.Equal(100_000u, f.Read(InitialCount));
        Assert.Equal(40_000u, f.Read(CurrentCount));
        f.Time.Advance(50_000);
        Assert.Equal(90_000u, f.Read(CurrentCount)); // wrapped around
        f.Write(LvtTimer, Vector);
        Assert.Equal(90_000u, f.Read(CurrentCount));
        f.Time.Advance(100_000);
        Assert.Equal(0u, f.Read(CurrentCount));
        f.Write(LvtTimer, Vector | Periodic);
        f.Time.Advance(100_000);
        Assert.Equal(0u, f.Read(CurrentCount)); // it stays there until the initial count is written
    }

    [Fact]
    public void DivisorChangeKeepsTheCount()
    {
        var f = Start(0, 1000);
        f.Time.Advance(400);
        f.Write(Divide, 0b0000); // by 2
        Assert.Equal(600u, f.Read(CurrentCount));
        f.Time.Advance(1198);
        Assert.Equal(1u, f.Read(CurrentCount));
        f.Time.Advance(2);
        Assert.Equal([Vector], f.TakeAll());
    }

    [Fact]
    public void TimerInterruptWakesTheVcpu()
    {
        var f = Start(0, 1000);
        f.Time.Advance(1000);
        Assert.Equal(1, f.Wakes[0]);
    }

    [Fact]
    public void TscDeadlineModeFiresAtTheDeadlineAndClearsIt()
    {
        var f = new ApicFixture { TscOffset = 5_000_000 };
        f.Write(LvtTimer, Vector | TscDeadlineMode);
        ulong deadline = 5_000_000 + 1000;
        f.WriteMsr(TscDeadlineMsr, deadline);
        Assert.Equal(deadline, f.ReadMsr(TscDeadlineMsr));
        f.Time.Advance(999);
        Assert.False(f.Apic().InterruptPending);
        f.Time.Advance(1);
        Assert.Equal([Vector], f.TakeAll());
        Assert.Equal(0ul, f.ReadMsr(TscDeadlineMsr));
        f.Time.Advance(1_000_000);
        Assert.False(f.Apic().InterruptPending);
    }

    [Fact]
    public void TscDeadlineInThePastFiresAtOnce()
    {
        var f = new ApicFixture();
        f.Time.Advance(1000);
        f.Write(LvtTimer, Vector | TscDeadlineMode);
        f.WriteMsr(TscDeadlineMsr, 1000);
        Assert.Equal([Vector], f.TakeAll());
        Assert.Equal(0ul, f.ReadMsr(TscDeadlineMsr));
    }

    [Theory]
    [InlineData(0ul)] // disarmed
    [InlineData(ulong.MaxValue)]
    public void TscDeadlineThatNeverComes(ulong deadline)
    {
        var f = new ApicFixture();
        f.Write(LvtTimer, Vector | TscDeadlineMode);
        f.WriteMsr(TscDeadlineMsr, 1000);
        f.WriteMsr(TscDeadlineMsr, deadline);
        f.Time.Advance(1_000_000_000_000);
        Assert.False(f.Apic().InterruptPending);
    }

    [Fact]
    public void TransitionsToAndFromTscDeadlineModeDisarm()
    {
        var f = Start(Periodic, 1000);
        f.Write(LvtTimer, Vector | TscDeadlineMode);
        f.Write(InitialCount, 500); // ignored in this mode
        Assert.Equal(0u, f.Read(CurrentCount));
        f.Time.Advance(10_000);
        Assert.False(f.Apic().InterruptPending);
        f.WriteMsr(TscDeadlineMsr, 20_000);
        f.Write(LvtTimer, Vector);
        Assert.Equal(0ul, f.ReadMsr(TscDeadlineMsr));
        f.WriteMsr(TscDeadlineMsr, 20_000); // ignored outside of it
        Assert.Equal(0ul, f.ReadMsr(TscDeadlineMsr));
        f.Time.Advance(100_000);
        Assert.False(f.Apic().InterruptPending);
    }

    private static ApicFixture Start(uint mode, uint count)
    {
        var f = new ApicFixture();
        f.Write(LvtTimer, Vector | mode);
        f.Write(Divide, DivideBy1);
        f.Write(InitialCount, count);
        return f;
    }
}
