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

/// <summary>Delivery of exceptions and interrupts. Intel SDM vol. 3A, "Interrupt and Exception Handling"; vol. 2, INT n "Operation".</summary>
public sealed unsafe partial class Processor
{
    /// <inheritdoc cref="IVirtualCpu.Activity"/>
    internal CpuActivity Activity { get; set; }

    /// <summary>A fault occurred while a double fault was delivered: the processor is in shutdown, which only a reset ends.</summary>
    internal bool TripleFaulted => Activity == CpuActivity.Shutdown;

    /// <summary>NMIs are held until the next IRET.</summary>
    internal bool NmiBlocked { get; set; }

    /// <summary>Events delivered since power-on; interrupts are counted by the dispatcher.</summary>
    internal ulong InterruptsDelivered, ExceptionsDelivered;

    // Counts of retired instructions at which something holds for the next instruction, so that it ends by itself.
    private ulong _movSsShadowAt = ulong.MaxValue, _noSingleStepAt = ulong.MaxValue;

    /// <summary>STI, MOV SS and POP SS: interrupts wait until one more instruction has retired. Called by the handler before it returns.</summary>
    internal void BeginInterruptShadow(Insn* i, bool movSs)
    {
        // Two in a row: only the first one blocks (SDM vol. 3A, "Masking Exceptions and Interrupts When Switching Stacks").
        if (movSs && InMovSsShadow) return;
        State->ShadowAt = State->Retired + i->Ordinal + 1;
        if (movSs) _movSsShadowAt = State->ShadowAt;
    }

    /// <summary>The previous instruction was MOV SS or POP SS: debug exceptions wait too.</summary>
    internal bool InMovSsShadow => State->Retired == _movSsShadowAt;

    /// <summary>The instruction loads TF together with a new privilege (INT n, SYSCALL): no single-step trap follows it.</summary>
    internal void SuppressSingleStep(Insn* i) => _noSingleStepAt = State->Retired + i->Ordinal + 1;

    /// <summary>
    /// Delivers an exception with <see cref="ProcessorState.Rip"/> as the address to push, escalating to #DF and shutdown as the
    /// SDM's table "Conditions for Generating a Double Fault" says. Sets <see cref="TripleFaulted"/> in the worst case. An exception of the delivery that the
    /// exception bitmap has, and shutdown, leave an exit pending.
    /// </summary>
    internal void DeliverException(Vector vector, uint? errorCode)
    {
        DeliverWithEscalation(vector, errorCode, EventSource.Exception);
    }

    /// <summary>Delivers an external interrupt between two instructions.</summary>
    internal void DeliverInterrupt(byte vector)
    {
        DeliverWithEscalation((Vector)vector, null, EventSource.External);
    }

    /// <summary>Delivers an NMI between two instructions and blocks further ones.</summary>
    internal void DeliverNmi()
    {
        InterruptsDelivered++;
        NmiBlocked = true;
        DeliverWithEscalation(Vector.Nmi, null, EventSource.Nmi);
    }

    private void DeliverWithEscalation(Vector vector, uint? errorCode, EventSource source)
    {
        ulong delivered = source == EventSource.Exception ? 1ul : 0;
        DropCompletion();
        while (true)
        {
            _deliveringEvent = true;
            try
            {
                Deliver(vector, errorCode, source, State->Rip);
                ExceptionsDelivered += delivered;
                return;
            }
            catch (GuestFault second)
            {
                // Asked for each exception as it is, before anything is made of it.
                if (Intercepts(second.Vector))
                {
                    ExitWithException(second.Vector, second.ErrorCode);
                    return;
                }
                if (vector == Vector.Df && source == EventSource.Exception)
                {
                    ExceptionsDelivered += delivered;
                    EnterShutdown();
                    return;
                }
                bool isDouble = source == EventSource.Exception
                    && ((IsContributory(vector) && IsContributory(second.Vector))
                        || (vector == Vector.Pf && (second.Vector == Vector.Pf || IsContributory(second.Vector))));
                (vector, errorCode) = isDouble ? (Vector.Df, 0u) : (second.Vector, second.ErrorCode);
                if (isDouble && Intercepts(Vector.Df))
                {
                    ExitWithException(Vector.Df, 0);
                    return;
                }
                source = EventSource.Exception;
                delivered++;
            }
            catch (ExitRequest)
            {
                // The second stage refused an access, or a posted write comes first. Nothing has been delivered: the next entry tries again.
                Hold(vector, errorCode, source);
                if (!_accessRefused) TakePostedMmio();
                _accessRefused = false;
                ExitPending = true;
                return;
            }
            finally
            {
                _deliveringEvent = false;
                _vectoring = null;
            }
        }
    }

