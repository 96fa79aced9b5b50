using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics.X86;

namespace Bunraku.Platform;

/// <summary>A counter and the host's monotonic clock, read at the same moment.</summary>
/// <param name="Counter">Ticks of a <see cref="HostCounter"/>.</param>
/// <param name="Nanoseconds">CLOCK_MONOTONIC.</param>
public readonly record struct CounterSample(ulong Counter, long Nanoseconds);

/// <summary>A counter of the host that runs at a constant rate, alike on all its processors, and never goes back. Immutable and thread-safe.</summary>
public abstract class HostCounter
{
    /// <summary>The processor's time stamp counter where it can be relied on, else the monotonic clock itself.</summary>
    public static HostCounter Best { get; } = (HostCounter?)TimeStampCounter.TryCreate() ?? new MonotonicCounter();

    /// <summary>True when <see cref="Read"/> is what RDTSC returns.</summary>
    public abstract bool IsTimeStampCounter { get; }

    /// <summary>Ticks. Not reordered with loads that stand before it in the program.</summary>
    public abstract ulong Read();

    /// <summary>The counter against the monotonic clock, to some ten nanoseconds.</summary>
    public abstract CounterSample Sample();

    /// <summary>
    /// Hz, measured against the monotonic clock to a few parts in a million; more exactly the longer the process has existed. May wait for 10 ms.
    /// </summary>
    public abstract double MeasureFrequency();

    /// <summary>The host's CLOCK_MONOTONIC in nanoseconds.</summary>
    public static long MonotonicNanoseconds =>
        Stopwatch.Frequency == 1_000_000_000 ? Stopwatch.GetTimestamp()
            : (long)WideMath.MultiplyDivide((ulong)Stopwatch.GetTimestamp(), 1_000_000_000, (ulong)Stopwatch.Frequency);

    private sealed class MonotonicCounter : HostCounter
    {
        public override bool IsTimeStampCounter => false;

        public override ulong Read() => (ulong)MonotonicNanoseconds;

        public override CounterSample Sample()
        {
            long now = MonotonicNanoseconds;
            return new((ulong)now, now);
        }

        public override double MeasureFrequency() => 1e9;
    }
}

/// <summary>RDTSC on the host.</summary>
internal sealed unsafe class TimeStampCounter : HostCounter
{
    private const uint ExtendedLeaves = 0x8000_0000, AdvancedPowerManagement = 0x8000_0007;
    private const int InvariantTsc = 1 << 8; // EDX
    /// <summary>Between two samples that are each right to some 30 ns: 5 parts in a million at most.</summary>
    private const long ShortestBase = 12_000_000;

    // The stub lives as long as the process.
    private readonly ExecutableMemory _code;
    private readonly delegate* unmanaged[SuppressGCTransition]<ulong> _read;
    private readonly CounterSample _first;

    private TimeStampCounter()
    {
        _code = new ExecutableMemory(64);
        // lfence; rdtsc; shl rdx, 32; or rax, rdx; ret
        _read = (delegate* unmanaged[SuppressGCTransition]<ulong>)_code.Append([0x0F, 0xAE, 0xE8, 0x0F, 0x31, 0x48, 0xC1, 0xE2, 0x20, 0x48, 0x09, 0xD0, 0xC3]);
        _first = Sample();
    }

    /// <summary>Null where the counter's rate depends on power states, or where the host's kernel does not trust it.</summary>
    public static TimeStampCounter? TryCreate()
    {
        if (RuntimeInformation.ProcessArchitecture != Architecture.X64 || !X86Base.IsSupported) return null;
        if ((uint)X86Base.CpuId(unchecked((int)ExtendedLeaves), 0).Eax < AdvancedPowerManagement) return null;
        if ((X86Base.CpuId(unchecked((int)AdvancedPowerManagement), 0).Edx & InvariantTsc) == 0 || !KernelTrustsIt()) return null;
        try
        {
            return new TimeStampCounter();
        }
        catch (System.ComponentModel.Win32Exception)
        {
            return null; // no executable memory: whoever needs it will say so
        }
    }

    /// <summary>The kernel watches the counter and falls back to another clock when processors disagree.</summary>
    private static bool KernelTrustsIt()
    {
        try
        {
            string source = File.ReadAllText("/sys/devices/system/clocksource/clocksource0/current_clocksource").Trim();
            return source is "tsc" or "kvm-clock" or "hyperv_clocksource_tsc_page";
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return true; // nobody says otherwise
        }
    }

    public override bool IsTimeStampCounter => true;

    public override ulong Read() => _read();

    public override CounterSample Sample()
    {
        CounterSample best = default;
        ulong width = ulong.MaxValue;
        // The narrowest of several tries: any of them may be interrupted.
        for (int n = 0; n < 16; n++)
        {
            ulong before = _read();
            long now = MonotonicNanoseconds;
            ulong after = _read();
            if (after - before >= width) continue;
            width = after - before;
            best = new(before + width / 2, now);
        }
        return best;
    }

    public override double MeasureFrequency()
    {
        CounterSample now;
        while ((now = Sample()).Nanoseconds - _first.Nanoseconds < ShortestBase) Thread.Sleep(1);
        return (now.Counter - _first.Counter) * 1e9 / (now.Nanoseconds - _first.Nanoseconds);
    }
}
