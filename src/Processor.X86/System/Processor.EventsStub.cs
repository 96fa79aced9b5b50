#pragma warning disable CS0649
namespace Bunraku.Processor.X86;

// The members that Execution/Processor.Dispatch.cs calls. "sys": move each to its real home in Processor.Events*.cs, Processor.Debug.cs with
// its real body, and delete this file.
public sealed unsafe partial class Processor
{
    internal ulong InterruptsDelivered, ExceptionsDelivered;
    /// <summary>The processor is in shutdown; only RESET or INIT ends it.</summary>
    internal bool TripleFaulted { get; set; }
    /// <summary>Blocking by NMI, until IRET.</summary>
    internal bool NmiBlocked { get; set; }
    /// <summary>DR7 enables an instruction breakpoint (recomputed by ModeChanged's caller or there).</summary>
    private bool _instructionBreakpoints;
    /// <summary>True when an instruction breakpoint matches (DR6 set accordingly): the dispatcher then throws #DB (fault).</summary>
    private bool InstructionBreakpoint(ulong linearRip) => false;
    /// <summary>Called by Locate for every slow access while a data breakpoint is armed: records DR6 bits, sets DebugTrapPending and Attention.Event.</summary>
    private void DataAccess(ulong address, int length, bool write) { }
    /// <summary>A #DB trap is to be taken before the next instruction (data breakpoint, task switch T bit).</summary>
    private bool DebugTrapPending => false;
    /// <summary>Delivers the pending #DB trap with Rip = next instruction; may throw nothing.</summary>
    private void TakeDebugTrap() { }
    /// <summary>RF was set when the instruction that just completed began: clear it unless the instruction itself loaded it (IRET, task switch).</summary>
    private void ClearResumeFlag() => State->FlagsOther &= ~(uint)Rflags.Rf;
    /// <summary>TF was set when the instruction that just completed began: #DB with DR6.BS (plus pending data breakpoints), Rip = next instruction.</summary>
    private void AfterSingleStep() { }
    internal void DeliverException(Vector vector, uint? errorCode) => throw new InvalidOperationException($"{vector} {errorCode}");
    internal void DeliverInterrupt(byte vector) => throw new InvalidOperationException();
    internal void DeliverNmi() => throw new InvalidOperationException();
}
