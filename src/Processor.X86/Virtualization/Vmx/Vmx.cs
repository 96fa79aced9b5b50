using System.Runtime.CompilerServices;
using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>
/// VMX of one processor: VMX operation, the current VMCS, and whether a guest runs. Entries are in <see cref="VmxEntry"/>, exits in <see cref="VmxExit"/>, what
/// instructions of the guest exit in <see cref="VmxInterception"/>; this is what the rest of the processor asks.
/// </summary>
/// <remarks>Intel SDM vol. 3C, chapters "Introduction to Virtual Machine Extensions" to "VM Exits".</remarks>
internal sealed unsafe partial class Vmx : IGuestHypervisor
{
    /// <summary>No VMCS is current, or no region was given.</summary>
    public const ulong NoPointer = ulong.MaxValue;

    private readonly Processor _p;
    private readonly VmxInterception _interception;

    public Vmx(Processor p)
    {
        _p = p;
        Memory = new VmxMemory(p);
        Entry = new VmxEntry(p, this);
        Exit = new VmxExit(p, this);
        Timer = new VmxTimer(p, this);
        Apic = new VirtualApic(p, this);
        ApicAccess = new VirtualApicAccess(p, this);
        _interception = new VmxInterception(p, this);
    }

    public VmxMemory Memory { get; }

    public VmxEntry Entry { get; }

    public VmxExit Exit { get; }

    public VmxTimer Timer { get; }

    public VirtualApic Apic { get; }

    public VirtualApicAccess ApicAccess { get; }

    /// <summary>Between VMXON and VMXOFF.</summary>
    public bool InOperation { get; private set; }

    /// <summary>The VMXON pointer.</summary>
    public ulong OperationPointer { get; private set; } = NoPointer;

    private GuestIntercepts _intercepts; // of the current VMCS, unless it has changed

    /// <summary>VMX non-root operation: a guest runs.</summary>
    public bool InGuest { get; private set; }

    /// <summary>The current-VMCS pointer; all ones: there is none.</summary>
    public ulong CurrentPointer { get; private set; } = NoPointer;

    public bool HasCurrent => CurrentPointer != NoPointer;

    /// <summary>The current VMCS is a shadow: there is no entry with it.</summary>
    public bool CurrentIsShadow { get; private set; }

    /// <summary>The current VMCS; means nothing while there is none.</summary>
    public Vmcs Current { get; } = new();

    public bool OffersShadowing => (VmxCapabilities.SecondaryBits(_p.Model) & SecondaryControls.VmcsShadowing) != 0;

    // The controls of the guest that runs.
    public PinControls Pin { get; private set; }

    public ProcessorControls Primary { get; private set; }

    /// <summary>None while they are not activated.</summary>
    public SecondaryControls Secondary { get; private set; }

    [MethodImpl(MethodImplOptions.AggressiveInlining)] public bool Has(PinControls c) => (Pin & c) != 0;

    [MethodImpl(MethodImplOptions.AggressiveInlining)] public bool Has(ProcessorControls c) => (Primary & c) != 0;

    [MethodImpl(MethodImplOptions.AggressiveInlining)] public bool Has(SecondaryControls c) => (Secondary & c) != 0;

    /// <summary>An exit by the monitor trap flag is due before the next instruction.</summary>
    public bool TrapPending { get; set; }

    /// <summary>What TSC offsetting has added to the processor's own offset while the guest runs.</summary>
    public ulong AddedTscOffset { get; private set; }

    /// <summary>The guest's TSC is scaled, and not by one: there are hypervisors that let scaling be in force for all guests.</summary>
    public bool ScalesTsc { get; private set; }

    // ---- VMX operation and the current VMCS

    public void EnterOperation(ulong pointer)
    {
        (InOperation, OperationPointer) = (true, pointer);
        (CurrentPointer, CurrentIsShadow) = (NoPointer, false);
    }

    public void LeaveOperation()
    {
        StoreCurrent();
        (InOperation, OperationPointer, CurrentPointer) = (false, NoPointer, NoPointer);
        InitIsFree();
    }

    /// <summary>VMCLEAR.</summary>
    public void Clear(ulong pointer)
    {
        if (pointer == CurrentPointer)
        {
            Current.Launched = false;
            StoreCurrent();
            CurrentPointer = NoPointer;
            return;
        }
        Memory.Write<ulong>(pointer + Vmcs.LaunchedOffset, 0);
    }

