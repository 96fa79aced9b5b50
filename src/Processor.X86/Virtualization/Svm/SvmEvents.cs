using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>
/// Events while a guest runs: injection by VMRUN, virtual interrupts and NMIs, intercepted exceptions, physical interrupts and task switches.
/// </summary>
/// <remarks>AMD APM vol. 2, "Event Injection", "Interrupt and Local APIC Support", "Virtual NMI".</remarks>
internal sealed unsafe class SvmEvents(Processor p, Svm svm)
{
    private bool Has(ulong bits) => (svm.Control->VirtualInterrupt & bits) != 0;

    private void Set(ulong bits, bool value) =>
        svm.Control->VirtualInterrupt = value ? svm.Control->VirtualInterrupt | bits : svm.Control->VirtualInterrupt & ~bits;

    /// <summary>V_INTR_MASKING: RFLAGS.IF and CR8 of the guest are for virtual interrupts alone.</summary>
    public bool MasksPhysicalInterrupts => Has(VirtualInterruptBits.Masking);

    /// <summary>V_TPR, 0 to 15.</summary>
    public ulong TaskPriority
    {
        get => svm.Control->VirtualInterrupt & 0xF;
        set
        {
            svm.Control->VirtualInterrupt = svm.Control->VirtualInterrupt & ~VirtualInterruptBits.Tpr | value & 0xF;
            if (svm.Avic.IsOn) svm.Avic.SetTaskPriority((uint)value << 4);
            p.Events.UpdateWindowAttention();
        }
    }

    /// <summary>STGI and CLGI of the guest are for its virtual GIF.</summary>
    public bool HasVirtualGif => svm.InGuest && svm.Features.VirtualGif && Has(VirtualInterruptBits.GifEnable);

    /// <summary>GIF as the instruction stream at hand has it.</summary>
    public bool GlobalInterruptFlag
    {
        get => HasVirtualGif ? Has(VirtualInterruptBits.Gif) : svm.GlobalInterruptFlag;
        set
        {
            if (HasVirtualGif) Set(VirtualInterruptBits.Gif, value);
            else svm.GlobalInterruptFlag = value;
            p.Events.UpdateWindowAttention();
        }
    }

    public bool HasVirtualNmi => svm.Features.VirtualNmi && Has(VirtualInterruptBits.NmiEnable);

    /// <summary>IRET of the guest ends the blocking of its virtual NMIs.</summary>
    public void EndVirtualNmi()
    {
        Set(VirtualInterruptBits.NmiMask, false);
        if (Has(VirtualInterruptBits.Nmi)) p.WantAttention();
    }

    /// <summary>A virtual interrupt waits, and its priority is high enough.</summary>
    private bool InterruptWaits
    {
        get
        {
            if (svm.Avic.IsOn) return svm.Avic.IsRecognized; // what V_IRQ says does not count
            ulong v = svm.Control->VirtualInterrupt;
            if ((v & VirtualInterruptBits.Irq) == 0) return false;
            return (v & VirtualInterruptBits.IgnoreTpr) != 0 || (v >> VirtualInterruptBits.PriorityShift & 0xF) > (v & 0xF);
        }
    }

    private bool NmiWaits => HasVirtualNmi && Has(VirtualInterruptBits.Nmi) && !Has(VirtualInterruptBits.NmiMask);

    /// <summary>HLT of the guest ends at once. With AVIC it always does: a doorbell wakes nobody who waits outside.</summary>
    public bool EndsHalt => svm.Avic.IsOn || GlobalInterruptFlag && (NmiWaits || (InterruptWaits && (p.State->FlagsOther & (uint)Rflags.If) != 0));

    public GuestWindow Window => svm.Avic.IsRung ? GuestWindow.Always : !GlobalInterruptFlag ? GuestWindow.None
        : NmiWaits ? GuestWindow.Always : InterruptWaits ? GuestWindow.Interrupt : GuestWindow.None;

    /// <summary>Between two blocks: a virtual event that the guest can take.</summary>
    public bool TakeWindow()
    {
        svm.Avic.Answer();
        if (!GlobalInterruptFlag) return false;
        if (NmiWaits && p.Events.CanTakeNmiWhenUnblocked)
        {
            Set(VirtualInterruptBits.Nmi, false);
            Set(VirtualInterruptBits.NmiMask, true);
            p.Delivery.CountGuestEvent();
            p.Delivery.DeliverGuestEvent(new VectoredEvent(EventKind.Nmi, (byte)Vector.Nmi, null));
            return true;
        }
        if (!InterruptWaits || !p.Events.GuestInterruptWindowOpen) return false;
        if (svm.Avic.IsOn)
        {
            svm.Avic.Deliver();
            return true;
        }
        if ((svm.Control->Intercepts1 & SvmIntercepts1.Vintr) != 0)
        {
            svm.WorldSwitch.Exit(SvmExit.Vintr);
            return true;
        }
        Set(VirtualInterruptBits.Irq, false);
        p.Delivery.CountGuestEvent();
        p.Delivery.DeliverInterrupt((byte)(svm.Control->VirtualInterrupt >> VirtualInterruptBits.VectorShift));
        return true;
    }

