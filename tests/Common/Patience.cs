using System.Diagnostics;
using Bunraku.Hypervisor;

namespace Bunraku.Testing;

/// <summary>
/// How long a test waits for a guest that may have lost its way: wall time without what the host's scheduler kept its threads waiting. A guest is not late because the host
/// is busy.
/// </summary>
internal sealed class Patience
{
    private const int PollMilliseconds = 20;

    private readonly long _start = Stopwatch.GetTimestamp();
    private readonly TimeSpan _limit;
    private readonly Func<long> _withheld;
    private readonly long _withheldBefore;

    /// <param name="withheld">Nanoseconds that the threads in question were ready to run and did not, so far.</param>
    public Patience(TimeSpan limit, Func<long> withheld)
    {
        (_limit, _withheld) = (limit, withheld);
        _withheldBefore = withheld();
    }

    public Patience(TimeSpan limit, VirtualMachine vm) : this(limit, () => vm.Cpus.Sum(c => c.HostTime.Wait))
    {
    }

    public bool IsOver => Stopwatch.GetElapsedTime(_start) - TimeSpan.FromMicroseconds((_withheld() - _withheldBefore) / 1000) > _limit;

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
