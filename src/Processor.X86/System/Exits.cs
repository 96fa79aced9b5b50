using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>
/// The exit to the hypervisor that is being prepared: which one it is, whether it waits to be returned, and whether the instruction goes on afterwards.
/// </summary>
/// <remarks>
/// An instruction exits in one of two ways. <b>Trap-like</b> (OUT, CR8 write, HLT): the handler calls <see cref="RequestExit"/> and returns <c>Flow.Leave</c>;
/// the instruction has retired. <b>Completed</b> (IN, RDMSR and WRMSR of outside MSRs, CR8 read, intercepted CPUID): the handler first asks
/// <see cref="TakeCompletion"/>. False: it returns <see cref="ExitForCompletion"/>. The hypervisor stores its answer in <see cref="Processor.Exit"/>; the next
/// Enter executes the instruction again, <see cref="TakeCompletion"/> returns true once, and the handler finishes with the answer.
/// While <see cref="CompletionPending"/> is set no event may be injected (the instruction is half done).
/// </remarks>
internal sealed unsafe class Exits(Processor p)
{
    /// <summary>Thrown to abandon the current instruction, which has changed nothing, for an exit.</summary>
    public readonly ExitRequest Requested = new();

    private ExitReason _completionReason;
    private ulong _completionRip;
    private bool _isStepRequest; // the instruction was abandoned for a step of its own
    private bool _isRefusal; // the exit is an access that the second stage refuses
    private TaskSwitchRequest? _taskSwitch; // a hypervisor inside the guest takes it as soon as the instruction is abandoned
    private bool _leftForExit; // the pending exit does not belong to an instruction that was executed

    /// <summary><see cref="Processor.Exit"/> is filled and waits to be returned from Enter.</summary>
    public bool Pending { get; private set; }

    /// <summary>The hypervisor was asked for a value that the next execution of the instruction consumes.</summary>
    public bool CompletionPending { get; private set; }

    /// <summary>The instruction at hand has asked the hypervisor for something, and goes on at the next entry.</summary>
    public bool IsHalfDone => CompletionPending || p.Mmio.ReadPending || p.Mmio.Replaying;

    /// <summary>
    /// MMIO writes of earlier instructions have not exited yet: the instruction, which has changed nothing, returns <see cref="LeaveForExit"/>.
    /// </summary>
    public bool MustExitFirst => p.Mmio.HasPosted;

    /// <summary>Enter begins.</summary>
    public void BeginEntry() => _leftForExit = false;

    /// <summary>True when an exit was pending: it must be returned now.</summary>
    public bool Take()
    {
        if (!Pending) return false;
        Pending = false;
        return true;
    }

    /// <summary>As <see cref="Take"/>, for an exit in the middle of an instruction only: nothing of what follows an instruction happens yet.</summary>
    public bool TakeHalfDone() => (CompletionPending || _leftForExit) && Take();

    /// <summary>
    /// Fills <see cref="Processor.Exit"/> and leaves it pending. MMIO writes of earlier instructions exit first, and the instruction starts anew: it must not
    /// have changed anything yet.
    /// </summary>
    public void RequestExit(ExitReason reason, ulong address = 0, int size = 0, bool isWrite = false, ulong data = 0, bool completes = false)
    {
        if (MustExitFirst) throw Requested;
        X86Exit e = p.Exit;
        e.Reason = reason;
        e.Address = address;
        e.Size = size;
        e.IsWrite = isWrite;
        e.Data = data;
        e.Fault = false;
        e.ErrorCode = 0;
        e.Vectoring = null;
        e.Message = null;
        Pending = true;
        CompletionPending = completes;
        _completionReason = reason;
    }

    /// <summary>Leaves an exit pending that no instruction asks for and that has no more to tell than its reason.</summary>
    public void ExitWith(ExitReason reason)
    {
        p.Exit.Reason = reason;
        Pending = true;
    }

    /// <summary>Exits with <paramref name="reason"/>, to be completed: remembers the instruction and returns what the handler must return.</summary>
    public Insn* ExitForCompletion(Insn* i, ExitReason reason, ulong address = 0, int size = 0, bool isWrite = false, ulong data = 0)
    {
        if (MustExitFirst) return LeaveForExit(i);
        RequestExit(reason, address, size, isWrite, data, completes: true);
        _completionRip = p.State->BlockRip + i->Offset;
        return Flow.Again(p.State, i);
    }

