using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>
/// Secure Virtual Machine: what the processor has of it beside the registers, and the guest's hypervisor as the rest of the processor knows it. Entering and
/// leaving is in <see cref="SvmWorldSwitch"/>, intercepted instructions in <see cref="SvmInstructionIntercepts"/>, events in <see cref="SvmEvents"/>.
/// </summary>
/// <remarks>AMD APM vol. 2, "Secure Virtual Machine".</remarks>
internal sealed unsafe class Svm : IGuestHypervisor, IDisposable
{
    private readonly Processor p;

    public Svm(Processor processor)
    {
        p = processor;
        Features = new SvmFeatures(p.Model);
        Control = (VmcbControl*)System.Runtime.InteropServices.NativeMemory.AllocZeroed((nuint)sizeof(VmcbControl));
        Memory = new SvmMemory(p);
        NestedPages = new NestedPageTables(p);
        WorldSwitch = new SvmWorldSwitch(p, this);
        Instructions = new SvmInstructionIntercepts(p, this);
        Events = new SvmEvents(p, this);
        Avic = new Avic(p, this);
    }

    public readonly SvmFeatures Features;
    public readonly SvmMemory Memory;
    public readonly NestedPageTables NestedPages;
    public readonly SvmWorldSwitch WorldSwitch;
    public readonly SvmInstructionIntercepts Instructions;
    public readonly SvmEvents Events;
    public readonly Avic Avic;

    /// <summary>GIF.</summary>
    public bool GlobalInterruptFlag
    {
        get;
        set
        {
            field = value;
            if (!value || !_initWaits) return;
            _initWaits = false;
            p.Kick();
        }
    } = true;

    public ulong VmCr { get; set; }
    public ulong HostSaveArea { get; set; }
    public ulong Key { get; set; }

    /// <summary>Guests' time stamp counters by the host's, as a fixed-point number of 8 and 32 bits.</summary>
    public ulong TscRatio { get; set; } = 1ul << SvmMsrs.RatioShift;

    /// <summary>A guest runs.</summary>
    public bool InGuest { get; set; }

    /// <summary>Physical address of its VMCB.</summary>
    public ulong VmcbAddress { get; set; }

    /// <summary>The control area as VMRUN has read it, with what has changed since; native memory, never null before disposal.</summary>
    public readonly VmcbControl* Control;

    /// <summary>CR0, CR4 and EFER of the host.</summary>
    public (ulong Cr0, ulong Cr4, ulong Efer) Host { get; set; }
    public ulong HostPat { get; set; }
    public bool HostInterruptFlag { get; set; }
    public ulong[] HostPdptes { get; } = new ulong[4];

    public bool HasNestedPaging => (Control->NestedControl & VmcbControl.NestedPaging) != 0;

    /// <summary>The guest has its own last branch record.</summary>
    public bool HasOwnBranches => (Control->VirtualExtensions & VmcbControl.LbrVirtualization) != 0 && Features.LastBranch;

    /// <summary>What is added to the guest's time stamp counter.</summary>
    public ulong TscOffset => Control->TscOffset;

    /// <summary>The guest's counters are scaled now.</summary>
    public bool ScalesTsc => InGuest && TscRatio != 1ul << SvmMsrs.RatioShift && Features.TscRatio;

    /// <summary>What RDTSC tells in a guest whose counter is scaled, by what it tells outside.</summary>
    public ulong ScaledTsc(ulong tsc) => (ulong)((UInt128)tsc * TscRatio >> SvmMsrs.RatioShift) + Control->TscOffset;

    /// <summary>RESET and INIT.</summary>
    public void Reset()
    {
        GlobalInterruptFlag = true;
        VmCr = HostSaveArea = Key = 0;
        _securityExceptionDue = false;
        TscRatio = 1ul << SvmMsrs.RatioShift;
        LeaveGuest();
    }

