using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>How instructions exit to the hypervisor.</summary>
/// <remarks>
/// <b>Posted</b> (OUT, CR8 write, HLT): the handler calls <see cref="RequestExit"/> and returns <c>Flow.Leave</c>; the instruction has retired.
/// <b>Completed</b> (IN, RDMSR and WRMSR of outside MSRs, CR8 read, intercepted CPUID): the handler first asks <see cref="TakeCompletion"/>. False: it
/// calls <see cref="RequestExit"/> with <c>completes: true</c> and returns <c>Flow.Again</c>. The hypervisor stores its answer in <see cref="Exit"/>; the next
/// Enter executes the instruction again, <see cref="TakeCompletion"/> returns true once, and the handler finishes with the answer.
/// While <see cref="CompletionPending"/> is set no event may be injected (the instruction is half done).
/// </remarks>
public sealed unsafe partial class Processor
{
    /// <summary>The handler has filled <see cref="Exit"/>: the dispatcher clears this and returns it from Enter.</summary>
    internal bool ExitPending;

    /// <summary>The hypervisor was asked for a value that the next execution of the instruction consumes.</summary>
    internal bool CompletionPending { get; private set; }

    private ExitReason _completionReason;
    private ulong _completionRip;

    /// <summary>MMIO writes of earlier instructions have not exited yet: the instruction, which has changed nothing, returns <see cref="LeaveForExit"/>.</summary>
    internal bool MustExitFirst => _posted.Count > 0;

    /// <summary>
    /// Fills <see cref="Exit"/> and sets <see cref="ExitPending"/>. MMIO writes of earlier instructions exit first, and the instruction starts anew: it must not have changed anything yet.
    /// </summary>
    internal void RequestExit(ExitReason reason, ulong address = 0, int size = 0, bool isWrite = false, ulong data = 0, bool completes = false)
    {
        if (MustExitFirst) throw ExitRequested;
        VmExit e = Exit;
        e.Reason = reason;
        e.Address = address;
        e.Size = size;
        e.IsWrite = isWrite;
        e.Data = data;
        e.Fault = false;
        e.ErrorCode = 0;
        e.Vectoring = null;
        e.Message = null;
        ExitPending = true;
        CompletionPending = completes;
        _completionReason = reason;
    }

    /// <summary>Exits with <paramref name="reason"/>, to be completed: remembers the instruction and returns what the handler must return.</summary>
    internal Insn* ExitForCompletion(Insn* i, ExitReason reason, ulong address = 0, int size = 0, bool isWrite = false, ulong data = 0)
    {
        if (MustExitFirst) return LeaveForExit(i);
        RequestExit(reason, address, size, isWrite, data, completes: true);
        _completionRip = State->BlockRip + i->Offset;
        return Flow.Again(State, i);
    }

    /// <summary>True once, when the hypervisor has completed the exit that this very instruction requested; the answer is in <see cref="Exit"/>.</summary>
    internal bool TakeCompletion(Insn* i, ExitReason reason)
    {
        if (!CompletionPending) return false;
        CompletionPending = false;
        // Something else may run first when the code was changed under the instruction; then the answer is void.
        return _completionReason == reason && _completionRip == State->BlockRip + i->Offset;
    }

    /// <summary>Forgets a half-done instruction: an event is delivered instead, or the state was replaced.</summary>
    internal void DropCompletion() => CompletionPending = false;
}
