using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>
/// Events that wait for the next entry, and what holds events back: interrupt shadow, NMI blocking, activity. What becomes of an event that is taken is in
/// <see cref="EventDelivery"/>.
/// </summary>
internal sealed unsafe class Events(Processor p)
{
    private (Vector Vector, uint? ErrorCode)? _injectedException;
    private int _injectedInterrupt = -1;
    private VectoredEvent? _injectedSoftware; // what a hypervisor inside the guest injects, and no instruction has asked for
    private bool _injectedNmi;
    private bool _heldNmi; // came with the state from an engine that holds a blocked NMI itself
    private IInterruptAcknowledge? _offeredInterrupt; // for the next entry
    private bool _offeredInHlt; // an interrupt that goes away does not end HLT
    private ulong _movSsShadowAt = ulong.MaxValue; // as ProcessorState.ShadowAt

    /// <inheritdoc cref="IVirtualCpu.Activity"/>
    public CpuActivity Activity { get; set; }

    /// <summary>A fault occurred while a double fault was delivered: the processor is in shutdown, which only a reset ends.</summary>
    public bool TripleFaulted => Activity == CpuActivity.Shutdown;

    /// <summary>NMIs are held until the next IRET.</summary>
    public bool NmiBlocked { get; set; }

    /// <summary>The IRET that has just been abandoned, for its own fault or exit, ended blocking of NMIs.</summary>
    public bool IretUnblockedNmis { get; set; }

    /// <summary>Blocking by STI or by MOV SS/POP SS is in force for the next instruction.</summary>
    public bool InterruptShadow
    {
        get => p.State->Retired == p.State->ShadowAt;
        set => p.State->ShadowAt = value ? p.State->Retired : ulong.MaxValue;
    }

    /// <summary>The previous instruction was MOV SS or POP SS: debug exceptions wait too.</summary>
    public bool InMovSsShadow => p.State->Retired == _movSsShadowAt;

    /// <summary>STI, MOV SS and POP SS: interrupts wait until one more instruction has retired. Called by the handler before it returns.</summary>
    public void BeginInterruptShadow(Insn* i, bool movSs)
    {
        // Two in a row: only the first one blocks (SDM vol. 3A, "Masking Exceptions and Interrupts When Switching Stacks").
        if (movSs && InMovSsShadow) return;
        p.State->ShadowAt = p.State->Retired + i->Ordinal + 1;
        if (movSs) _movSsShadowAt = p.State->ShadowAt;
    }

    /// <summary>The blocking that a VMCS says is in force.</summary>
    public void LoadBlocking(Interruptibility blocking)
    {
        EndShadows();
        bool movSs = (blocking & Interruptibility.BlockingByMovSs) != 0;
        if (movSs || (blocking & Interruptibility.BlockingBySti) != 0) InterruptShadow = true;
        if (movSs) _movSsShadowAt = p.State->Retired;
        NmiBlocked = (blocking & Interruptibility.BlockingByNmi) != 0;
        if (InterruptShadow) p.WantAttention();
    }

    /// <summary>An event was delivered, or the state replaced.</summary>
    public void EndShadows()
    {
        InterruptShadow = false;
        _movSsShadowAt = ulong.MaxValue;
    }

    private bool CanTakeEvent => !InterruptShadow && !p.Exits.IsHalfDone && _injectedException == null && !_injectedNmi && _injectedInterrupt < 0
        && _injectedSoftware == null;

    /// <summary>Nothing masks external interrupts: RFLAGS.IF, or what a hypervisor inside the guest says instead.</summary>
    private bool InterruptsEnabled
    {
        get
        {
            bool enabled = (p.State->FlagsOther & (uint)Rflags.If) != 0;
            return p.GuestHypervisor is { } hypervisor ? hypervisor.AllowsInterrupts(enabled) : enabled;
        }
    }

    public bool InterruptWindowOpen => InterruptsEnabled && CanTakeEvent;

    public bool NmiWindowOpen => (p.GuestHypervisor is { } hypervisor ? hypervisor.AllowsNmis(!NmiBlocked) : !NmiBlocked) && CanTakeEvent;