    /// <summary>The processor is not in a guest any more, or its state is replaced.</summary>
    public void LeaveGuest()
    {
        if (!InGuest) return;
        InGuest = false;
        p.GuestMode.Leave();
        p.SelectGuestIntercepts(GuestIntercepts.None);
    }

    public SvmState Save()
    {
        var state = new SvmState
        {
            GlobalInterruptFlag = GlobalInterruptFlag,
            VmCr = VmCr,
            HostSaveArea = HostSaveArea,
            Key = Key,
            TscRatio = TscRatio,
            InGuest = InGuest,
            SecurityExceptionDue = _securityExceptionDue,
        };
        if (!InGuest) return state;
        Avic.Save(state);
        (state.PendingExit, state.PendingExitInfo1, state.PendingExitInfo2) = _pendingExit is { } e ? ((ulong)e.Code, e.Info1, e.Info2) : default;
        (state.Vmcb, state.HostPat, state.HostInterruptFlag) = (VmcbAddress, HostPat, HostInterruptFlag);
        (state.HostCr0, state.HostCr4, state.HostEfer) = Host;
        HostPdptes.CopyTo(state.HostPdptes, 0);
        (state.PauseCount, state.SincePause) = (Instructions.PauseCount, p.State->Retired - Instructions.LastPause);
        new ReadOnlySpan<byte>(Control, SvmState.ControlSize).CopyTo(state.Control);
        return state;
    }

    /// <summary>The registers are those of the state already.</summary>
    public void Restore(SvmState? state)
    {
        LeaveGuest();
        state ??= new SvmState();
        GlobalInterruptFlag = state.GlobalInterruptFlag;
        (VmCr, HostSaveArea, Key, TscRatio) = (state.VmCr, state.HostSaveArea, state.Key, state.TscRatio);
        _securityExceptionDue = state.SecurityExceptionDue;
        if (_securityExceptionDue) p.WantAttention();
        if (!state.InGuest) return;
        (VmcbAddress, HostPat, HostInterruptFlag) = (state.Vmcb, state.HostPat, state.HostInterruptFlag);
        Host = (state.HostCr0, state.HostCr4, state.HostEfer);
        state.HostPdptes.CopyTo(HostPdptes, 0);
        (Instructions.PauseCount, Instructions.LastPause) = (state.PauseCount, p.State->Retired - state.SincePause);
        state.Control.CopyTo(new Span<byte>(Control, SvmState.ControlSize));
        WorldSwitch.PutInForce();
        Avic.Restore(state);
        _pendingExit = state.PendingExit == 0 ? null : ((SvmExit)state.PendingExit, state.PendingExitInfo1, state.PendingExitInfo2);
    }

    public void Dispose() => System.Runtime.InteropServices.NativeMemory.Free(Control);

    // ---- what the processor asks

    /// <inheritdoc/>
    public bool TakeExit(X86Exit exit)
    {
        if (!InGuest || exit.Reason != ExitReason.EptViolation || p.Exits.NestedFault is not { } fault) return false;
        if (fault.Code == Avic.Refused)
        {
            Avic.Refuse(exit);
            return true;
        }
        WorldSwitch.Exit(SvmExit.NestedPageFault, fault.Code, exit.Address, SvmEvents.Encode(exit.Vectoring), fetchInstruction: true);
        return true;
    }

    /// <inheritdoc/>
    public bool TakeInstruction(GuestIntercepts kind, Insn* i, out Insn* next)
    {
        next = null;
        if (!InGuest) return false;
        return Instructions.Take(kind, i);
    }

    /// <inheritdoc/>
    public bool WantsException(Vector vector, uint? errorCode) => InGuest && (Control->Exceptions >> (int)vector & 1) != 0;

    /// <inheritdoc/>
    public void TakeException(in VectoredEvent exception) => Events.TakeException(exception);

    /// <inheritdoc/>
    public bool TakeShutdown()
    {
        if (!InGuest || (Control->Intercepts1 & SvmIntercepts1.Shutdown) == 0) return false;
        WorldSwitch.Exit(SvmExit.Shutdown);
        return true;
    }

