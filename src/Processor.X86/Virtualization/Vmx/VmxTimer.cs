using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Processor.X86;

/// <summary>
/// The VMX-preemption timer. It counts the TSC down in units of 2^<see cref="VmxCapabilities.PreemptionTimerShift"/>; what remains is a time of the clock. A
/// thread of the host asks for attention then. Guests are entered and left far more often than timers expire, so the thread is woken only for a time that lies
/// before the one it sleeps until.
/// </summary>
/// <remarks>Intel SDM vol. 3C, "VMX-Preemption Timer".</remarks>
internal sealed class VmxTimer(Processor p, Vmx vmx) : IDisposable
{
    private const ulong Never = ulong.MaxValue;

    private Alarm? _alarm;
    private Thread? _thread;
    private ulong _deadline = Never; // written by the vCPU's thread, read by both
    private ulong _sleepsUntil = Never; // written by the sleeping thread
    private volatile bool _ends;

    /// <summary>The timer runs and has reached zero.</summary>
    public bool IsDue => Runs && p.Clock.Counter >= _deadline;

    public bool Runs => _deadline != Never;

    /// <summary>The guest is entered.</summary>
    public void Start()
    {
        if (!vmx.Has(PinControls.PreemptionTimer)) return;
        ulong now = p.Clock.Counter, count = vmx.Current[VmcsField.PreemptionTimer];
        // The TSC's own bits below the unit are not the timer's.
        ulong deadline = ((now >> VmxCapabilities.PreemptionTimerShift) + count) << VmxCapabilities.PreemptionTimerShift;
        Restore(deadline);
    }

    /// <summary>When it reaches zero, in ticks of the clock; all ones: it does not run.</summary>
    public ulong Deadline => _deadline;

    /// <summary>Runs until a time of the clock, or does not.</summary>
    public void Restore(ulong deadline)
    {
        Volatile.Write(ref _deadline, deadline);
        if (deadline == Never || deadline <= p.Clock.Counter) return;
        if (_thread == null) BeginThread();
        Interlocked.MemoryBarrier();
        if (deadline < Volatile.Read(ref _sleepsUntil)) _alarm!.Ring();
    }

    /// <summary>What the timer would hold now.</summary>
    public ulong Remaining
    {
        get
        {
            ulong now = p.Clock.Counter >> VmxCapabilities.PreemptionTimerShift, end = _deadline >> VmxCapabilities.PreemptionTimerShift;
            return end > now ? end - now : 0;
        }
    }

    public void Stop() => Volatile.Write(ref _deadline, Never);

    private void BeginThread()
    {
        _alarm = new Alarm();
        _thread = new Thread(Wait) { IsBackground = true, Name = $"VMX timer {p.CpuIndex}" };
        _thread.Start();
    }

    private void Wait()
    {
        Alarm.MakePunctual();
        while (!_ends)
        {
            ulong deadline = Volatile.Read(ref _deadline);
            Volatile.Write(ref _sleepsUntil, deadline);
            Interlocked.MemoryBarrier();
            if (Volatile.Read(ref _deadline) != deadline) continue;
            ulong now = p.Clock.Counter;
            if (deadline != Never && deadline <= now)
            {
                p.Signal(Attention.Event);
                // Until the guest is entered anew there is nothing to wait for.
                Volatile.Write(ref _sleepsUntil, Never);
                Interlocked.MemoryBarrier();
                if (Volatile.Read(ref _deadline) == deadline) _alarm!.Sleep(1_000_000);
                continue;
            }
            const ulong longest = 1_000_000_000; // counters may be of any frequency, the sum below must not overflow
            long nanoseconds = deadline == Never ? -1 : (long)UInt128.Min(longest, (UInt128)(deadline - now) * 1_000_000_000 / p.Clock.CounterFrequency);
            _alarm!.Sleep(nanoseconds);
        }
    }

    public void Dispose()
    {
        if (_thread == null) return;
        _ends = true;
        _alarm!.Ring();
        _thread.Join();
        _alarm.Dispose();
    }
}