    /// <summary>The event waits for the next entry.</summary>
    private void Hold(Vector vector, uint? errorCode, EventSource source)
    {
        if (source == EventSource.Exception)
        {
            _injectedException = (vector, errorCode);
            return;
        }
        InterruptsDelivered--;
        if (source == EventSource.Nmi)
        {
            NmiBlocked = false;
            _injectedNmi = true;
        }
        else
        {
            _injectedInterrupt = (byte)vector;
        }
    }

    /// <summary>The event that is being delivered, until it is; what <see cref="VmExit.Vectoring"/> tells.</summary>
    private VectoredEvent? _vectoring;

    /// <summary>Leaves an exit pending for an exception that the exception bitmap has; it is not delivered.</summary>
    private void ExitWithException(Vector vector, uint? errorCode)
    {
        FillExceptionExit(vector, errorCode);
        ExitPending = true;
    }

    /// <summary>An exit of an instruction that has retired comes first; then each entry exits with the shutdown.</summary>
    private void EnterShutdown()
    {
        Activity = CpuActivity.Shutdown;
        if (ExitPending) return;
        Exit.Reason = ExitReason.TripleFault;
        ExitPending = true;
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

    /// <summary>INT n, INT3, INTO, INT1 at <paramref name="i"/>: a fault of the delivery is a fault of the instruction. <see cref="ProcessorState.Rip"/> is the handler's address afterwards.</summary>
    internal Insn* SoftwareInterrupt(Insn* i, byte vector, EventSource source)
    {
        ProcessorState* s = State;
        if (source != EventSource.Interrupt && Intercepts((Vector)vector))
        {
            RequestExit(ExitReason.Exception, vector);
            return Flow.Again(s, i);
        }
        Deliver((Vector)vector, null, source, Flow.NextRip(s, i));
        // INT1 behind MOV SS is one #DB together with the breakpoint that MOV SS held back.
        if (source == EventSource.Icebp) MergeDebugTrap();
        SuppressSingleStep(i);
        return Flow.LeaveTo(s, i, s->Rip);
    }

    /// <summary>Delivers one event; atomic: when it throws, no register has changed.</summary>
    private void Deliver(Vector vector, uint? errorCode, EventSource source, ulong returnRip)
    {
        ProcessorState* s = State;
        bool isSoftware = source is EventSource.Interrupt or EventSource.Trap or EventSource.Icebp;
        _vectoring = new VectoredEvent(Kind(source), (byte)vector, errorCode, isSoftware ? s->Current->Length : (byte)0);
        try
        {
            uint image = FlagsImage(vector, source);
            if ((s->Cr0 & (ulong)Cr0.Pe) == 0) DeliverReal((byte)vector, image, returnRip);
            else if (IsLongMode(s)) DeliverLong((byte)vector, errorCode, source, image, returnRip);
            else if (source == EventSource.Interrupt && IsVirtual8086(s) && !InterruptLeavesVirtual8086((byte)vector)) DeliverVirtual8086((byte)vector, image, returnRip);
            else DeliverProtected((byte)vector, errorCode, source, image, returnRip);
        }
        catch (GuestFault f) when (source is not (EventSource.Interrupt or EventSource.Trap) && f.Vector is Vector.Ts or Vector.Np or Vector.Ss or Vector.Gp)
        {
            // EXT: the fault came up while an event external to the program was delivered.
            f.ErrorCode |= 1;
            throw;
        }
        _vectoring = null;
        if (vector == Vector.Db && source == EventSource.Exception) s->Dr7 &= ~Dr7Gd;
        InterruptShadow = false;
        _movSsShadowAt = ulong.MaxValue;
        ModeChanged();
    }

    /// <summary>RFLAGS as pushed: faults set RF, so that an instruction breakpoint does not fire again at the return.</summary>
    private uint FlagsImage(Vector vector, EventSource source)
    {
        uint image = Flags.Get(State);
        return source switch
        {
            EventSource.Exception when vector is not (Vector.Db or Vector.Bp or Vector.Of or Vector.Df or Vector.Mc) => image | (uint)Rflags.Rf,
            EventSource.External or EventSource.Nmi or EventSource.Exception => image,
            _ => image & ~(uint)Rflags.Rf,
        };
    }

    private GuestFault IdtFault(Vector fault, byte vector) => Fault(fault, (uint)vector << 3 | 2);

    private ulong IdtEntryAddress(byte vector, int size)
    {
        ProcessorState* s = State;
        if ((uint)vector * (uint)size + (uint)size - 1 > s->IdtrLimit) throw IdtFault(Vector.Gp, vector);
        ulong address = s->IdtrBase + (ulong)vector * (ulong)size;
        return IsLongMode(s) ? address : (uint)address;
    }

    private const uint ClearedByEvents = (uint)(Rflags.Tf | Rflags.Nt | Rflags.Rf | Rflags.Vm);

    /// <summary>Real-address mode: the interrupt vector table at IDTR; no error codes.</summary>
    private void DeliverReal(byte vector, uint image, ulong returnRip)
    {
        ProcessorState* s = State;
        uint pointer = ReadSystem<uint>(IdtEntryAddress(vector, 4));
        var stack = CurrentStack();
        stack.Push16((ushort)image);
        stack.Push16(s->Cs.Selector);
        stack.Push16((ushort)returnRip);
        stack.Commit();
        LoadRealSegment(&s->Cs, (ushort)(pointer >> 16), virtual8086: false);
        s->Rip = (ushort)pointer;
        s->FlagsOther &= ~(uint)(Rflags.If | Rflags.Tf | Rflags.Ac | Rflags.Rf);
    }

    /// <summary>Long mode: 16-byte gates, the IST, a stack aligned to 16 bytes that always holds SS:RSP.</summary>
    private void DeliverLong(byte vector, uint? errorCode, EventSource source, uint image, ulong returnRip)
    {
        ProcessorState* s = State;
        ulong entry = IdtEntryAddress(vector, 16);
        var gate = new Descriptor(ReadSystem<ulong>(entry));
        ulong upper = ReadSystem<ulong>(entry + 8);
        if (!gate.IsSystem || gate.Type is not (SystemType.InterruptGate or SystemType.TrapGate)) throw IdtFault(Vector.Gp, vector);
        if (source is EventSource.Interrupt or EventSource.Trap && gate.Dpl < s->Cpl) throw IdtFault(Vector.Gp, vector);
        if (!gate.Present) throw IdtFault(Vector.Np, vector);

        ushort selector = gate.GateSelector;
        if (IsNull(selector)) throw GeneralProtection();
        Descriptor code = ReadDescriptor(selector);
        if (!code.IsCode || code.Dpl > s->Cpl || !code.Long || code.Default32) throw SelectorFault(Vector.Gp, selector);
        if (!code.Present) throw SelectorFault(Vector.Np, selector);

        int cpl = code.Conforming ? s->Cpl : code.Dpl;
        int ist = gate.GateParameterCount & 7;
        bool newStack = ist != 0 || cpl != s->Cpl;
        ulong rsp = s->Rsp;
        if (newStack) rsp = ReadTss<ulong>(ist != 0 ? 36 + (uint)(ist - 1) * 8 : 4 + (uint)cpl * 8);
        ulong target = gate.GateOffset | upper << 32;
        if (!IsCanonical(target)) throw GeneralProtection();

        var stack = new StackWriter(this, null, rsp & ~15ul, ulong.MaxValue, cpl != 3, 0);
        stack.Push64(s->Ss.Selector);
        stack.Push64(s->Rsp);
        stack.Push64(image);
        stack.Push64(s->Cs.Selector);
        stack.Push64(returnRip);
        if (errorCode is { } e) stack.Push64(e);
        code = MarkAccessed(selector, code);

        s->Rsp = stack.Pointer;
        if (cpl != s->Cpl) SetNull(&s->Ss, (ushort)cpl, cpl);
        code.CopyTo(&s->Cs, (ushort)(selector & ~3 | cpl));
        s->Cpl = cpl;
        s->Rip = target;
        s->FlagsOther &= ~(ClearedByEvents | (gate.Type == SystemType.InterruptGate ? (uint)Rflags.If : 0));
    }

    /// <summary>Protected mode and virtual-8086 mode outside long mode: interrupt, trap and task gates of 16 and 32 bits.</summary>
    private void DeliverProtected(byte vector, uint? errorCode, EventSource source, uint image, ulong returnRip)
    {
        ProcessorState* s = State;
        var gate = new Descriptor(ReadSystem<ulong>(IdtEntryAddress(vector, 8)));
        if (!gate.IsSystem || gate.Type is not (SystemType.TaskGate or SystemType.InterruptGate16 or SystemType.TrapGate16 or SystemType.InterruptGate or SystemType.TrapGate))
            throw IdtFault(Vector.Gp, vector);
        if (source is EventSource.Interrupt or EventSource.Trap && gate.Dpl < s->Cpl) throw IdtFault(Vector.Gp, vector);
        if (!gate.Present) throw IdtFault(Vector.Np, vector);
        if (gate.Type == SystemType.TaskGate)
        {
            SwitchTaskThroughGate(gate.GateSelector, TaskSwitchCause.Event, returnRip, image, errorCode);
            return;
        }

        ushort selector = gate.GateSelector;
        if (IsNull(selector)) throw GeneralProtection();
        Descriptor code = ReadDescriptor(selector);
        if (!code.IsCode || code.Dpl > s->Cpl) throw SelectorFault(Vector.Gp, selector);
        if (!code.Present) throw SelectorFault(Vector.Np, selector);
        bool fromVirtual8086 = IsVirtual8086(s);
        bool inner = !code.Conforming && code.Dpl < s->Cpl;
        if (fromVirtual8086 && (!inner || code.Dpl != 0)) throw SelectorFault(Vector.Gp, selector);

        bool wide = (gate.Type & 8) != 0;
        int cpl = inner ? code.Dpl : s->Cpl;
        uint target = wide ? gate.GateOffset : (ushort)gate.GateOffset;
        SegmentRegister newSs = s->Ss;
        StackWriter stack;
        if (inner)
        {
            (ushort ssSelector, ulong esp) = ReadTssStack(cpl);
            if (IsNull(ssSelector)) throw SelectorFault(Vector.Ts, 0);
            CheckStackSegment(ssSelector, cpl, Vector.Ts, Vector.Ss).CopyTo(&newSs, ssSelector);
            stack = new StackWriter(this, &newSs, esp, StackMask(&newSs), supervisor: true, ssSelector & 0xFFFCu);
            if (fromVirtual8086)
            {
                stack.Push(wide, s->Gs.Selector);
                stack.Push(wide, s->Fs.Selector);
                stack.Push(wide, s->Ds.Selector);
                stack.Push(wide, s->Es.Selector);
            }
            stack.Push(wide, s->Ss.Selector);
            stack.Push(wide, (uint)s->Rsp);
        }
        else
        {
            stack = new StackWriter(this, &newSs, s->Rsp, StackMask(&newSs), s->Cpl != 3, 0);
        }
        stack.Push(wide, image);
        stack.Push(wide, s->Cs.Selector);
        stack.Push(wide, (uint)returnRip);
        if (errorCode is { } e) stack.Push(wide, e);
        if (target > code.Limit) throw GeneralProtection();
        code = MarkAccessed(selector, code);

        s->Ss = newSs;
        SetStackPointer(s, stack.Pointer);
        code.CopyTo(&s->Cs, (ushort)(selector & ~3 | cpl));
        s->Cpl = cpl;
        s->Rip = target;
        s->FlagsOther &= ~(ClearedByEvents | ((gate.Type & 1) == 0 ? (uint)Rflags.If : 0));
        if (fromVirtual8086)
        {
            SetNull(&s->Es, 0);
            SetNull(&s->Ds, 0);
            SetNull(&s->Fs, 0);
            SetNull(&s->Gs, 0);
        }
    }

    /// <summary>
    /// INT n in virtual-8086 mode: through the IDT, or with CR4.VME and a clear redirection bit to the 8086 program's own handler.
    /// Intel SDM vol. 3B, "Class 3—Software Interrupt Handling in Virtual-8086 Mode", its table.
    /// </summary>
    private bool InterruptLeavesVirtual8086(byte vector)
    {
        ProcessorState* s = State;
        bool iopl3 = (s->FlagsOther & (uint)Rflags.Iopl) == (uint)Rflags.Iopl;
        if ((s->Cr4 & (ulong)Cr4.Vme) != 0)
        {
            uint map = ReadTss<ushort>(102);
            uint at = map - 32 + vector / 8u;
            if (map < 32 || at > s->Tr.Limit) throw GeneralProtection();
            if ((ReadSystem<byte>(s->Tr.Base + at) >> (vector & 7) & 1) == 0) return false;
        }
        if (!iopl3) throw GeneralProtection();
        return true;
    }

    private void DeliverVirtual8086(byte vector, uint image, ulong returnRip)
    {
        ProcessorState* s = State;
        bool iopl3 = (image & (uint)Rflags.Iopl) == (uint)Rflags.Iopl;
        uint pointer = Access.Read<uint>(this, s, vector * 4u);
        if (!iopl3)
        {
            // The program sees its virtual interrupt flag, and IOPL 3.
            image = image & ~(uint)Rflags.If | (uint)Rflags.Iopl | ((image & (uint)Rflags.Vif) != 0 ? (uint)Rflags.If : 0);
        }
        var stack = CurrentStack();
        stack.Push16((ushort)image);
        stack.Push16(s->Cs.Selector);
        stack.Push16((ushort)returnRip);
        stack.Commit();
        LoadRealSegment(&s->Cs, (ushort)(pointer >> 16), virtual8086: true);
        s->Rip = (ushort)pointer;
        s->FlagsOther &= ~(uint)(Rflags.Tf | Rflags.Nt | Rflags.Rf | (iopl3 ? Rflags.If : Rflags.Vif));
    }
}
