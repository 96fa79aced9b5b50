using Bunraku.Engines;
using Bunraku.Hypervisor.Paravirtual;
using Bunraku.Platform;

namespace Bunraku.Hypervisor;

/// <summary>One vCPU's run loop on its own host thread: inject what is pending, enter, handle the exit, again.</summary>
public sealed class CpuThread : IInterruptAcknowledge, IDisposable
{
    private const long PollNanoseconds = 200_000;

    private readonly VirtualMachine _vm;
    private readonly object _wakeLock = new();
    private readonly Thread _thread;
    private bool _woken, _paused, _started;
    private volatile bool _stop, _pauseWanted;
    private bool _unhalted; // set by any thread
    /// <summary>
    /// The interrupt source may have something to take, or to be told to the engine. Set behind each change of its state, by any thread; cleared by the vCPU's thread before it
    /// looks, so that nothing is lost and no lock is needed to see that there is nothing.
    /// </summary>
    private volatile bool _eventsMayWait = true;
    private ThreadAccounting? _accounting;
    private long _withheld; // ns
    private volatile bool _ended;
    private (long Run, long Wait) _lastHostTime; // when it had ended

    internal CpuThread(VirtualMachine vm, IVirtualCpu cpu)
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

    public ExitCounters Exits { get; } = new();

    /// <summary>Where external interrupts and NMIs come from; set by the board before the start.</summary>
    public IInterruptSource? Interrupts { get; set; }

    /// <summary>What this vCPU alone finds in guest-physical address space, in front of <see cref="VirtualMachine.Mmio"/>: its local APIC.</summary>
    public MmioBus LocalMmio { get; }

    /// <summary>Called after each exit was handled, so that what a read returned is seen too (tracing). Set before the start.</summary>
    public Action<CpuThread, VmExit>? OnExit { get; set; }

    /// <summary>The paravirtual structures that the guest has set up for this vCPU; null where the VM offers none.</summary>
    internal ParavirtualCpu? Paravirtual { get; set; }

    /// <summary>What the host's scheduler gave this thread and what it withheld, in ns since its start. Any thread.</summary>
    public (long Run, long Wait) HostTime => _ended ? _lastHostTime : _accounting?.Read() ?? default;

    /// <summary>Nanoseconds that the vCPU wanted to run and could not.</summary>
    internal long StolenNanoseconds => _stolenAtPause ?? Withheld;

    private long Withheld => HostTime.Wait + WithheldNanoseconds - _notStolen;
    private long? _stolenAtPause; // while it is paused
    private long _notStolen; // what it waited for the host's processors while it was paused: nobody wanted to run then

    /// <summary>Nanoseconds that a limit on processor time held the vCPU back, beyond what the host's scheduler knows of. Any thread.</summary>
    public long WithheldNanoseconds => Volatile.Read(ref _withheld);

    /// <summary>The host's number of the thread; 0 before it runs. Any thread.</summary>
    public int HostThread { get; private set; }

    internal void Start()
    {
        _started = true;
        _thread.Start();
    }

    /// <summary>The vCPU's own exit may have changed what its interrupt source has for it. On the vCPU's thread.</summary>
    internal void LookForEvents() => _eventsMayWait = true;

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

    /// <summary>Ends HLT, or the next one, without an interrupt. Any thread.</summary>
    internal void Unhalt()
    {
        Volatile.Write(ref _unhalted, true);
        Wake();
    }

    /// <summary>The next HLT ends at once. While the vCPU stands still.</summary>
    internal bool UnhaltPending
    {
        get => Volatile.Read(ref _unhalted);
        set => Volatile.Write(ref _unhalted, value);
    }

    /// <summary>In one step: a kick that comes between a look and the clearing would be lost, and the guest's spinlock would wait for ever.</summary>
    private bool TakeUnhalt() => Interlocked.Exchange(ref _unhalted, false);

    internal void RequestStop()
    {
        _stop = true;
        Wake();
    }