    /// <inheritdoc/>
    public bool WantsTaskSwitches => InGuest && (Control->Intercepts1 & SvmIntercepts1.TaskSwitch) != 0;

    /// <inheritdoc/>
    public void TakeTaskSwitch(in TaskSwitchRequest request) => Events.TakeTaskSwitch(request);

    /// <inheritdoc/>
    public bool AllowsInterrupts(bool enabled) => GlobalInterruptFlag && (InGuest && Events.MasksPhysicalInterrupts ? HostInterruptFlag : enabled);

    /// <inheritdoc/>
    public bool AllowsNmis(bool unblocked) => GlobalInterruptFlag && unblocked;

    /// <inheritdoc/>
    public bool TakeInterrupt(IInterruptAcknowledge source) => InGuest && Events.TakeInterrupt();

    /// <inheritdoc/>
    public bool TakeNmi() => InGuest && Events.TakeNmi();

    /// <inheritdoc/>
    public GuestWindow Window => InGuest ? Events.Window : GuestWindow.None;

    /// <inheritdoc/>
    public bool EndsHalt => InGuest && Events.EndsHalt;

    /// <inheritdoc/>
    public bool HasTrap => _securityExceptionDue || (InGuest && _pendingExit != null);

    /// <inheritdoc/>
    public bool TakeTrap()
    {
        if (p.Exits.IsHalfDone) return false;
        if (!_securityExceptionDue) return InGuest && TakePendingExit();
        _securityExceptionDue = false;
        if (!p.Exits.TryReflectException(Vector.Sx, InitRedirected)) p.Delivery.DeliverException(Vector.Sx, InitRedirected);
        return true;
    }

    private (SvmExit Code, ulong Info1, ulong Info2)? _pendingExit; // behind the instruction at hand, with EXITINFO1 and EXITINFO2

    /// <summary>
    /// An exit that comes behind the instruction, or before the next one; one that is due already comes first, and the cause of this one stays.
    /// </summary>
    public void ExitSoon(SvmExit code, ulong info1 = 0, ulong info2 = 0)
    {
        _pendingExit ??= (code, info1, info2);
        p.WantAttention();
    }

    /// <summary>A guest is entered, which has none.</summary>
    public void DropPendingExit() => _pendingExit = null;

    private bool TakePendingExit()
    {
        if (_pendingExit is not { } e) return false;
        _pendingExit = null;
        WorldSwitch.Exit(e.Code, e.Info1, e.Info2);
        return true;
    }

    /// <inheritdoc/>
    public bool TakeWindow() => Events.TakeWindow();

    // ---- INIT

    /// <summary>Error code of #SX for an INIT.</summary>
    private const uint InitRedirected = 1;

    private bool _initWaits; // it is blocked, and whoever has it wants to hear when it is not
    private bool _securityExceptionDue; // an INIT has become #SX

    /// <summary>INIT comes. Between exits.</summary>
    /// <remarks>AMD APM vol. 2, "INIT Intercept", "Global Interrupt Flag, STGI and CLGI Instructions", "Security Exception (#SX)".</remarks>
    public InitResponse TakeInit()
    {
        if (!GlobalInterruptFlag)
        {
            _initWaits = true;
            return InitResponse.Blocked;
        }
        if (InGuest && (Control->Intercepts1 & SvmIntercepts1.Init) != 0)
        {
            // As an interrupt that is intercepted it stays where it is, and the host, whose GIF is clear at first, gets it with STGI.
            _initWaits = true;
            p.Events.Activity = CpuActivity.Active;
            ExitSoon(SvmExit.Init);
            return InitResponse.Blocked;
        }
        if ((VmCr & SvmMsrs.RedirectInit) == 0) return InitResponse.Initialize;
        _securityExceptionDue = true;
        p.Events.Activity = CpuActivity.Active;
        p.WantAttention();
        return InitResponse.Taken;
    }
}
