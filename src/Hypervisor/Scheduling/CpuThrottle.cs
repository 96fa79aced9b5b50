using Bunraku.Platform;

namespace Bunraku.Hypervisor.Scheduling;

/// <summary>
/// Limits the processor time of all vCPUs of a VM together, without the host's help: in each period they run until the budget is used up, and then stand still
/// to its end. What a period overdraws, the next ones lack, so that the average is exact.
/// </summary>
internal sealed class CpuThrottle : IDisposable
{
    private const long Period = 20_000_000, ShortestSleep = 50_000; // ns

    private readonly object _gate = new();
    private readonly Func<IReadOnlyList<CpuThread>> _cpus;
    private readonly long _budget;
    private readonly Alarm _alarm = new();
    private readonly Thread _thread;
    private volatile bool _held, _stop;

    /// <param name="cap">Percent of one processor.</param>
    public CpuThrottle(double cap, Func<IReadOnlyList<CpuThread>> cpus)
    {
        _cpus = cpus;
        _budget = Math.Max(1, (long)(Period * cap / 100));
        _thread = new Thread(Run) { Name = "cpu cap", IsBackground = true };
    }

    /// <summary>The vCPUs begin to run.</summary>
    public void Start() => _thread.Start();

    private long Used()
    {
        long used = 0;
        foreach (CpuThread cpu in _cpus())
            if (cpu.HostThread != 0) used += HostScheduling.ProcessorTime(cpu.HostThread) + cpu.Cpu.HelperTime.Run;
        return used;
    }

    private void Run()
    {
        Alarm.MakePunctual();
        long start = HostCounter.MonotonicNanoseconds, left = 0, before = Used();
        while (!_stop)
        {
            left = Math.Min(left, 0) + _budget; // what was not used is gone, what was overdrawn is owed
            if (left > 0) Release();
            for (long now; !_stop && (now = HostCounter.MonotonicNanoseconds) < start + Period;)
            {
                long used = Used();
                left -= used - before;
                before = used;
                if (left <= 0) Hold();
                long rest = start + Period - now;
                _alarm.Sleep(_held ? rest : Math.Min(rest, Math.Max(ShortestSleep, left / Math.Max(1, _cpus().Count))));
            }
            start = Math.Max(start + Period, HostCounter.MonotonicNanoseconds - Period);
        }
        Release();
    }

    public bool IsHeld => _held;

    private void Hold()
    {
        if (_held) return;
        _held = true;
        foreach (CpuThread cpu in _cpus()) cpu.Cpu.Kick();
    }

    private void Release()
    {
        lock (_gate)
        {
            _held = false;
            Monitor.PulseAll(_gate);
        }
    }

    /// <summary>Waits while the vCPUs stand still; returns for how many nanoseconds. On a vCPU's thread, with no lock held.</summary>
    /// <param name="giveUp">Something else wants the vCPU's thread.</param>
    public long Wait(Func<bool> giveUp)
    {
        if (!_held) return 0;
        long start = HostCounter.MonotonicNanoseconds;
        lock (_gate)
        {
            while (_held && !giveUp()) Monitor.Wait(_gate, 5);
        }
        return HostCounter.MonotonicNanoseconds - start;
    }

    public void Dispose()
    {
        _stop = true;
        _alarm.Ring();
        if (_thread.IsAlive) _thread.Join();
        _alarm.Dispose();
    }
}