    /// <summary>Returns when the thread uses its vCPU no more, until <see cref="Resume"/>; a thread that is to end ends first. Not on the vCPU's thread.</summary>
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
        if (_stolenAtPause is { } stolen) _notStolen += Withheld - stolen;
        _stolenAtPause = null;
        lock (_wakeLock)
        {
            _pauseWanted = false;
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
                if (_pauseWanted || _vm.ResetPending)
                {
                    WaitWhilePaused();
                    continue; // what ended the wait may be the end: who paused has the vCPU then
                }
                if (!TakeEvents()) return;
                if (_vm.ResetPending) continue;
                if (Cpu.Activity != CpuActivity.Active)
                {
                    // Only now: what was pending before HLT wakes nobody any more.
                    Paravirtual?.Leave();
                    WaitForEvent();
                    continue;
                }
                if (_vm.CpuTime?.MustWait == true)
                {
                    Paravirtual?.Leave();
                    long waited = HostTime.Wait;
                    long held = _vm.CpuTime.Wait(() => _pauseWanted || _stop);
                    _withheld += Math.Max(0, held - (HostTime.Wait - waited)); // what the scheduler counts is counted there
                    continue;
                }
                Paravirtual?.BeforeEntry();
                VmExit exit = Cpu.Enter();
                Paravirtual?.AfterExit();
                Exits.Count(exit.Reason);
                ExitAction action = ExitHandler.Handle(_vm, this, exit);
                OnExit?.Invoke(this, exit);
                switch (action)
                {
                    case ExitAction.Stop:
                        return;
                    default:
                        break;
                }
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
            while ((_pauseWanted || _vm.ResetPending) && !_stop)
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
        if (_vm.CpuTime is { Realtime: true } && Paravirtual is not { HostMayPoll: false }) PollForEvent();
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

    /// <summary>Takes INIT and start-up IPI, and injects one pending event if the guest can take it. False when the VM comes to its end.</summary>
    private bool TakeEvents()
    {
        if (!_eventsMayWait || Interrupts is not { } source) return true;
        _eventsMayWait = false;
        lock (_vm.InterruptLock)
        {
            if (source.TakeInit() && !Initialize(source)) return false;
            if (source.WaitsForStartUp && !StartUp(source)) return true;
            if (InjectPending(source) || (Cpu.Activity == CpuActivity.Halted && TakeUnhalt())) Cpu.Activity = CpuActivity.Active;
        }
        return true;
    }

    /// <summary>What the run loop does before an entry, for <see cref="SteppedRun"/>: no window is asked for, since it would open anywhere. True when the vCPU executes instructions now.</summary>
    internal bool TakeEventsBetweenSteps()
    {
        _eventsMayWait = true;
        if (!TakeEvents()) return false;
        CloseWindows();
        return Cpu.Activity == CpuActivity.Active;
    }

    /// <summary>Asks for no window any more: <see cref="SteppedRun"/> looks for what waits by itself.</summary>
    internal void CloseWindows()
    {
        if (Cpu.Controls is { InterruptWindowExiting: true } or { NmiWindowExiting: true })
            Cpu.Controls = Cpu.Controls with { InterruptWindowExiting = false, NmiWindowExiting = false };
    }

    /// <summary>INIT. The firmware that it sends the bootstrap processor to is not there: it would reset the machine, and so do we.</summary>
    private bool Initialize(IInterruptSource source)
    {
        if (!source.WaitsForStartUp)
        {
            _vm.RequestReset();
            return _vm.ResetPending;
        }
        var state = new CpuState();
        Cpu.ReadState(state);
        InitState.Apply(state, CpuidLeaves.Query(new CpuidSubject(_vm.Model, Cpu.Index, _vm.Cpus.Count, _vm.Clock.TscFrequency), 1, 0).Eax);
        Cpu.WriteState(state);
        Paravirtual?.Reset();
        return true;
    }

    /// <summary>Starts a processor that waits for it. False when it still waits.</summary>
    private bool StartUp(IInterruptSource source)
    {
        if (source.TakeStartUp() is not { } vector)
        {
            Cpu.Activity = CpuActivity.WaitForStartUp;
            return false;
        }
        var state = new CpuState();
        Cpu.ReadState(state);
        InitState.StartUp(state, vector);
        Cpu.WriteState(state);
        return true;
    }

    /// <summary>Injects one pending event if the guest can take it, and asks for a window for the rest. True when something was injected.</summary>
    private bool InjectPending(IInterruptSource source)
    {
        bool injected = false;
        if (Cpu.NmiBlocked) source.CollapseNmis();
        if (source.NmiPending && Cpu.NmiWindowOpen && source.TakeNmi())
        {
            Cpu.InjectNmi();
            injected = true;
        }
        bool offer = !injected && source.InterruptPending && Cpu.InterruptWindowOpen;
        Cpu.SetTaskPriority(source.Cr8);
        // Who takes what is offered says itself whether there is more.
        bool wantWindow = !offer && source.InterruptPending, wantNmiWindow = source.NmiPending;
        if (wantWindow | wantNmiWindow) _eventsMayWait = true; // until it is taken
        if (Cpu.Controls.InterruptWindowExiting != wantWindow || Cpu.Controls.NmiWindowExiting != wantNmiWindow)
            Cpu.Controls = Cpu.Controls with { InterruptWindowExiting = wantWindow, NmiWindowExiting = wantNmiWindow };
        if (!offer) return injected;
        _eventsMayWait = true;
        return Cpu.OfferInterrupt(this);
    }

    /// <inheritdoc/>
    byte? IInterruptAcknowledge.Acknowledge(out bool more)
    {
        lock (_vm.InterruptLock)
        {
            byte? vector = Interrupts!.AcknowledgeInterrupt();
            more = Interrupts.InterruptPending;
            if (vector != null) Paravirtual?.InterruptTaken();
            return vector;
        }
    }

    internal void Join()
    {
        if (_started && Thread.CurrentThread != _thread) _thread.Join();
    }

    public void Dispose()
    {
        RequestStop();
        Join();
        _accounting?.Dispose();
        Cpu.Dispose();
    }
}