    /// <summary>VMRUN has loaded the guest: delivers what EVENTINJ asks for. No intercept is asked about the event itself.</summary>
    public void Inject()
    {
        ulong e = svm.Control->EventInjection;
        if ((e & SvmEvent.Valid) == 0) return;
        svm.Control->EventInjection = 0;
        uint type = (uint)(e >> SvmEvent.TypeShift) & SvmEvent.TypeMask;
        uint? errorCode = (e & SvmEvent.ErrorCodeValid) != 0 && type == SvmEvent.Exception ? (uint)(e >> SvmEvent.ErrorCodeShift) : null;
        var vector = (byte)e;
        EventKind kind = type switch
        {
            SvmEvent.External => EventKind.ExternalInterrupt,
            SvmEvent.Nmi => EventKind.Nmi,
            SvmEvent.SoftwareInterrupt => EventKind.SoftwareInterrupt,
            _ => EventKind.HardwareException, // whose gate's privilege nobody checks, for INT3 and INTO either
        };
        if (kind == EventKind.Nmi)
        {
            vector = (byte)Vector.Nmi;
            if (HasVirtualNmi) Set(VirtualInterruptBits.NmiMask, true);
        }
        // What an instruction asked for returns behind it.
        bool asked = kind == EventKind.SoftwareInterrupt || (kind == EventKind.HardwareException && (Vector)vector is Vector.Bp or Vector.Of);
        ulong? returnRip = asked && svm.Features.NextRip ? svm.Control->NextRip : null;
        p.Delivery.DeliverGuestEvent(new VectoredEvent(kind, vector, errorCode), returnRip);
    }

    /// <summary>EXITINTINFO of the event during whose delivery the guest exits.</summary>
    public static ulong Encode(VectoredEvent? vectoring)
    {
        if (vectoring is not { } e) return 0;
        uint type = e.Kind switch
        {
            EventKind.ExternalInterrupt => SvmEvent.External,
            EventKind.Nmi => SvmEvent.Nmi,
            EventKind.SoftwareInterrupt => SvmEvent.SoftwareInterrupt,
            _ => SvmEvent.Exception,
        };
        return e.Vector | (ulong)type << SvmEvent.TypeShift | SvmEvent.Valid
            | (e.ErrorCode is { } code ? SvmEvent.ErrorCodeValid | (ulong)code << SvmEvent.ErrorCodeShift : 0);
    }

    /// <summary>An intercepted exception: CR2 and DR6 stay as they were.</summary>
    public void TakeException(in VectoredEvent exception)
    {
        ProcessorState* s = p.State;
        ulong info2 = 0, nextRip = 0;
        bool isPageFault = exception.Vector == (byte)Vector.Pf;
        if (isPageFault)
        {
            info2 = s->Cr2;
            s->Cr2 = p.Mmu.Cr2BeforeFault;
        }
        if (exception.InstructionLength != 0) nextRip = s->Rip + exception.InstructionLength;
        svm.WorldSwitch.Exit((SvmExit)((ulong)SvmExit.Exception0 + exception.Vector), exception.ErrorCode ?? 0, info2, Encode(p.Delivery.Vectoring), nextRip,
            fetchInstruction: isPageFault);
    }

    /// <summary>EXITINFO2 of a task switch.</summary>
    private const ulong ByIret = 1ul << 36, ByJump = 1ul << 38, HasErrorCode = 1ul << 44, Resume = 1ul << 48;

    public void TakeTaskSwitch(in TaskSwitchRequest request)
    {
        ulong info2 = request.Cause switch { TaskSwitchCause.Iret => ByIret, TaskSwitchCause.Jump => ByJump, _ => 0 };
        if (request.ErrorCode is { } code) info2 |= HasErrorCode | code;
        if ((p.State->FlagsOther & (uint)Rflags.Rf) != 0) info2 |= Resume;
        svm.WorldSwitch.Exit(SvmExit.TaskSwitch, request.Selector, info2, Encode(p.Delivery.Vectoring));
    }

    /// <summary>A physical interrupt: intercepted, it stays unacknowledged for the host.</summary>
    public bool TakeInterrupt()
    {
        if ((svm.Control->Intercepts1 & SvmIntercepts1.Intr) == 0) return false;
        svm.WorldSwitch.Exit(SvmExit.Intr);
        p.Controls = p.Controls with { InterruptWindowExiting = true };
        return true;
    }

    /// <summary>A physical NMI: intercepted, it waits until the host sets GIF.</summary>
    public bool TakeNmi()
    {
        if ((svm.Control->Intercepts1 & SvmIntercepts1.Nmi) == 0) return false;
        svm.WorldSwitch.Exit(SvmExit.Nmi);
        p.Events.HoldNmi();
        return true;
    }
}