    /// <summary>
    /// True once, when the hypervisor has completed the exit that this very instruction requested; the answer is in <see cref="Processor.Exit"/>.
    /// </summary>
    public bool TakeCompletion(Insn* i, ExitReason reason)
    {
        if (!CompletionPending) return false;
        CompletionPending = false;
        // Something else may run first when the code was changed under the instruction; then the answer is void.
        return _completionReason == reason && _completionRip == p.State->BlockRip + i->Offset;
    }

    /// <summary>
    /// The instruction that has taken the answer could not use it, since the second stage refused its access, and is tried again: the hypervisor is not asked
    /// for a second one.
    /// </summary>
    public void KeepAnswer() => CompletionPending = true;

    /// <summary>Forgets a half-done instruction: an event is delivered instead, or the state was replaced.</summary>
    public void DropCompletion() => CompletionPending = false;

    /// <summary>The refused access is not what the guest did.</summary>
    public void DropRefusal() => _isRefusal = false;

    /// <summary>Forgets the exit, too.</summary>
    public void Drop()
    {
        DropCompletion();
        _isRefusal = false;
        Pending = false;
    }

    /// <summary>The exception bitmap has this vector.</summary>
    public bool Intercepts(Vector vector) => (p.Controls.ExceptionBitmap >> (int)vector & 1) != 0;

    /// <summary>A hypervisor inside the guest has taken the exception, which is not delivered then.</summary>
    public bool TryReflectException(Vector vector, uint? errorCode)
    {
        if (p.GuestHypervisor is not { } hypervisor || !hypervisor.WantsException(vector, errorCode)) return false;
        hypervisor.TakeException(new VectoredEvent(EventKind.HardwareException, (byte)vector, errorCode));
        return true;
    }

    /// <summary>
    /// An exception of an instruction, or of the delivery of an event: true when a hypervisor inside the guest has taken it, or the exception bitmap has it, so
    /// that an exit is pending. It is not delivered then.
    /// </summary>
    public bool TryExitWithException(Vector vector, uint? errorCode)
    {
        if (TryReflectException(vector, errorCode)) return true;
        if (!Intercepts(vector)) return false;
        p.Exit.Reason = ExitReason.Exception;
        p.Exit.Address = (ulong)vector;
        p.Exit.ErrorCode = errorCode ?? 0;
        p.Exit.Vectoring = p.Delivery.Vectoring;
        Pending = true;
        return true;
    }

    /// <summary>
    /// An access that the second stage refuses: the exit before it has had any effect. MMIO writes of earlier instructions exit first, and the instruction
    /// starts anew.
    /// </summary>
    public ExitRequest RefusedAccess(ulong linear, in Refusal refusal)
    {
        if (MustExitFirst) return Requested;
        p.Exit.Reason = ExitReason.EptViolation;
        p.Exit.Address = refusal.Physical | (refusal.IsTableAccess ? 0 : linear & 0xFFF);
        p.Exit.IsWrite = (refusal.Wanted & PageRights.Write) != 0;
        p.Exit.Violation = new PageViolation(refusal.Wanted, linear, refusal.IsTableAccess);
        NestedFault = refusal.Nested;
        RefusedInstructionLength = p.State->Current != null ? p.State->Current->Length : 0u;
        p.Exit.Vectoring = p.Delivery.Vectoring;
        _isRefusal = true;
        return Requested;
    }

    /// <summary>
    /// The instruction accesses what a debugger watches, or what the next one must not come before, and has changed nothing yet: it is executed once more by
    /// itself, without an exit.
    /// </summary>
    public ExitRequest ExecuteAlone()
    {
        _isStepRequest = true;
        return Requested;
    }

    /// <summary>The instruction was abandoned for <see cref="ExecuteAlone"/>. What devices have already answered stays.</summary>
    public bool TakeStepRequest()
    {
        bool isRequest = _isStepRequest;
        _isStepRequest = false;
        return isRequest;
    }

