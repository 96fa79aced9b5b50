using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>
/// A hypervisor inside the guest, as far as the processor knows it: it is asked first about what happens to its own guest, before ours sees it. What it is not
/// asked about, and what it declines, goes on as without it. Methods named Take return true when they have dealt with the matter: the state is that in which
/// execution goes on, usually the hypervisor's own.
/// </summary>
/// <remarks>Intel SDM vol. 3C, "VM Exits"; AMD APM vol. 2, "#VMEXIT".</remarks>
internal unsafe interface IGuestHypervisor
{
    /// <summary>
    /// An exit is about to go out: of an instruction, an exception, an access that the second stage refuses, a window, whatever it is but a kick. Called
    /// between two instructions, with the state as the hypervisor outside would see it.
    /// </summary>
    /// <returns>
    /// True: the exit is the guest's affair. The state is that in which its hypervisor goes on; the instruction that exited is not completed, and the event
    /// during whose delivery it exited (<see cref="X86Exit.Vectoring"/>) is not delivered, unless the guest's hypervisor sees to it.
    /// </returns>
    bool TakeExit(X86Exit exit);

    /// <summary>
    /// An instruction of the set that <see cref="Processor.SelectGuestIntercepts"/> was told is about to execute: nothing has changed, and RIP is not set.
    /// </summary>
    /// <param name="next">What the handler returns then; null after an exit.</param>
    bool TakeInstruction(GuestIntercepts kind, Insn* i, out Insn* next)
    {
        next = null;
        return false;
    }

    /// <summary>An exception, or one that INT3, INTO or INT1 asks for, exits instead of being delivered. Changes nothing.</summary>
    bool WantsException(Vector vector, uint? errorCode) => false;

    /// <summary>
    /// Takes an event for which <see cref="WantsException"/> was true, between two instructions, with RIP where it would be pushed, or on the instruction that
    /// asks for it. What was being delivered is <see cref="EventDelivery.Vectoring"/>. CR2 and DR6 are as after the exception: what they were before is in
    /// <see cref="Mmu.Cr2BeforeFault"/> and <see cref="DebugUnit.Dr6BeforeFault"/>.
    /// </summary>
    void TakeException(in VectoredEvent exception)
    {
    }

    /// <summary>A fault came up while a double fault was delivered.</summary>
    bool TakeShutdown() => false;

    /// <summary>Task switches exit.</summary>
    bool WantsTaskSwitches => false;

    /// <summary>
    /// A task switch is about to begin, by an instruction or an event (<see cref="EventDelivery.Vectoring"/>): nothing has changed, RIP is on the instruction,
    /// or where it would be pushed.
    /// </summary>
    void TakeTaskSwitch(in TaskSwitchRequest request)
    {
    }

    /// <summary>External interrupts may come: RFLAGS.IF decides unless the hypervisor says so.</summary>
    /// <param name="enabled">RFLAGS.IF.</param>
    bool AllowsInterrupts(bool enabled) => enabled;

    /// <summary>NMIs may come: blocking until IRET decides unless the hypervisor says so.</summary>
    bool AllowsNmis(bool unblocked) => unblocked;

    /// <summary>An external interrupt is about to be acknowledged and delivered, between two instructions.</summary>
    bool TakeInterrupt(IInterruptAcknowledge source) => false;

    /// <summary>An NMI is about to be delivered, between two instructions.</summary>
    bool TakeNmi() => false;

    /// <summary>
    /// The hypervisor waits for something that instructions of its guest may bring about: <see cref="TakeWindow"/> is called between blocks. With
    /// <see cref="GuestWindow.Interrupt"/> it need not be while RFLAGS.IF is clear.
    /// </summary>
    GuestWindow Window => GuestWindow.None;

    /// <summary>Between two blocks, while <see cref="Window"/> is wanted.</summary>
    bool TakeWindow() => false;

    /// <summary>An exit of the instruction before is due, which comes before its debug traps.</summary>
    bool HasTrap => false;

    /// <summary>Between two blocks, before debug traps of the instruction before are delivered.</summary>
    bool TakeTrap() => false;

    /// <summary>
    /// After each instruction, or its fault, while <see cref="Processor.StepsGuest"/> is set; an exit that the instruction asked for may be pending.
    /// </summary>
    bool TakeStep() => false;

    /// <summary>A virtual event ends HLT of the guest before it has begun.</summary>
    bool EndsHalt => false;

    /// <summary>IRET ends blocking of NMIs, as it does unless the hypervisor says so.</summary>
    bool IretUnblocksNmis => true;
}

/// <summary>A task switch that is about to begin.</summary>
/// <param name="Selector">Of the new task's TSS.</param>
/// <param name="ErrorCode">What the event behind it would push in the new task.</param>
/// <param name="InstructionLength">Of the instruction that switches; 0 for events.</param>
internal readonly record struct TaskSwitchRequest(ushort Selector, TaskSwitchCause Cause, uint? ErrorCode, byte InstructionLength);

/// <summary>What a hypervisor inside the guest waits for.</summary>
[Flags]
internal enum GuestWindow
{
    None = 0,
    /// <summary>Its guest can take an external interrupt: RFLAGS.IF is set, and nothing holds it back.</summary>
    Interrupt = 1,
    /// <summary>Anything else that a look between two blocks finds.</summary>
    Always = 2,
}