    /// <summary>VMPTRLD.</summary>
    public void SelectCurrent(ulong pointer)
    {
        if (pointer == CurrentPointer) return;
        StoreCurrent();
        CurrentPointer = pointer;
        CurrentIsShadow = (Memory.Read<uint>(pointer) & Vmcs.ShadowIndicator) != 0;
        byte* region = Memory.Region(pointer, write: false);
        Current.Changed = VmcsParts.All;
        if (region != null) Current.Load(region);
    }

    /// <summary>Brings the region of the current VMCS up to date.</summary>
    private void StoreCurrent()
    {
        if (!HasCurrent) return;
        byte* region = Memory.Region(CurrentPointer, write: true);
        if (region == null) return;
        Memory.BeforeWrite(region);
        Current.Store(region);
        Memory.Written(region, Vmcs.RegionSize);
    }

    /// <summary>What VMWRITE makes of a field.</summary>
    /// <param name="high">The upper half of a 64-bit field.</param>
    /// <param name="wide">The source has 64 bits.</param>
    public static ulong Merge(ulong old, VmcsField field, bool high, ulong value, bool wide) =>
        high ? old & uint.MaxValue | value << 32 : (wide ? value : (uint)value) & VmcsFields.Mask(field);

    // ---- entering and leaving the guest

    /// <summary>The guest is entered: takes its controls over. Its state is loaded, but not yet in force.</summary>
    public void BeginGuest()
    {
        InGuest = true;
        TakeControls();
        SelectAddressSpace();
        _p.Msrs.TscOffset += AddedTscOffset;
        if ((Current.Changed & VmcsParts.Intercepts) != 0) _intercepts = _interception.Choose();
        Current.Changed &= ~VmcsParts.Intercepts;
        _p.SelectGuestIntercepts(_intercepts);
        _p.StepsGuest = Has(ProcessorControls.MonitorTrapFlag);
        TrapPending = false;
        Apic.Begin();
        InitIsFree();
    }

    private void TakeControls()
    {
        Vmcs v = Current;
        Pin = (PinControls)v[VmcsField.PinBasedControls];
        Primary = (ProcessorControls)v[VmcsField.ProcessorBasedControls];
        Secondary = Has(ProcessorControls.ActivateSecondaryControls) ? (SecondaryControls)v[VmcsField.SecondaryControls] : 0;
        ScalesTsc = Has(ProcessorControls.UseTscOffsetting) && Has(SecondaryControls.UseTscScaling) && v[VmcsField.TscMultiplier] != 1ul << MultiplierShift;
        if (Has(ProcessorControls.UseTscOffsetting) && !ScalesTsc) AddedTscOffset = v[VmcsField.TscOffset];
    }

    /// <summary>The guest is left: the processor's own controls are in force again. Its state is saved.</summary>
    public void EndGuest()
    {
        InGuest = false;
        _p.Msrs.TscOffset -= AddedTscOffset;
        AddedTscOffset = 0;
        _p.SelectGuestIntercepts(GuestIntercepts.None);
        _p.StepsGuest = TrapPending = false;
        Apic.Begin();
        (_initDue, _startUpDue, WaitsForStartUp) = (false, null, false);
        Timer.Stop();
        if (!Has(SecondaryControls.EnableVpid)) _p.Tlb.Flush();
        (Pin, Primary, Secondary, ScalesTsc) = (0, 0, 0, false);
        SelectAddressSpace();
    }

    /// <summary>Leaves the guest because of an instruction, which has changed nothing. Returns what the handler returns.</summary>
    public Insn* Leave(Insn* i, VmxExitReason reason, ulong qualification, uint information = 0)
    {
        if (_p.Exits.MustExitFirst) return _p.Exits.LeaveForExit(i);
        Flow.Again(_p.State, i);
        Exit.Leave(reason, qualification, i->Length, information);
        return null;
    }

    // ---- state

    /// <summary>RESET.</summary>
    public void Reset() => Restore(null);