    /// <summary>
    /// A task switch that is a matter for the hypervisor inside the guest: abandons what is being done. MMIO writes of earlier instructions come first.
    /// </summary>
    public ExitRequest ReflectedTaskSwitch(in TaskSwitchRequest request)
    {
        if (!MustExitFirst) _taskSwitch = request;
        return Requested;
    }

    /// <summary>
    /// With an <see cref="ExitReason.EptViolation"/>: why the second stage of a hypervisor inside the guest refused the access, which is that hypervisor's
    /// affair; null: it was our own.
    /// </summary>
    public SecondStageFault? NestedFault { get; private set; }

    /// <summary>Bytes of the instruction whose access was refused; 0: no instruction's was.</summary>
    public uint RefusedInstructionLength { get; private set; }

    /// <summary>
    /// The current instruction, or the delivery of an event, was abandoned: leaves the exit pending that comes now. It is a refused access, the MMIO read that
    /// the instruction wants, or a posted write, which stands before both.
    /// </summary>
    public void Abandoned()
    {
        if (_taskSwitch is { } request)
        {
            _taskSwitch = null;
            p.Mmio.ForgetReplay();
            p.GuestHypervisor?.TakeTaskSwitch(request);
            return;
        }
        Pending = true;
        if (_isRefusal)
        {
            _isRefusal = false; // what devices have already answered stays: the instruction is tried again
            return;
        }
        if (p.Mmio.ReadPending) return;
        p.Mmio.ForgetReplay();
        p.Mmio.TakePosted();
    }

    /// <summary>Every exit comes here before it goes out. True: a hypervisor inside the guest has taken it, and execution goes on there.</summary>
    public bool TryReflect()
    {
        if (p.GuestHypervisor is not { } hypervisor || p.Exit.Reason is ExitReason.Kicked or ExitReason.Debug) return false;
        // What waits for the next entry is an event whose delivery was abandoned for this exit: not the guest's hypervisor's, whose own comes in its place.
        PendingEvent? held = p.Events.Held;
        p.Events.DropHeld();
        if (!hypervisor.TakeExit(p.Exit))
        {
            p.Events.Held = held;
            return false;
        }
        DropCompletion();
        p.Mmio.DropRead();
        p.Events.Activity = CpuActivity.Active; // after HLT and shutdown, too
        return true;
    }

    /// <summary>
    /// Leaves the current instruction, which has changed nothing, for an exit; it is executed again afterwards. Returns what the handler must return.
    /// </summary>
    public Insn* LeaveForExit(Insn* i)
    {
        Abandoned();
        _leftForExit = true;
        return Flow.Again(p.State, i);
    }

    /// <summary>
    /// Leaves in front of an instruction that a debugger waits for. No posted write may wait (<see cref="MustExitFirst"/>). Returns what the handler must
    /// return.
    /// </summary>
    public Insn* LeaveForDebugger(Insn* i, ulong linear)
    {
        ExitWith(ExitReason.Debug);
        p.Exit.DebugCause = DebugCause.Breakpoint;
        p.Exit.Address = linear;
        p.Debugger.EndStep();
        _leftForExit = true; // nothing of what follows an instruction happens
        return Flow.Again(p.State, i);
    }

    public void Save(CpuState state)
    {
        X86Exit e = p.Exit;
        state.HalfDone = !CompletionPending ? null
            : new HalfDoneInstruction(_completionReason, _completionRip, e.IsWrite, e.Size, e.Address, e.Data, e.Fault, e.Leaf, e.Subleaf, e.Eax, e.Ebx, e.Ecx,
                e.Edx);
    }

    public void Restore(CpuState state)
    {
        Drop();
        if (state.HalfDone is not { } half) return;
        CompletionPending = true;
        (_completionReason, _completionRip) = (half.Reason, half.Rip);
        X86Exit e = p.Exit;
        (e.Reason, e.IsWrite, e.Size, e.Address, e.Data, e.Fault) = (half.Reason, half.IsWrite, half.Size, half.Address, half.Data, half.Fault);
        (e.Leaf, e.Subleaf, e.Eax, e.Ebx, e.Ecx, e.Edx) = (half.Leaf, half.Subleaf, half.Eax, half.Ebx, half.Ecx, half.Edx);
    }
}
