using System.Diagnostics;

namespace Bunraku.Platform;

/// <summary>
/// Keeps the calling thread and a process that it waits for on one processor of the host, for moments: where each wakes the other on a processor that
/// sleeps, taking turns costs several times as much. After each lease the host may put both elsewhere. What the host refuses is left as it is. For one thread.
/// </summary>
/// <param name="leased">Those that others hold: two of a VM's threads on one processor would wait for each other.</param>
public sealed unsafe class ProcessorLease(LeasedProcessors leased)
{
    private const int MaskBytes = HostScheduling.MaskBytes;
    private static readonly long s_length = Stopwatch.Frequency / 20; // 50 ms: how long another processor may be idle for nothing

    private readonly byte[] _mask = new byte[MaskBytes]; // of the thread, as it was
    private int _processor = -1; // -1: not held
    private long _end;

    /// <summary>Before the thread lets the process run and waits for it.</summary>
    /// <param name="placed">Where the process was put the last time; -1 at first.</param>
    public void Hold(TracedProcess process, ref int placed)
    {
        long now = Stopwatch.GetTimestamp();
        if (_processor >= 0 && now > _end) LetGo(); // the host decides now; where it wakes the thread the next lease begins
        else if (_processor < 0) Begin(now);
        if (placed == _processor) return;
        placed = _processor;
        if (placed >= 0) _ = HostScheduling.PinThread(process.Id, placed);
        else
        {
            fixed (byte* mask = _mask) _ = Libc.SchedSetAffinity(process.Id, MaskBytes, mask);
        }
    }

    private void Begin(long now)
    {
        int here = Libc.SchedGetCpu();
        if (here < 0 || here >= MaskBytes * 8 || !leased.TryTake(here)) return;
        fixed (byte* mask = _mask)
        {
            new Span<byte>(mask, MaskBytes).Clear();
            if (Libc.SchedGetAffinity(0, MaskBytes, mask) < 0 || HostScheduling.PinThread(0, here) != 0)
            {
                leased.GiveBack(here);
                return;
            }
        }
        (_processor, _end) = (here, now + s_length);
    }

    /// <summary>The thread may be put anywhere again, where it was allowed before. Before it sleeps for long.</summary>
    public void LetGo()
    {
        if (_processor < 0) return;
        byte* now = stackalloc byte[MaskBytes];
        new Span<byte>(now, MaskBytes).Clear();
        // Who has changed it meanwhile means it.
        bool isOurs = Libc.SchedGetAffinity(0, MaskBytes, now) >= 0 && HostScheduling.IsOnly(new ReadOnlySpan<byte>(now, MaskBytes), _processor);
        leased.GiveBack(_processor);
        _processor = -1;
        if (!isOurs) return;
        fixed (byte* mask = _mask) _ = Libc.SchedSetAffinity(0, MaskBytes, mask);
    }

    /// <summary>The thread is gone, or going. Any thread, after the last <see cref="Hold"/>.</summary>
    public void Abandon()
    {
        if (_processor >= 0) leased.GiveBack(_processor);
        _processor = -1;
    }
}

/// <summary>The processors of the host that leases of one VM hold. Any thread.</summary>
public sealed class LeasedProcessors
{
    private readonly HashSet<int> _taken = [];

    internal bool TryTake(int processor)
    {
        lock (_taken) return _taken.Add(processor);
    }

    internal void GiveBack(int processor)
    {
        lock (_taken) _taken.Remove(processor);
    }
}
