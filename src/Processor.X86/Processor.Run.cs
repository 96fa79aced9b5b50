using System.Runtime.CompilerServices;
using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>Entering the guest, and the dispatcher: between blocks, everything that is not the execution of an instruction happens here.</summary>
internal sealed unsafe partial class Processor
{
    private bool _reexecuting; // the next instruction completes an MMIO read

    /// <summary>Who is asked for each exit before it goes out; null: nobody.</summary>
    public IGuestHypervisor? GuestHypervisor { get; set; }

    /// <summary>A hypervisor inside the guest is asked after each instruction, see <see cref="IGuestHypervisor.TakeStep"/>.</summary>
    public bool StepsGuest { get; set; }

    /// <inheritdoc cref="IX86Cpu.Enter"/>
    public X86Exit Enter()
    {
        if (!Events.TripleFaulted) Events.Activity = CpuActivity.Active;
        Shootdown.EnterGuest();
        try
        {
            do RunToExit();
            while (Exits.TryReflect());
            return Exit;
        }
        finally
        {
            Shootdown.LeaveGuest();
            if (Exit.Reason == ExitReason.Hlt) Direct?.Halts();
            State->Work = CpuWork.Outside;
        }
    }

    /// <summary>Runs until <see cref="Exit"/> holds an exit.</summary>
    private void RunToExit()
    {
        Mmio.BeginEntry();
        _reexecuting = Mmio.Replaying;
        Exits.BeginEntry();
        Events.IretUnblockedNmis = false;
        // Time may have gone on, and with it what a hypervisor inside the guest waits for.
        if (GuestHypervisor is { Window: not GuestWindow.None }) Events.UpdateWindowAttention();
        bool delivered = false;
        for (; ; )
        {
            State->Work = CpuWork.Interpreter; // whatever a fault has ended
            try
            {
                if (delivered && Events.TripleFaulted && !Exits.Pending) Exits.ExitWith(ExitReason.TripleFault);
                // What came up when an event was delivered, an interrupt that went away, or shutdown.
                if (Exits.Take()) return;
                if (Walker.PdptesMissing) Walker.LoadMissingPdptes(); // the delivery of an event goes through them, too
                if (!delivered)
                {
                    delivered = true;
                    Events.DeliverInjected();
                    continue;
                }
                if (Following.Until is { } place) Following.RunUntil(place);
                else Run();
                return;
            }
            catch (GuestFault fault)
            {
                StepBack();
                Mmio.ForgetReplay();
                _reexecuting = false;
                Exits.Drop();
                // Devices first see what was written before; then the instruction begins anew, and raises its exception again.
                bool waits = Exits.MustExitFirst && fault.Vector != Vector.Db; // whose causes are in DR6 already
                if (waits)
                {
                    if (fault.Vector == Vector.Pf) State->Cr2 = Mmu.Cr2BeforeFault;
                    Exits.Abandoned();
                }
                else if (!Exits.TryExitWithException(fault.Vector, fault.ErrorCode)) Delivery.DeliverException(fault.Vector, fault.ErrorCode);
                Events.IretUnblockedNmis = false;
                if (!waits && StepsGuest) GuestHypervisor?.TakeStep();
            }
            catch (ExitRequest)
            {
                StepBack();
                if (!Exits.TakeStepRequest()) Exits.Abandoned();
            }
            Delivery.ForgetVectoring();
        }
    }

    /// <summary>The current instruction is abandoned: RIP and the count go back to it.</summary>
    private void StepBack()
    {
        ProcessorState* s = State;
        if (s->Current == null) return; // a fetch fault: Rip is right
        s->Rip = (s->BlockRip + s->Current->Offset) & Flow.RipMask(s);
        s->Retired += s->Current->Ordinal;
        s->Current = null;
        s->LinkFrom = null;
    }

    /// <summary>The instruction at hand is executed for the second time, with what the hypervisor has answered: nothing else happens before.</summary>
    public bool IsCompleting => _reexecuting | Exits.CompletionPending;

    /// <summary>
    /// Nothing comes before the next instruction: it completes, or it was abandoned to be executed alone, and its page walks have left their traces already.
    /// </summary>
    public bool IsUnderWay => IsCompleting | GuestMode.StepsApicWrite;

    /// <summary>
    /// Something happens before or after the next instruction: it is executed alone. A breakpoint's trap comes right after the instruction that met it.
    /// </summary>
    public bool MustStep =>
        ((State->FlagsOther & (uint)(Rflags.Tf | Rflags.Rf)) != 0) | StepsGuest | LastBranch.IsOn | Debug.HasInstructionBreakpoints | Debug.WatchesData
            | Debugger.MustStep | IsUnderWay;

    /// <summary>The dispatcher's loop.</summary>
    private void Run()
    {
        ProcessorState* s = State;
        for (; ; )
        {
            s->Current = null;
            bool single = false;
            // Rare things are behind one test each.
            if ((s->AttentionFlags != 0 || Events.WindowIsDue || Debugger.MustLook) && !IsUnderWay)
            {
                s->LinkFrom = null; // an event may be delivered instead of what the link leads to
                if (Attend()) return;
                if (Debugger.IsDue)
                {
                    Debugger.TakeExit();
                    return;
                }
                single = Events.InterruptShadow;
            }
            if (Direct is { IsDue: true } direct && !single && !Debugger.IsOn)
            {
                DirectOutcome outcome = direct.Run();
                if (outcome == DirectOutcome.Attention)
                {
                    if (Exits.Take()) return; // the delivery of a fault may have come to one
                    continue;
                }
                single = outcome == DirectOutcome.Step;
            }
            if (single || MustStep)
            {
                if (Step()) return;
                continue;
            }
            if (RunBlocks(s, Blocks.Find(s))) return;
        }
    }

