using System.Diagnostics;
using Bunraku.Hypervisor;

namespace Bunraku.Testing;

/// <summary>
/// How long a test waits for a guest that may have lost its way: wall time without what the host's scheduler kept its threads waiting. A guest is not late
/// because the host is busy.
/// </summary>
internal sealed class Patience
{
    private const int PollMilliseconds = 20;

    private readonly long _start = Stopwatch.GetTimestamp();
    private readonly TimeSpan _limit;
    private readonly (Func<long> Waited, long Before)[] _threads;

    /// <param name="limit">What a guest may need on a host of its own.</param>
    /// <param name="waited">For each thread in question, how many nanoseconds it was ready to run and did not, so far.</param>
    public Patience(TimeSpan limit, params IEnumerable<Func<long>> waited)
    {
        _limit = limit;
        _threads = [.. waited.Select(w => (w, w()))];
    }

    public Patience(TimeSpan limit, VirtualMachine vm) : this(limit, vm.Cpus.Select<CpuThread, Func<long>>(c => () => c.HostTime.Wait))
    {
    }

    public bool IsOver => Stopwatch.GetElapsedTime(_start) - Withheld > _limit;

    /// <summary>
    /// Threads wait at the same time: the longest wait is what the host took, and the sum would make a guest of many processors that hangs look patient.
    /// </summary>
    private TimeSpan Withheld => TimeSpan.FromMicroseconds(_threads.Max(t => t.Waited() - t.Before) / 1000);

    /// <summary>Waits until it is so. False: patience is over.</summary>
    public bool Await(Func<bool> condition)
    {
        while (!condition())
        {
            if (IsOver) return false;
            Thread.Sleep(1);
        }
        return true;
    }

    /// <summary>Waits for the end of a task. False: patience is over.</summary>
    public bool Await(Task task)
    {
        while (!task.Wait(PollMilliseconds))
            if (IsOver) return false;
        return true;
    }
}
