using Bunraku.Engines;
using Bunraku.Hypervisor.X86.Paravirtual;

namespace Bunraku.Hypervisor.X86;

/// <summary>The x86 part of a vCPU's run loop: its interrupt source, INIT and start-up IPI, and what waits for injection.</summary>
public sealed class X86CpuThread : CpuThread, IInterruptAcknowledge
{
    private readonly X86Machine _vm;
    private bool _unhalted; // set by any thread

    internal X86CpuThread(X86Machine vm, IX86Cpu cpu) : base(vm, cpu)
    {
        _vm = vm;
        Cpu = cpu;
    }

    /// <summary>The engine's vCPU. Only this thread uses it while the VM runs; anybody while it is paused or before it started.</summary>
    public new IX86Cpu Cpu { get; }

    /// <summary>Where external interrupts and NMIs come from; set by the board before the start.</summary>
    public IInterruptSource? Interrupts { get; set; }

    /// <summary>
    /// Interrupts and NMIs wait while the vCPU executes instructions: who steps through a program does not want to land in handlers. A halt still ends. While
    /// the vCPU stands still.
    /// </summary>
    public bool HoldsInterrupts
    {
        get => _holdsInterrupts;
        set
        {
            _holdsInterrupts = value;
            LookForEvents();
        }
    }

    private bool _holdsInterrupts;

    /// <summary>Called after each exit was handled, so that what a read returned is seen too (tracing). Set before the start.</summary>
    public Action<X86CpuThread, X86Exit>? OnExit { get; set; }

    /// <summary>The paravirtual structures that the guest has set up for this vCPU; null where the VM offers none.</summary>
    internal ParavirtualCpu? Paravirtual { get; set; }

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

    // ---- the run loop's questions

    /// <inheritdoc/>
    protected override ExitAction HandleArchitectural(VmExit exit) => ExitHandler.Handle(_vm, this, (X86Exit)exit);

    /// <inheritdoc/>
    protected override ExitAction HandleShutdown(VmExit exit)
    {
        if (!ShutdownCause.IsReset(_vm.Memory, Cpu)) return base.HandleShutdown(exit);
        _vm.RequestReset();
        return ExitAction.Continue;
    }

    /// <inheritdoc/>
    protected override void BeforeEntry() => Paravirtual?.BeforeEntry();

    /// <inheritdoc/>
    protected override void AfterExit() => Paravirtual?.AfterExit();

    /// <inheritdoc/>
    protected override void Leave() => Paravirtual?.Leave();

    /// <inheritdoc/>
    protected override bool MayPoll => Paravirtual is not { HostMayPoll: false };

    /// <inheritdoc/>
    protected override void Observe(VmExit exit) => OnExit?.Invoke(this, (X86Exit)exit);

    /// <inheritdoc/>
    protected override void Reset()
    {
        UnhaltPending = false;
        base.Reset();
    }

    /// <inheritdoc/>
    protected override void CloseWindows()
    {
        if (Cpu.Controls is { InterruptWindowExiting: true } or { NmiWindowExiting: true })
            Cpu.Controls = Cpu.Controls with { InterruptWindowExiting = false, NmiWindowExiting = false };
    }

    // ---- events

    /// <summary>Takes INIT and start-up IPI, and injects one pending event if the guest can take it. False when the VM comes to its end.</summary>
    protected override bool TakeEvents()
    {
        if (Interrupts is not { } source) return true;
        lock (_vm.InterruptLock)
        {
            if (source.InitPending && !TakeInit(source)) return false;
            if (Cpu.Activity == CpuActivity.WaitForStartUp && !source.WaitsForStartUp) source.WaitForStartUp();
            if (source.WaitsForStartUp && !StartUp(source)) return true;
            if (InjectPending(source) || (Cpu.Activity == CpuActivity.Halted && TakeUnhalt())) Cpu.Activity = CpuActivity.Active;
        }
        return true;
    }

    /// <summary>False when the VM comes to its end.</summary>
    private bool TakeInit(IInterruptSource source)
    {
        switch (Cpu.TakeInit())
        {
            case InitResponse.Initialize:
                return !source.TakeInit() || Initialize(source);
            case InitResponse.Taken:
                source.DropInit();
                return true;
            default:
                LookForEvents(); // until it is blocked no more
                return true;
        }
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
        InitState.Apply(state, CpuidLeaves.Query(new CpuidSubject(_vm.Model, Cpu.Index, _vm.Cpus.Count, _vm.Clock.CounterFrequency), 1, 0).Eax);
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
        if (Cpu.TakeStartUp(vector)) return true;
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
        if (_holdsInterrupts && Cpu.Activity == CpuActivity.Active)
        {
            Cpu.SetTaskPriority(source.Cr8);
            CloseWindows();
            return false;
        }
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
        if (wantWindow | wantNmiWindow) LookForEvents(); // until it is taken
        if (Cpu.Controls.InterruptWindowExiting != wantWindow || Cpu.Controls.NmiWindowExiting != wantNmiWindow)
            Cpu.Controls = Cpu.Controls with { InterruptWindowExiting = wantWindow, NmiWindowExiting = wantNmiWindow };
        if (!offer) return injected;
        LookForEvents();
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

    /// <inheritdoc/>
    void IInterruptAcknowledge.EndOfInterrupt(out bool more)
    {
        lock (_vm.InterruptLock)
        {
            Paravirtual?.AfterExit(); // the guest cannot end it any more
            Interrupts!.EndOfInterrupt();
            more = Interrupts.InterruptPending;
        }
    }
}