    /// <summary>Executes operations, from block to block, until one leads to the dispatcher. True when there is an exit.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public bool RunBlocks(ProcessorState* s, Insn* operation)
    {
        Execute(s, operation);
        if (!Exits.Take()) return false;
        s->Current = null;
        return true;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private void Execute(ProcessorState* s, Insn* operation)
    {
        do
        {
            s->Current = operation;
            operation = operation->Handler(this, s, operation);
        }
        while (operation != null);
    }

    /// <summary>Executes one instruction with everything that only single instructions need. True when there is an exit.</summary>
    public bool Step()
    {
        ProcessorState* s = State;
        bool trap = (s->FlagsOther & (uint)Rflags.Tf) != 0;
        bool resume = (s->FlagsOther & (uint)Rflags.Rf) != 0, records = LastBranch.IsOn, steps = StepsGuest;
        ulong from = s->Rip, retired = s->Retired;
        if (Debug.HasInstructionBreakpoints && !resume && !_reexecuting && Debug.InstructionBreakpoint(s->Rip + s->Cs.Base)) throw Fault(Vector.Db);
        // Stays set while the instruction runs: no entry of the jump cache has this key, so that the instruction cannot lead into another block.
        s->Mode |= ModeKey.Single;
        try
        {
            Insn* first = Blocks.FindSlow(s, s->Rip + BlockFinder.CodeBase(s));
            Execute(s, first);
            if (records && s->Retired != retired) LastBranch.Note(from, first);
        }
        finally
        {
            s->Mode &= ~ModeKey.Single;
            GuestMode.StepsApicWrite = false;
        }
        s->LinkFrom = null;
        s->Current = null;
        if (Exits.TakeHalfDone()) return true;
        _reexecuting = false;
        Mmio.ForgetReplay();
        // When a repeated instruction gives others a turn in its middle is chance: for a debugger it is one step.
        if (Debugger.MustStep && (s->Retired != retired || s->Rip != from)) Debugger.NoteStep();
        if (resume) Debug.ClearResumeFlag();
        if (steps && StepsGuest) // the entry into the guest is no step of it
        {
            if (trap) Debug.NoteSingleStep(); // it waits, and the hypervisor is told of it
            GuestHypervisor?.TakeStep();
        }
        else if (trap && GuestHypervisor is { HasTrap: true })
        {
            Debug.NoteSingleStep();
        }
        else if (trap)
        {
            Debug.AfterSingleStep();
        }
        return Exits.Take();
    }

    /// <summary>Looks at what asked for attention. True when <see cref="Exit"/> must be returned now.</summary>
    public bool Attend()
    {
        ProcessorState* s = State;
        // Cleared before looking: what arrives meanwhile sets it again.
        var flags = (Attention)Interlocked.Exchange(ref s->AttentionFlags, 0);
        AttendToOthers();
        if (Mmio.TakePosted())
        {
            WantAttention(flags | Attention.Event);
            return true;
        }
        if (GuestHypervisor is { } trapping && trapping.TakeTrap())
        {
            WantAttention(flags & Attention.Kick);
            return Exits.Take();
        }
        // A trap that its own handler runs into again must not keep a kick from being seen.
        if (Debug.TakeDebugTrap() && Exits.Take())
        {
            WantAttention(flags & Attention.Kick);
            Events.UpdateWindowAttention();
            return true;
        }
        if (GuestHypervisor is { } hypervisor && hypervisor.Window != GuestWindow.None && hypervisor.TakeWindow())
        {
            WantAttention(flags & Attention.Kick);
            Events.UpdateWindowAttention();
            return Exits.Take();
        }
        ExitReason? reason = (flags & Attention.Kick) != 0 || Events.TakeHeldNmi() ? ExitReason.Kicked
            : _controls.NmiWindowExiting && Events.NmiWindowOpen ? ExitReason.NmiWindow
            : _controls.InterruptWindowExiting && Events.InterruptWindowOpen ? ExitReason.InterruptWindow
            : null;
        Events.UpdateWindowAttention();
        if (reason is not { } r) return false;
        Exit.Reason = r;
        return true;
    }

    /// <summary>What others did to code, mappings and the bus, and what this vCPU left for a moment without running blocks.</summary>
    public void AttendToOthers()
    {
        Code.ProcessForeignWrites();
        Shootdown.ProcessRevocations();
        Shootdown.YieldBus();
        if (Physical.ApplyA20()) Tlb.FlushAll();
        if (Translator is { IsFull: true } full)
        {
            if (full.Full == FlushCause.Translations) Code.MakeRoom(full.Full);
            else Code.Flush(full.Full);
        }
    }

    /// <summary>Drops a half-done instruction and events not yet delivered: the whole state is being replaced.</summary>
    public void AbandonInstruction()
    {
        Exits.Drop();
        Mmio.Reset();
        Events.DropInjected();
        _reexecuting = false;
        State->Current = null;
        State->LinkFrom = null;
    }
}
