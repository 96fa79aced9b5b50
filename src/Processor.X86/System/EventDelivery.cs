using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>Where an event comes from; decides EXT, DPL checks and RF.</summary>
internal enum EventSource
{
    /// <summary>Fault, trap or abort of the processor.</summary>
    Exception,
    /// <summary>External interrupt.</summary>
    External,
    /// <summary>NMI; an external interrupt may have its vector, too.</summary>
    Nmi,
    /// <summary>INT n.</summary>
    Interrupt,
    /// <summary>INT3, INTO.</summary>
    Trap,
    /// <summary>INT1: like INT3 but without the gate's DPL check.</summary>
    Icebp,
}

/// <summary>
/// Delivery of exceptions and interrupts, and what a fault of the delivery becomes. Intel SDM vol. 3A, "Interrupt and Exception Handling"; vol. 2, INT n
/// "Operation". The way through the gates of each mode is in <see cref="InterruptGates"/>.
/// </summary>
internal sealed unsafe class EventDelivery(Processor p)
{
    /// <summary>External interrupts and NMIs since power-on.</summary>
    public ulong InterruptsDelivered { get; private set; }

    /// <summary>Exceptions since power-on.</summary>
    public ulong ExceptionsDelivered { get; private set; }

    /// <summary>
    /// An event of the processor or from outside is being delivered: faults go to its escalation instead of being delivered by a task switch.
    /// </summary>
    public bool IsDelivering { get; private set; }

    /// <summary>The event that is being delivered, until it is; what <see cref="X86Exit.Vectoring"/> tells.</summary>
    public VectoredEvent? Vectoring { get; set; }

    /// <summary>The instruction that asked for an event (INT n, INT3, INTO, INT1) is abandoned.</summary>
    public void ForgetVectoring() => Vectoring = null;

    /// <summary>
    /// Delivers an exception with <see cref="ProcessorState.Rip"/> as the address to push, escalating to #DF and shutdown as the
    /// SDM's table "Conditions for Generating a Double Fault" says. Sets <see cref="Events.TripleFaulted"/> in the worst case. An exception of the delivery
    /// that the exception bitmap has, and shutdown, leave an exit pending.
    /// </summary>
    public void DeliverException(Vector vector, uint? errorCode) => DeliverWithEscalation(vector, errorCode, EventSource.Exception);

    /// <summary>Delivers an external interrupt between two instructions.</summary>
    public void DeliverInterrupt(byte vector)
    {
        InterruptsDelivered++;
        DeliverWithEscalation((Vector)vector, null, EventSource.External);
    }

    /// <summary>Delivers an NMI between two instructions and blocks further ones.</summary>
    public void DeliverNmi()
    {
        InterruptsDelivered++;
        p.Events.NmiBlocked = true;
        DeliverWithEscalation(Vector.Nmi, null, EventSource.Nmi);
    }

    /// <summary>Delivers an event that a hypervisor inside the guest injects when it enters its guest, whose state is in force.</summary>
    /// <param name="e">
    /// With <see cref="VectoredEvent.InstructionLength"/> the distance from RIP to the address that is pushed; 0 for what no instruction has asked for.
    /// </param>
    /// <param name="returnRip">That address, where it is given as such.</param>
    public void DeliverGuestEvent(in VectoredEvent e, ulong? returnRip = null)
    {
        p.State->Current = null;
        EventSource source = e.Kind switch
        {
            EventKind.ExternalInterrupt => EventSource.External,
            EventKind.Nmi => EventSource.Nmi,
            EventKind.SoftwareInterrupt => EventSource.Interrupt,
            EventKind.SoftwareException => EventSource.Trap,
            EventKind.PrivilegedSoftwareException => EventSource.Icebp,
            _ => EventSource.Exception,
        };
        DeliverWithEscalation((Vector)e.Vector, e.ErrorCode, source, e.InstructionLength, returnRip);
    }

    /// <summary>A guest inside the guest has exited, or taken a virtual event: the state is another one though no instruction has retired.</summary>
    public void CountGuestEvent() => ExceptionsDelivered++;

    private void DeliverWithEscalation(Vector vector, uint? errorCode, EventSource source, byte instructionLength = 0, ulong? returnRip = null)
    {
        if (p.State->Cpl == 3) p.Direct?.LeavesUser();
        ulong delivered = source == EventSource.Exception ? 1ul : 0;
        p.Exits.DropCompletion();
        while (true)
        {
            IsDelivering = true;
            try
            {
                Deliver(vector, errorCode, source, returnRip ?? (p.State->Rip + instructionLength) & Flow.RipMask(p.State), instructionLength);
                ExceptionsDelivered += delivered;
                return;
            }
            catch (GuestFault second)
            {
                // Asked for each exception as it is, before anything is made of it.
                if (p.Exits.TryExitWithException(second.Vector, second.ErrorCode)) return;
                if (vector == Vector.Df && source == EventSource.Exception)
                {
                    ExceptionsDelivered += delivered;
                    EnterShutdown();
                    return;
                }
                bool isDouble = source == EventSource.Exception
                    && ((IsContributory(vector) && IsContributory(second.Vector))
                        || (vector is Vector.Pf or Vector.Ve && (second.Vector is Vector.Pf or Vector.Ve || IsContributory(second.Vector))));
                instructionLength = 0;
                returnRip = null;
                (vector, errorCode) = isDouble ? (Vector.Df, 0u) : (second.Vector, second.ErrorCode);
                if (isDouble && p.Exits.TryExitWithException(Vector.Df, 0)) return;
                source = EventSource.Exception;
                delivered++;
            }
            catch (ExitRequest)
            {
                // The second stage refused an access, or a posted write comes first. Nothing has been delivered: the next entry tries again.
                if (source != EventSource.Exception) InterruptsDelivered--;
                if (source == EventSource.Nmi) p.Events.NmiBlocked = false;
                p.Events.Hold(vector, errorCode, source, instructionLength);
                p.Exits.Abandoned();
                return;
            }
            finally
            {
                IsDelivering = false;
                Vectoring = null;
            }
        }
    }