    /// <summary>As <see cref="InterruptWindowOpen"/>, by RFLAGS.IF whatever a hypervisor inside the guest says.</summary>
    public bool GuestInterruptWindowOpen => (p.State->FlagsOther & (uint)Rflags.If) != 0 && CanTakeEvent;

    /// <summary>Nothing but blocking of NMIs keeps an NMI from being delivered now.</summary>
    public bool CanTakeNmiWhenUnblocked => CanTakeEvent;

    /// <summary>
    /// While a window is wanted that the next instruction may open, every block returns to the dispatcher. An interrupt window does not open before IF is set,
    /// which only instructions do that return there themselves.
    /// </summary>
    public void UpdateWindowAttention()
    {
        bool interrupt = p.Controls.InterruptWindowExiting, flag = (p.State->FlagsOther & (uint)Rflags.If) != 0, enabled = flag;
        bool inner = false, always = false;
        if (p.GuestHypervisor is { } hypervisor)
        {
            enabled = hypervisor.AllowsInterrupts(flag);
            GuestWindow window = hypervisor.Window;
            (inner, always) = ((window & GuestWindow.Interrupt) != 0, (window & GuestWindow.Always) != 0);
        }
        p.State->WindowAttention = (interrupt && !enabled) || (inner && !flag) ? 1 : 0;
        if ((interrupt && enabled) || (inner && flag) || always || p.Controls.NmiWindowExiting || _heldNmi) p.WantAttention();
    }

    /// <summary>A wanted interrupt window waited for IF, and IF is set now.</summary>
    public bool WindowIsDue => p.State->WindowAttention != 0 && (p.State->FlagsOther & (uint)Rflags.If) != 0;

    public void InjectInterrupt(byte vector)
    {
        if (!InterruptWindowOpen) throw new InvalidOperationException("the interrupt window is closed");
        _injectedInterrupt = vector;
    }

    /// <inheritdoc cref="IX86Cpu.OfferInterrupt"/>
    public void OfferInterrupt(IInterruptAcknowledge source)
    {
        if (!InterruptWindowOpen) throw new InvalidOperationException("the interrupt window is closed");
        // Offered once more before it was entered, it is active in name only.
        _offeredInHlt = Activity == CpuActivity.Halted || (_offeredInterrupt != null && _offeredInHlt);
        _offeredInterrupt = source;
    }

    public void InjectNmi()
    {
        if (!NmiWindowOpen) throw new InvalidOperationException("the NMI window is closed");
        _injectedNmi = true;
    }

    /// <summary>An NMI is to be delivered at the next entry.</summary>
    public bool NmiInjected => _injectedNmi;

    public void InjectException(Vector vector, uint? errorCode) => _injectedException = (vector, errorCode);

    /// <summary>An event whose delivery was abandoned for an exit waits for the next entry.</summary>
    public void Hold(Vector vector, uint? errorCode, EventSource source, byte instructionLength)
    {
        if (source is EventSource.Interrupt or EventSource.Trap or EventSource.Icebp)
        {
            EventKind kind = source == EventSource.Interrupt ? EventKind.SoftwareInterrupt
                : source == EventSource.Trap ? EventKind.SoftwareException : EventKind.PrivilegedSoftwareException;
            _injectedSoftware = new VectoredEvent(kind, (byte)vector, errorCode, instructionLength);
            return;
        }
        if (source == EventSource.Exception) _injectedException = (vector, errorCode);
        else if (source == EventSource.Nmi) _injectedNmi = true;
        else _injectedInterrupt = (byte)vector;
    }

