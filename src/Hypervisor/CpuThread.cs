using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Hypervisor;

/// <summary>What the run loop does after an exit.</summary>
public enum ExitAction
{
    /// <summary>It enters the guest again.</summary>
    Continue,
    /// <summary>It ends: the VM has been stopped.</summary>
    Stop,
}

/// <summary>
/// One vCPU's run loop on its own host thread: take what waits for it, enter, handle the exit, again. The loop itself handles the exits that every architecture
/// has. A derived class is the architecture's part: events, and exits of the kind <see cref="ExitKind.Architectural"/>.
/// </summary>
public abstract class CpuThread : IDisposable
{
    private const long PollNanoseconds = 200_000;

    private readonly VirtualMachine _vm;
    private readonly object _wakeLock = new();
    private readonly Thread _thread;
    private bool _woken, _paused, _started;
    private volatile bool _stop, _pauseWanted, _held;
    /// <summary>
    /// The interrupt source may have something to take, or to be told to the engine. Set behind each change of its state, by any thread; cleared by the vCPU's
    /// thread before it looks, so that nothing is lost and no lock is needed to see that there is nothing.
    /// </summary>
    private volatile bool _eventsMayWait = true;
    private ThreadAccounting? _accounting;
    private long _withheld; // ns
    private volatile bool _ended;
    private (long Run, long Wait) _lastHostTime; // when it had ended

    /// <summary>The thread begins with the start of the machine.</summary>
    /// <param name="vm">The machine, which it is still to be added to.</param>
    /// <param name="cpu">The engine's vCPU; the thread disposes of it.</param>
    protected CpuThread(VirtualMachine vm, IVirtualCpu cpu)
    {
        _vm = vm;
        Cpu = cpu;
        LocalMmio = new MmioBus(vm.InterruptLock);
        _thread = new Thread(Run, 16 << 20) { Name = $"vcpu{cpu.Index}", IsBackground = true };
    }

    /// <summary>The engine's vCPU. Only this thread uses it while the VM runs; anybody while it is paused or before it started.</summary>
    public IVirtualCpu Cpu { get; }

    /// <summary>What the vCPU does; from other threads approximate while it runs.</summary>
    public CpuActivity Activity => Cpu.Activity;

    /// <summary>Its exits by reason.</summary>
    public ExitCounters Exits { get; } = new();

    /// <summary>
    /// What this vCPU alone finds in guest-physical address space, in front of <see cref="VirtualMachine.Mmio"/>: its own interrupt controller.
    /// </summary>
    public MmioBus LocalMmio { get; }

    /// <summary>
    /// What the host's scheduler gave this thread, and the processes that run guest code for it, and what it withheld, in ns since its start. Any thread.
    /// </summary>
    public (long Run, long Wait) HostTime
    {
        get
        {
            if (_ended) return _lastHostTime;
            (long run, long wait) = _accounting?.Read() ?? default;
            (long helperRun, long helperWait) = Cpu.HelperTime;
            return (run + helperRun, Math.Max(wait + helperWait, 0));
        }
    }

    /// <summary>Nanoseconds since its start in which the vCPU wanted to run and could not. On its thread, or while it stands still.</summary>
    public long StolenNanoseconds => _stolenAtPause ?? Withheld;

    // Of what is measured a part is estimated and taken off (IVirtualCpu.HelperTime): it must not run backwards for that.
    private long Withheld => _mostWithheld = Math.Max(_mostWithheld, HostTime.Wait + WithheldNanoseconds - _notStolen);
    private long _mostWithheld;
    private long? _stolenAtPause; // while it is paused
    private long _notStolen; // what it waited for the host's processors while it was paused: nobody wanted to run then

    /// <summary>Nanoseconds that a limit on processor time held the vCPU back, beyond what the host's scheduler knows of. Any thread.</summary>
    public long WithheldNanoseconds => Volatile.Read(ref _withheld);

    /// <summary>It runs no more. Any thread.</summary>
    public bool HasEnded => _ended;

    /// <summary>The host's number of the thread; 0 before it runs. Any thread.</summary>
    public int HostThread { get; private set; }

    internal void Start()
    {
        _started = true;
        _thread.Start();
    }

    /// <summary>Something may wait for the vCPU that its own exit has caused. On the vCPU's thread; from others <see cref="Wake"/>.</summary>
    public void LookForEvents() => _eventsMayWait = true;

    /// <summary>Something is pending for this vCPU. Any thread; no wake-up is lost.</summary>
    public void Wake()
    {
        _eventsMayWait = true;
        // What an exit of its own has caused, the vCPU sees before it enters again or sleeps.
        if (Thread.CurrentThread == _thread) return;
        lock (_wakeLock)
        {
            _woken = true;
            Monitor.PulseAll(_wakeLock);
        }
        Cpu.Kick();
    }

    internal void RequestStop()
    {
        _stop = true;
        Wake();
    }

