using System.Diagnostics;
using Bunraku.Processor.X86;

namespace Bunraku.Processor.Tests;

/// <summary>For which programs direct execution pays: what docs/direct.md promises about what it may cost, and that whoever gains gets it.</summary>
public sealed class DirectPolicyTests
{
    private const ulong Root = 0x1000, Thread = 0x7000;
    private static readonly TimeSpan s_stretch = TimeSpan.FromMilliseconds(1);

    private sealed class Clock : TimeProvider
    {
        public TimeSpan Now;
        public override long GetTimestamp() => (long)(Now.TotalSeconds * Stopwatch.Frequency);
    }

    private readonly Clock _clock = new();
    private readonly DirectPolicy _policy;
    private TimeSpan _paid;
    private uint _returns;

    public DirectPolicyTests() => _policy = new DirectPolicy(always: false, _clock);

    /// <summary>One stretch of translated code, from a return of the kernel to a fault, and entries before it as long as the policy allows them.</summary>
    /// <param name="gains">What an entry computes; zero: it was for nothing.</param>
    /// <returns>The thread was entered.</returns>
    private bool Stretch(TimeSpan gains, bool calls = false)
    {
        var cost = TimeSpan.FromMicroseconds(400);
        bool entered = false;
        for (bool may = _policy.IsWorthTrying(Root, Thread, _returns); may; may = _policy.MayGoOn)
        {
            entered = true;
            _clock.Now += cost + gains;
            _paid += cost;
            long inside = (long)gains.TotalNanoseconds + _policy.SwitchCost;
            _policy.Count((long)(cost + gains).TotalNanoseconds, inside);
            if (gains > TimeSpan.Zero) return true; // by a fault, which the kernel sees to
        }
        _policy.Note();
        _clock.Now += s_stretch;
        if (calls) _returns++;
        _policy.Leaves(Root, Thread, _returns);
        return entered;
    }

    private void Run(double seconds, bool calls = false)
    {
        for (TimeSpan end = _clock.Now + TimeSpan.FromSeconds(seconds); _clock.Now < end;) Stretch(TimeSpan.Zero, calls);
    }

    [Fact]
    public void A_new_thread_has_to_compute_for_10_ms()
    {
        int stretches = 0;
        while (!Stretch(TimeSpan.Zero)) stretches++;
        Assert.InRange(stretches, 10, 12);
    }

    [Fact]
    public void Who_gains_goes_on_for_ever()
    {
        Run(0.02);
        var gains = TimeSpan.FromMilliseconds(1);
        int entered = 0;
        for (int n = 0; n < 1000; n++) entered += Stretch(gains) ? 1 : 0;
        Assert.InRange(entered, 980, 1000);
    }

    [Theory]
    [InlineData(60)]
    [InlineData(600)]
    public void Who_computes_and_never_gains_loses_200_ms_and_a_little_of_its_time(double seconds)
    {
        Run(seconds);
        Assert.InRange(_paid.TotalSeconds, 0.2, 0.22 + 0.025 * seconds);
    }

    [Fact]
    public void Who_calls_the_kernel_all_the_time_loses_half_a_percent()
    {
        Run(60, calls: true);
        Assert.InRange(_paid.TotalSeconds, 0, 0.0051 * 60 + 0.01);
    }

    /// <summary>While a thread computes and is not entered nothing is used up, however long that is.</summary>
    [Fact]
    public void What_nobody_spends_is_not_lost()
    {
        for (int n = 0; n < 10_000; n++)
        {
            _policy.IsWorthTrying(Root, Thread, _returns);
            _clock.Now += s_stretch;
            _policy.Leaves(Root, Thread, _returns);
        }
        Run(1);
        Assert.InRange(_paid.TotalSeconds, 0.15, 0.25);
    }

    /// <summary>A program may change its ways: what could not gain gets half of its credit again within some seconds, at once.</summary>
    [Fact]
    public void Who_has_lost_its_credit_is_tried_again()
    {
        Run(1);
        TimeSpan lost = _paid, end = _clock.Now + TimeSpan.FromSeconds(10);
        while (_paid - lost < TimeSpan.FromMilliseconds(60) && _clock.Now < end) Stretch(TimeSpan.Zero);
        TimeSpan first = _clock.Now;
        Assert.True(first < end, "nothing more was tried");
        int entered = 0;
        for (int n = 0; n < 1000; n++) entered += Stretch(s_stretch) ? 1 : 0;
        Assert.InRange(entered, 950, 1000);
    }
}