    /// <summary>The event that waits for the next entry; null: none.</summary>
    public PendingEvent? Held
    {
        get => _injectedException is { } e ? new PendingEvent(EventKind.HardwareException, (byte)e.Vector, e.ErrorCode)
            : _injectedNmi ? new PendingEvent(EventKind.Nmi, (byte)Vector.Nmi)
            : _injectedInterrupt >= 0 ? new PendingEvent(EventKind.ExternalInterrupt, (byte)_injectedInterrupt)
            : _injectedSoftware is { } software ? new PendingEvent(software.Kind, software.Vector, software.ErrorCode, software.InstructionLength)
            : null;
        set
        {
            _injectedException = value is { Kind: EventKind.HardwareException } e ? ((Vector)e.Vector, e.ErrorCode) : null;
            _injectedNmi = value is { Kind: EventKind.Nmi };
            _injectedInterrupt = value is { Kind: EventKind.ExternalInterrupt } i ? i.Vector : -1;
            _injectedSoftware = value is { } s && s.Kind is EventKind.SoftwareInterrupt or EventKind.SoftwareException or EventKind.PrivilegedSoftwareException
                ? new VectoredEvent(s.Kind, s.Vector, s.ErrorCode, s.InstructionLength) : null;
        }
    }

    /// <summary>Forgets an event that waits for the next entry.</summary>
    public void DropHeld() => Held = null;

    /// <summary>Forgets everything that waits.</summary>
    public void DropInjected()
    {
        DropHeld();
        _offeredInterrupt = null;
        _heldNmi = false;
    }

    /// <summary>Enter begins: delivers what was injected.</summary>
    public void DeliverInjected()
    {
        if (_offeredInterrupt is { } source)
        {
            _offeredInterrupt = null;
            TakeInterrupt(source);
        }
        if (_injectedException is { } e)
        {
            _injectedException = null;
            p.Delivery.DeliverException(e.Vector, e.ErrorCode);
        }
        else if (_injectedNmi)
        {
            _injectedNmi = false;
            if (p.GuestHypervisor is { } hypervisor && hypervisor.TakeNmi()) return;
            p.Delivery.DeliverNmi();
        }
        else if (_injectedInterrupt >= 0)
        {
            var vector = (byte)_injectedInterrupt;
            _injectedInterrupt = -1;
            p.Delivery.DeliverInterrupt(vector);
        }
        else if (_injectedSoftware is { } software)
        {
            _injectedSoftware = null;
            p.Delivery.DeliverGuestEvent(software);
        }
    }

    /// <summary>The processor is about to take an external interrupt: acknowledges it.</summary>
    private void TakeInterrupt(IInterruptAcknowledge source)
    {
        if (!InterruptWindowOpen)
        {
            // Something else was injected meanwhile, and goes first.
            p.Controls = p.Controls with { InterruptWindowExiting = true };
            return;
        }
        if (p.GuestHypervisor is { } hypervisor && hypervisor.TakeInterrupt(source)) return;
        byte? vector = source.Acknowledge(out bool more);
        if (vector is { } taken)
        {
            _injectedInterrupt = taken;
        }
        else if (_offeredInHlt)
        {
            Activity = CpuActivity.Halted;
            p.Exits.ExitWith(ExitReason.Hlt);
        }
        if (p.Controls.InterruptWindowExiting != more) p.Controls = p.Controls with { InterruptWindowExiting = more };
    }

    /// <summary>An NMI that a hypervisor inside the guest has seen as an exit of its guest waits until the processor can take it.</summary>
    public void HoldNmi()
    {
        _heldNmi = true;
        p.WantAttention();
    }

    /// <inheritdoc cref="IFollowingCpu.TakeHeldNmi"/>
    public bool TakeHeldNmi()
    {
        if (!_heldNmi || !NmiWindowOpen) return false;
        _heldNmi = false;
        _injectedNmi = true;
        return true;
    }

    /// <summary>The state is that of a processor to which nothing has happened yet.</summary>
    public void Reset()
    {
        Activity = CpuActivity.Active;
        NmiBlocked = false;
        EndShadows();
    }

    public void Save(CpuState state)
    {
        state.InterruptShadow = InterruptShadow;
        state.MovSsShadow = InMovSsShadow;
        state.NmiBlocked = NmiBlocked;
        state.NmiPending = _heldNmi;
        state.Pending = Held;
        state.Activity = Activity;
    }

    public void Restore(CpuState state)
    {
        DropInjected();
        InterruptShadow = state.InterruptShadow;
        _movSsShadowAt = state.MovSsShadow ? p.State->Retired : ulong.MaxValue;
        NmiBlocked = state.NmiBlocked;
        _heldNmi = state.NmiPending;
        Held = state.Pending;
        Activity = state.Activity;
    }
}
