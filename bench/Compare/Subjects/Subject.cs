using System.Diagnostics;

namespace Bunraku.Compare;

/// <summary>Something that runs the workloads: this host itself, or a monitor.</summary>
/// <param name="name">As on the command line and in the JSON.</param>
/// <param name="title">As in the table.</param>
internal abstract class Subject(string name, string title)
{
    public string Name => name;

    public string Title => title;

    /// <summary>Null when it can run here; else what is missing and the remedy.</summary>
    public virtual string? Missing(CancellationToken cancel) => null;

    /// <summary>Most rounds that anybody would wait for.</summary>
    public virtual int MaxRuns => int.MaxValue;

    /// <summary>How long one line may be awaited before the guest counts as hanging, and the first one after the start.</summary>
    public virtual TimeSpan Patience => TimeSpan.FromSeconds(60);

    /// <summary>False for this host, which has no kernel to be booted.</summary>
    public virtual bool Boots => true;

    /// <summary>Begins to run workloads and returns at once.</summary>
    /// <param name="workloads">In the program's order.</param>
    public abstract RunningSubject Start(BenchGuest guest, IReadOnlyList<Workload> workloads, int milliseconds, bool mitigations);

    /// <summary>Starts a guest that runs 'true' and powers off; null when this subject has no such measurement.</summary>
    public virtual ProcessStartInfo? StartTrue(BenchGuest guest, bool mitigations) => null;
}

/// <summary>One run of a subject.</summary>
/// <param name="process">Started; ended at the latest when this object is disposed.</param>
/// <param name="started">Timestamp before its start.</param>
/// <param name="console">Where the lines come from.</param>
internal class RunningSubject(Process process, long started, ConsoleLines console) : IDisposable
{
    public Process Process => process;

    /// <summary><see cref="Stopwatch.GetTimestamp"/> right before the start.</summary>
    public long Started => started;

    public ConsoleLines Console => console;

    /// <summary>The process that does the work; null when it cannot be found.</summary>
    public virtual int? MonitorId => process.Id;

    /// <summary>True for the boot loader's last line before it enters the kernel; monitors that enter it themselves have none.</summary>
    public virtual bool IsBootLoadersLastWord(string line) => false;

    /// <summary>
    /// Called at the end of the workloads, while the process still runs: what it holds in memory beyond the guest's, in bytes, or null when that cannot be seen
    /// from outside.
    /// </summary>
    public ulong? MonitorMemory(BenchGuest guest) => MonitorId is { } id ? ResidentMemory.BeyondGuest(id, guest) : null;

    /// <summary>Called when the process has ended: seconds from the start to the kernel's entry if the monitor tells, and its memory as above.</summary>
    public virtual (double? KernelEntry, ulong? Memory) Statistics() => (null, null);

    /// <summary>True when the process ends by itself behind the last line.</summary>
    public virtual bool EndsItself => true;

    public virtual void Dispose()
    {
        HostProgram.Kill(process);
        console.Dispose();
        process.Dispose();
    }
}
