using System.Diagnostics;
using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Hypervisor;

/// <summary>What vCPUs' threads spent their time with, estimated from samples.</summary>
/// <param name="Samples">Of all vCPUs together; a share has about its square root as error.</param>
/// <param name="Milliseconds">Wall time of all vCPUs together by kind, the longest first, kinds that were met only.</param>
public sealed record WorkTimes(long Samples, IReadOnlyList<KeyValuePair<CpuWork, double>> Milliseconds)
{
    /// <summary>All kinds together.</summary>
    public double Total => Milliseconds.Sum(m => m.Value);
}

/// <summary>
/// Looks about a thousand times a second what each vCPU's thread does. Who is looked at pays a store to memory where it begins with something else, so only
/// this thread costs anything. The distances are random, since a guest's timer would otherwise always be met in the same place.
/// </summary>
public sealed class WorkSampler : IDisposable
{
    private const int MeanNanoseconds = 1_000_000;
    private static readonly int s_kinds = Enum.GetValues<CpuWork>().Length;

    private readonly IReadOnlyList<CpuThread> _cpus;
    private readonly Func<bool> _isPaused;
    private readonly Alarm _alarm = new();
    private readonly Thread _thread;
    private readonly long[] _nanoseconds = new long[s_kinds]; // written by the thread alone
    private long _samples;
    private volatile bool _ending;

    private WorkSampler(IReadOnlyList<CpuThread> cpus, Func<bool> isPaused)
    {
        (_cpus, _isPaused) = (cpus, isPaused);
        _thread = new Thread(Run) { Name = "samples", IsBackground = true };
        _thread.Start();
    }

    /// <summary>Begins to take samples, until disposal.</summary>
    /// <param name="vm">Outlives the sampler.</param>
    /// <param name="isPaused">The VM stands still: what its vCPUs do does not count. Any thread.</param>
    /// <returns>Null when the engine does not say what its vCPUs do.</returns>
    public static WorkSampler? Begin(VirtualMachine vm, Func<bool> isPaused) => vm.Cpus.Any(c => c.Cpu.Work is not null) ? new(vm.Cpus, isPaused) : null;

    /// <summary>What was found so far. Any thread, also after disposal.</summary>
    public WorkTimes Times => new(Interlocked.Read(ref _samples),
        [.. Enumerable.Range(0, s_kinds).Select(n => KeyValuePair.Create((CpuWork)n, Interlocked.Read(ref _nanoseconds[n]) / 1e6)).Where(p => p.Value > 0)
            .OrderByDescending(p => p.Value)]);

    private void Run()
    {
        ulong random = 0x9E37_79B9_7F4A_7C15;
        long last = Stopwatch.GetTimestamp();
        while (!_ending)
        {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            _alarm.Sleep(MeanNanoseconds / 2 + (long)(random % MeanNanoseconds));
            long now = Stopwatch.GetTimestamp(), passed = (now - last) * (1_000_000_000 / Stopwatch.Frequency);
            last = now;
            if (_isPaused()) continue;
            foreach (CpuThread cpu in _cpus)
            {
                if (cpu.HasEnded || cpu.Cpu.Work is not { } work) continue;
                if (work == CpuWork.Outside && cpu.Activity != CpuActivity.Active) work = CpuWork.Idle;
                Interlocked.Add(ref _nanoseconds[(int)work], passed);
                Interlocked.Increment(ref _samples);
            }
        }
    }

    /// <summary>Takes no more samples. Before the machine is disposed of.</summary>
    public void Dispose()
    {
        if (_ending) return;
        _ending = true;
        _alarm.Ring();
        _thread.Join();
        _alarm.Dispose();
    }
}