    public VmxState Save()
    {
        var state = new VmxState
        {
            InOperation = InOperation,
            InGuest = InGuest,
            OperationPointer = OperationPointer,
            CurrentPointer = CurrentPointer,
            Launched = Current.Launched,
            IsShadow = CurrentIsShadow,
            Fields = HasCurrent ? Current.Save() : [],
            TrapPending = TrapPending,
            IsHalted = IsHalted,
            WaitsForStartUp = WaitsForStartUp,
            InitDue = _initDue,
            StartUpDue = _startUpDue,
            TimerDeadline = Timer.Deadline,
        };
        Apic.Save(state);
        return state;
    }

    /// <summary>The state is another one; the registers are replaced already. <see cref="Processor.ModeChanged"/> must follow.</summary>
    public void Restore(VmxState? state)
    {
        state ??= new VmxState();
        (InOperation, InGuest, OperationPointer, CurrentPointer) = (state.InOperation, state.InGuest, state.OperationPointer, state.CurrentPointer);
        (Current.Launched, CurrentIsShadow) = (state.Launched, state.IsShadow);
        Current.Restore(state.Fields);
        (Pin, Primary, Secondary, AddedTscOffset, ScalesTsc) = (0, 0, 0, 0, false);
        if (InGuest) TakeControls(); // the TSC in the state is the guest's already
        SelectAddressSpace();
        _p.SelectGuestIntercepts(InGuest ? _interception.Choose() : GuestIntercepts.None);
        _p.StepsGuest = Has(ProcessorControls.MonitorTrapFlag);
        TrapPending = state.TrapPending;
        NoteActive();
        Apic.Restore(state);
        (_initDue, _startUpDue, WaitsForStartUp) = (state.InitDue, state.StartUpDue, state.WaitsForStartUp);
        if (state.IsHalted) BeginHalt();
        Timer.Restore(state.TimerDeadline);
    }

    // ---- what the processor asks

    public bool TakeInstruction(GuestIntercepts kind, Insn* i, out Insn* next)
    {
        if (InGuest) return _interception.Take(kind, i, out next);
        next = null;
        return false;
    }

    public bool WantsException(Vector vector, uint? errorCode)
    {
        if (!InGuest) return false;
        bool bit = (Current[VmcsField.ExceptionBitmap] >> (int)vector & 1) != 0;
        if (vector != Vector.Pf) return bit;
        bool match = ((errorCode ?? 0) & (uint)Current[VmcsField.PageFaultErrorCodeMask]) == (uint)Current[VmcsField.PageFaultErrorCodeMatch];
        return bit == match;
    }

    public void TakeException(in VectoredEvent exception)
    {
        ProcessorState* s = _p.State;
        ulong qualification = 0;
        var vector = (Vector)exception.Vector;
        if (vector == Vector.Pf)
        {
            qualification = s->Cr2;
            s->Cr2 = _p.Mmu.Cr2BeforeFault;
        }
        else if (vector == Vector.Db && exception.Kind == EventKind.HardwareException)
        {
            qualification = _p.Debug.Cause;
            s->Dr6 = _p.Debug.Dr6BeforeFault;
        }
        Exit.LeaveForEvent(exception, qualification);
    }

    public bool TakeShutdown()
    {
        if (!InGuest) return false;
        Exit.Leave(VmxExitReason.TripleFault, 0, 0);
        return true;
    }

    public bool WantsTaskSwitches => InGuest;

    public void TakeTaskSwitch(in TaskSwitchRequest request)
    {
        uint source = request.Cause switch { TaskSwitchCause.Call => 0u, TaskSwitchCause.Iret => 1u, TaskSwitchCause.Jump => 2u, _ => 3u };
        VectoredEvent? vectoring = _p.Delivery.Vectoring;
        uint length = vectoring is { } v ? v.InstructionLength : request.InstructionLength;
        Exit.Leave(VmxExitReason.TaskSwitch, request.Selector | (ulong)source << 30, length);
    }

    public bool AllowsInterrupts(bool enabled) => enabled || (InGuest && Has(PinControls.ExternalInterruptExiting));

    public bool AllowsNmis(bool unblocked) => unblocked || (InGuest && Has(PinControls.VirtualNmis));

    public bool IretUnblocksNmis => !InGuest || !Has(PinControls.NmiExiting) || Has(PinControls.VirtualNmis);

