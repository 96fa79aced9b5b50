using System.ComponentModel;
using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Hypervisor.Scheduling;

/// <summary>
/// Gives a VM's threads the part of the host that <see cref="CpuTimeOptions"/> asks for, and refuses before the start what the host does not give.
/// </summary>
internal sealed class CpuTimeControl : IDisposable
{
    /// <summary>SCHED_FIFO priorities: a vCPU that computes must not keep its own timers waiting.</summary>
    private const int CpuPriority = 1, TimerPriority = 2;

    private readonly CpuTimeOptions _options;
    private readonly CpuCgroup? _cgroup;
    private readonly CpuThrottle? _throttle;

    /// <param name="cpus">The vCPUs, which may still be to come.</param>
    /// <exception cref="CpuTimeException">The host refuses.</exception>
    public CpuTimeControl(CpuTimeOptions options, GuestMemory memory, Func<IReadOnlyList<CpuThread>> cpus)
    {
        _options = options;
        CheckPins(options.Pins);
        if (options.Realtime) PrepareRealtime(memory);
        if (options.Cap is null && options.Weight is null) return;
        _cgroup = CpuCgroup.TryCreate(options);
        if (_cgroup is not null) return;
        if (options.Weight is not null)
            TryOnThread(SetWeight, "--cpu-weight",
                "there is no cgroup with a CPU controller that this process may change, and a weight above 100 then needs CAP_SYS_NICE");
        if (options.Cap is { } cap) _throttle = new CpuThrottle(cap, cpus);
    }

    public bool Realtime => _options.Realtime;

    private static void CheckPins(IReadOnlyList<int> pins)
    {
        if (pins.Count == 0) return;
        IReadOnlyList<int> allowed = HostScheduling.AllowedProcessors;
        foreach (int pin in pins)
        {
            if (!allowed.Contains(pin)) throw new CpuTimeException($"--pin {pin}: this process may run on the processors {string.Join(",", allowed)} only");
        }
    }

    private static void PrepareRealtime(GuestMemory memory)
    {
        TryOnThread(() => HostScheduling.UseFifo(TimerPriority), "--realtime",
            "the host does not allow SCHED_FIFO; it needs CAP_SYS_NICE or a limit on real-time priority (ulimit -r) of at least 2");
        try
        {
            HostScheduling.LockMemory();
            HostScheduling.Populate(memory.Backing);
        }
        catch (Win32Exception e)
        {
            throw new CpuTimeException($"--realtime: the host does not let this process lock its memory ({e.Message}); "
                + "it needs CAP_IPC_LOCK or a limit on locked memory (ulimit -l) of the guest's size and more", e);
        }
    }

    /// <summary>Tries on a thread that ends afterwards, so that nothing of it stays.</summary>
    private static void TryOnThread(Action action, string option, string remedy)
    {
        Win32Exception? problem = null;
        var thread = new Thread(() =>
        {
            try
            {
                action();
            }
            catch (Win32Exception e)
            {
                problem = e;
            }
        });
        thread.Start();
        thread.Join();
        if (problem is not null) throw new CpuTimeException($"{option}: {remedy} ({problem.Message})", problem);
    }

    /// <summary>Without cgroups: the nice value whose weight in the host's scheduler, a quarter more for each step, comes next.</summary>
    private void SetWeight() =>
        HostScheduling.SetNice(Math.Clamp((int)Math.Round(-Math.Log((double)_options.Weight! / CpuTimeOptions.DefaultWeight, 1.25)), -20, 19));

    /// <summary>The VM starts.</summary>
    public void Start() => _throttle?.Start();

    /// <summary>A vCPU's thread begins. On that thread.</summary>
    public void BeginCpu(CpuThread cpu)
    {
        if (_options.Pins.Count > 0) HostScheduling.Pin(_options.Pins[cpu.Cpu.Index % _options.Pins.Count]);
        if (_options.Realtime) HostScheduling.UseFifo(CpuPriority);
        if (_cgroup is not null) _cgroup.Add(HostScheduling.CurrentThread);
        else if (_options.Weight is not null) SetWeight();
    }

    /// <summary>The thread of the timers begins. On that thread.</summary>
    public void BeginTimers()
    {
        if (_options.Realtime) HostScheduling.UseFifo(TimerPriority);
    }

    /// <summary>The vCPUs' time is used up.</summary>
    public bool MustWait => _throttle is { IsHeld: true };

    /// <summary>Holds a vCPU back whose time is used up; returns nanoseconds withheld.</summary>
    public long Wait(Func<bool> giveUp) => _throttle?.Wait(giveUp) ?? 0;

    /// <summary>The vCPUs' threads have ended.</summary>
    public void Dispose()
    {
        _throttle?.Dispose();
        _cgroup?.Dispose();
    }
}