    /// <summary>An exit of an instruction that has retired comes first; then each entry exits with the shutdown.</summary>
    private void EnterShutdown()
    {
        if (p.GuestHypervisor is { } hypervisor && hypervisor.TakeShutdown()) return;
        p.Events.Activity = CpuActivity.Shutdown;
        if (!p.Exits.Pending) p.Exits.ExitWith(ExitReason.TripleFault);
    }

    private static EventKind Kind(EventSource source) => source switch
    {
        EventSource.Exception => EventKind.HardwareException,
        EventSource.External => EventKind.ExternalInterrupt,
        EventSource.Nmi => EventKind.Nmi,
        EventSource.Interrupt => EventKind.SoftwareInterrupt,
        EventSource.Trap => EventKind.SoftwareException,
        _ => EventKind.PrivilegedSoftwareException,
    };

    private static bool IsContributory(Vector v) => v is Vector.De or Vector.Ts or Vector.Np or Vector.Ss or Vector.Gp;

    /// <summary>
    /// INT n, INT3, INTO, INT1 at <paramref name="i"/>: a fault of the delivery is a fault of the instruction. <see cref="ProcessorState.Rip"/> is the
    /// handler's address afterwards.
    /// </summary>
    public Insn* SoftwareInterrupt(Insn* i, byte vector, EventSource source)
    {
        ProcessorState* s = p.State;
        if (source != EventSource.Interrupt && p.GuestHypervisor is { } hypervisor && hypervisor.WantsException((Vector)vector, null))
        {
            Insn* next = Flow.Again(s, i);
            hypervisor.TakeException(new VectoredEvent(Kind(source), vector, null, i->Length));
            return next;
        }
        if (source != EventSource.Interrupt && p.Exits.Intercepts((Vector)vector))
        {
            p.Exits.RequestExit(ExitReason.Exception, vector);
            return Flow.Again(s, i);
        }
        Deliver((Vector)vector, null, source, Flow.NextRip(s, i), i->Length);
        // INT1 behind MOV SS is one #DB together with the breakpoint that MOV SS held back.
        if (source == EventSource.Icebp) p.Debug.MergeDebugTrap();
        p.Debug.SuppressSingleStep(i);
        return Flow.LeaveTo(s, i, s->Rip);
    }

    /// <summary>Delivers one event; atomic: when it throws, no register has changed.</summary>
    private void Deliver(Vector vector, uint? errorCode, EventSource source, ulong returnRip, byte instructionLength)
    {
        ProcessorState* s = p.State;
        Vectoring = new VectoredEvent(Kind(source), (byte)vector, errorCode, instructionLength);
        try
        {
            uint image = FlagsImage(vector, source);
            if ((s->Cr0 & (ulong)Cr0.Pe) == 0) p.Gates.DeliverReal((byte)vector, image, returnRip);
            else if (CpuMode.IsLong(s)) p.Gates.DeliverLong((byte)vector, errorCode, source, image, returnRip);
            else if (source == EventSource.Interrupt && CpuMode.IsVirtual8086(s) && !p.Gates.InterruptLeavesVirtual8086((byte)vector))
                p.Gates.DeliverVirtual8086((byte)vector, image, returnRip);
            else p.Gates.DeliverProtected((byte)vector, errorCode, source, image, returnRip);
        }
        catch (GuestFault f) when (source is not (EventSource.Interrupt or EventSource.Trap) && f.Vector is Vector.Ts or Vector.Np or Vector.Ss or Vector.Gp)
        {
            // EXT: the fault came up while an event external to the program was delivered.
            f.ErrorCode |= 1;
            throw;
        }
        Vectoring = null;
        if (vector == Vector.Db && source == EventSource.Exception) s->Dr7 &= ~DebugUnit.Dr7Gd;
        p.Events.EndShadows();
        p.ModeChanged();
    }

    /// <summary>RFLAGS as pushed: faults set RF, so that an instruction breakpoint does not fire again at the return.</summary>
    private uint FlagsImage(Vector vector, EventSource source)
    {
        uint image = Flags.Get(p.State);
        return source switch
        {
            EventSource.Exception when vector is not (Vector.Db or Vector.Bp or Vector.Of or Vector.Df or Vector.Mc) => image | (uint)Rflags.Rf,
            EventSource.External or EventSource.Nmi or EventSource.Exception => image,
            _ => image & ~(uint)Rflags.Rf,
        };
    }
}