    public bool TakeInterrupt(IInterruptAcknowledge source)
    {
        if (!InGuest || !Has(PinControls.ExternalInterruptExiting)) return false;
        if (((ExitControls)Current[VmcsField.ExitControls] & ExitControls.AcknowledgeInterruptOnExit) == 0)
        {
            Exit.Leave(VmxExitReason.ExternalInterrupt, 0, 0);
            // It waits where it is until the hypervisor can take it.
            if (!_p.Controls.InterruptWindowExiting) _p.Controls = _p.Controls with { InterruptWindowExiting = true };
            return true;
        }
        if (source.Acknowledge(out bool more) is not { } vector) return false;
        if (Has(PinControls.ProcessPostedInterrupts) && vector == Current[VmcsField.PostedInterruptNotificationVector])
        {
            source.EndOfInterrupt(out more);
            Apic.TakePosted();
            GoOnHalting();
            if (_p.Controls.InterruptWindowExiting != more) _p.Controls = _p.Controls with { InterruptWindowExiting = more };
            return true;
        }
        Exit.LeaveForEvent(new VectoredEvent(EventKind.ExternalInterrupt, vector, null), 0);
        if (_p.Controls.InterruptWindowExiting != more) _p.Controls = _p.Controls with { InterruptWindowExiting = more };
        return true;
    }

    public bool TakeNmi()
    {
        if (!InGuest || !Has(PinControls.NmiExiting)) return false;
        Exit.LeaveForEvent(new VectoredEvent(EventKind.Nmi, (byte)Vector.Nmi, null), 0);
        return true;
    }

    public GuestWindow Window
    {
        get
        {
            if (!InGuest) return GuestWindow.None;
            GuestWindow window = Has(ProcessorControls.InterruptWindowExiting) || Apic.IsRecognized ? GuestWindow.Interrupt : GuestWindow.None;
            if (Has(ProcessorControls.NmiWindowExiting) || TrapPending || Timer.IsDue || WaitsForTimer || _initDue || _startUpDue != null)
                window |= GuestWindow.Always;
            return window;
        }
    }

    /// <summary>What is due before the next instruction.</summary>
    /// <remarks>Intel SDM vol. 3A, "Priority Among Concurrent Events"; vol. 3C, "VM Entries" (event injection).</remarks>
    public bool TakeWindow()
    {
        if (!InGuest || _p.Exits.IsHalfDone) return false;
        if (TakeSignals()) return true;
        if (Timer.IsDue) return LeaveFor(VmxExitReason.PreemptionTimer);
        if (Has(ProcessorControls.NmiWindowExiting) && !_p.Events.NmiBlocked && _p.Events.CanTakeNmiWhenUnblocked) return LeaveFor(VmxExitReason.NmiWindow);
        if (Has(ProcessorControls.InterruptWindowExiting) && _p.Events.GuestInterruptWindowOpen) return LeaveFor(VmxExitReason.InterruptWindow);
        if (Apic.IsRecognized && _p.Events.GuestInterruptWindowOpen)
        {
            Apic.Deliver();
            return true;
        }
        if (!WaitsForTimer) return false;
        Thread.Sleep(1);
        _p.WantAttention();
        _p.Exits.ExitWith(ExitReason.Kicked);
        return true;
    }

    private bool WaitsForTimer => Timer.Runs && IsHalted;

    public bool HasTrap => InGuest && Apic.PendingExit != null;

    public bool TakeTrap()
    {
        if (!InGuest || _p.Exits.IsHalfDone) return false;
        if (Apic.TakeExit(out VmxExitReason reason, out ulong qualification)) return LeaveFor(reason, qualification);
        return TrapPending && LeaveFor(VmxExitReason.MonitorTrapFlag);
    }

    private bool LeaveFor(VmxExitReason reason, ulong qualification = 0)
    {
        Exit.Leave(reason, qualification, 0);
        return true;
    }

    public bool EndsHalt => InGuest && Apic.IsRecognized && (_p.State->FlagsOther & (uint)Rflags.If) != 0;

    public bool TakeStep()
    {
        if (!InGuest || !Has(ProcessorControls.MonitorTrapFlag)) return false;
        if (_p.Exits.Pending || _p.Following.IsThere)
        {
            // The instruction's own exit comes first; who follows another processor stops where that one did.
            TrapPending = true;
            _p.WantAttention();
            return false;
        }
        // What an access to the virtual APIC brings about comes before the flag.
        return Apic.TakeExit(out VmxExitReason reason, out ulong qualification) ? LeaveFor(reason, qualification) : LeaveFor(VmxExitReason.MonitorTrapFlag);
    }
}