    /// <summary>The vCPU is to stand still: what it waits for outside of guest code can wait. Any thread.</summary>
    public bool IsAwaited => _pauseWanted || _held || _vm.ResetPending;

    /// <summary>
    /// Returns when the thread uses its vCPU no more, until <see cref="Resume"/>; a thread that is to end ends first. Not on the vCPU's thread.
    /// </summary>
    internal void Pause()
    {
        lock (_wakeLock)
        {
            _pauseWanted = true;
            Monitor.PulseAll(_wakeLock);
        }
        Cpu.Kick();
        lock (_wakeLock)
        {
            while (_started && !_paused && _thread.IsAlive) Monitor.Wait(_wakeLock, 100);
        }
        _stolenAtPause ??= Withheld;
    }

    internal void Resume()
    {
        _eventsMayWait = true; // what was restored meanwhile, for example
        if (_stolenAtPause is { } stolen)
        {
            _notStolen += Withheld - stolen;
            _mostWithheld = stolen;
        }
        _stolenAtPause = null;
        lock (_wakeLock)
        {
            _pauseWanted = false;
            Monitor.PulseAll(_wakeLock);
        }
    }

    /// <summary>
    /// A debugger keeps the vCPU out of the guest until <see cref="Release"/>, whether the machine is paused or not. Takes effect when the vCPU next leaves the
    /// guest: who has to know that it has pauses the machine. Any thread.
    /// </summary>
    public void Hold() => _held = true;

    /// <summary>The debugger lets the vCPU run, once the machine is not paused either. Any thread.</summary>
    public void Release()
    {
        lock (_wakeLock)
        {
            _held = false;
            Monitor.PulseAll(_wakeLock);
        }
    }

    private void Run()
    {
        try
        {
            _accounting = ThreadAccounting.OfCurrentThread();
            Alarm.MakePunctual(); // a vCPU that waits for another one sleeps for moments
            _vm.CpuTime?.BeginCpu(this);
            HostThread = HostScheduling.CurrentThread;
            while (!_stop)
            {
                if (IsAwaited)
                {
                    WaitWhilePaused();
                    continue; // what ended the wait may be the end: who paused has the vCPU then
                }
                if (_eventsMayWait)
                {
                    _eventsMayWait = false;
                    if (!TakeEvents()) return;
                    if (_vm.ResetPending) continue;
                }
                if (Cpu.Activity != CpuActivity.Active)
                {
                    // Only now: what was pending before the halt wakes nobody any more.
                    Leave();
                    WaitForEvent();
                    continue;
                }
                if (_vm.CpuTime?.MustWait == true)
                {
                    Leave();
                    long waited = HostTime.Wait;
                    long held = _vm.CpuTime.Wait(() => _pauseWanted || _stop);
                    _withheld += Math.Max(0, held - (HostTime.Wait - waited)); // what the scheduler counts is counted there
                    continue;
                }
                VmExit exit = Enter();
                Exits.Count(exit.ReasonNumber);
                ExitAction action = Handle(exit);
                Observe(exit);
                if (action == ExitAction.Stop) return;
            }
        }
        catch (Exception e)
        {
            // A defect of ours must end this VM with a message, never the process or a silent hang.
            _vm.Stop(new StopCause(StopReason.EngineError, Message: e.ToString(), Cpu: Cpu.Index));
        }
        finally
        {
            _lastHostTime = HostTime;
            _ended = true;
            lock (_wakeLock)
            {
                _paused = true;
                Monitor.PulseAll(_wakeLock);
            }
        }
    }

    private void WaitWhilePaused()
    {
        lock (_wakeLock)
        {
            while (IsAwaited && !_stop)
            {
                _paused = true;
                Monitor.PulseAll(_wakeLock);
                Monitor.Wait(_wakeLock);
            }
            _paused = false;
        }
    }

    private void WaitForEvent()
    {
        if (_vm.CpuTime is { Realtime: true } && MayPoll) PollForEvent();
        lock (_wakeLock)
        {
            while (!_woken && !_stop && !_pauseWanted) Monitor.Wait(_wakeLock);
            _woken = false;
        }
    }

    /// <summary>Waits actively for a short while: waking up takes the host longer than the events of a busy guest are apart.</summary>
    private void PollForEvent()
    {
        long end = HostCounter.MonotonicNanoseconds + PollNanoseconds;
        while (!Volatile.Read(ref _woken) && !_stop && !_pauseWanted && HostCounter.MonotonicNanoseconds < end) Thread.SpinWait(4);
    }

    // ---- exits

    /// <summary>
    /// Handles an exit: what every architecture has here, the rest by <see cref="HandleArchitectural"/>. The buses hold a device's lock while it works. On the
    /// vCPU's thread, or by who holds the vCPU.
    /// </summary>
    /// <param name="exit">A read gets its value there.</param>
    public ExitAction Handle(VmExit exit)
    {
        switch (exit.Kind)
        {
            case ExitKind.Architectural:
                return HandleArchitectural(exit);

            case ExitKind.Access:
                if (exit.IsWrite ? LocalMmio.TryWrite(exit.Address, exit.Size, exit.Data) : LocalMmio.TryRead(exit.Address, exit.Size, out exit.Data))
                    LookForEvents();
                else if (exit.IsWrite) _vm.Mmio.Write(exit.Address, exit.Size, exit.Data);
                else exit.Data = _vm.Mmio.Read(exit.Address, exit.Size);
                return ExitAction.Continue;

            case ExitKind.Kicked:
                return ExitAction.Continue;

            case ExitKind.Halt:
                LookForEvents(); // the vCPU itself remembers that it waits, but it may have been told to go on before
                _vm.DebugStop?.Invoke(this, exit);
                return ExitAction.Continue;

            case ExitKind.Debug when _vm.DebugStop is { } stop:
                stop(this, exit);
                return ExitAction.Continue;

            case ExitKind.Refused when _vm.Allows(this, exit):
                return ExitAction.Continue;

            case ExitKind.Refused:
                return End(new StopCause(StopReason.EngineError, Cpu: Cpu.Index,
                    Message: $"nobody answers for the guest's access ({exit.Violation.Wanted}) to page {exit.Address & ~(GuestMemory.PageSize - 1):X}, "
                        + "whose rights were taken away: set VirtualMachine.PageViolation"));

            case ExitKind.Shutdown:
                return HandleShutdown(exit);

            case ExitKind.InternalError:
                return End(new StopCause(StopReason.EngineError, Message: exit.Message, Cpu: Cpu.Index));

            default:
                return End(new StopCause(StopReason.EngineError, Message: $"no handler for an exit of the kind {exit.Kind}", Cpu: Cpu.Index));
        }
    }

    private ExitAction End(StopCause cause)
    {
        _vm.Stop(cause);
        return ExitAction.Stop;
    }

    // ---- the architecture's part, on the vCPU's thread or by who holds the vCPU

    /// <summary>
    /// Takes what waits for the vCPU: wakes it, starts it, gives it what it can take now, and asks to be told when it can take the rest. Called when something
    /// may wait, which is said by
    /// <see cref="Wake"/> and <see cref="LookForEvents"/>; what stays is asked for again by <see cref="LookForEvents"/>.
    /// </summary>
    /// <returns>False when the VM comes to its end.</returns>
    protected internal abstract bool TakeEvents();

    /// <summary>Handles an exit of the kind <see cref="ExitKind.Architectural"/>.</summary>
    /// <param name="exit">The architecture's own.</param>
    protected abstract ExitAction HandleArchitectural(VmExit exit);

    /// <summary>The processor is in shutdown: the VM ends, unless the guest wished for it.</summary>
    /// <param name="exit">Of the kind <see cref="ExitKind.Shutdown"/>.</param>
    protected virtual ExitAction HandleShutdown(VmExit exit) => End(new StopCause(StopReason.Shutdown, Cpu: Cpu.Index));

    /// <summary>Runs the guest until the next exit.</summary>
    private VmExit Enter()
    {
        BeforeEntry();
        VmExit exit = Cpu.Enter();
        AfterExit();
        return exit;
    }

    /// <summary>What is done before each entry.</summary>
    protected internal virtual void BeforeEntry()
    {
    }

    /// <summary>What is done after each exit, before anything is done about it.</summary>
    protected internal virtual void AfterExit()
    {
    }

    /// <summary>The vCPU does not run for a while.</summary>
    protected virtual void Leave()
    {
    }

    /// <summary>Asks for no exit at the next chance to take an event: <see cref="SteppedRun"/> looks for what waits by itself.</summary>
    protected internal virtual void CloseWindows()
    {
    }

    /// <summary>The guest lets the host poll before it sleeps.</summary>
    protected virtual bool MayPoll => true;

    /// <summary>An exit was handled: what a read returned is in it, too. For who listens (tracing).</summary>
    /// <param name="exit">Valid until the next entry.</param>
    protected virtual void Observe(VmExit exit)
    {
    }

    /// <summary>RESET of the machine.</summary>
    protected internal virtual void Reset()
    {
        Cpu.Reset();
        LookForEvents();
    }

    /// <summary>
    /// What the run loop does before an entry, for <see cref="SteppedRun"/>: no window is asked for, since it would open anywhere. True when the vCPU executes
    /// instructions now.
    /// </summary>
    internal bool TakeEventsBetweenSteps()
    {
        _eventsMayWait = false;
        if (!TakeEvents()) return false;
        CloseWindows();
        return Cpu.Activity == CpuActivity.Active;
    }

    internal void Join()
    {
        if (_started && Thread.CurrentThread != _thread) _thread.Join();
    }

    /// <summary>Ends the thread and disposes of the vCPU. The machine does it.</summary>
    public void Dispose()
    {
        RequestStop();
        Join();
        _accounting?.Dispose();
        Cpu.Dispose();
        GC.SuppressFinalize(this);
    }
}
