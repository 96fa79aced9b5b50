using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>VM entries: the checks in the manual's order, what is loaded of the guest, and the event that is injected.</summary>
/// <remarks>Intel SDM vol. 3C, "VM Entries".</remarks>
internal sealed unsafe class VmxEntry(Processor p, Vmx vmx)
{
    private readonly VmxEntryChecks _checks = new(p, vmx);

    /// <summary>Name of the check that the last entry failed; null: none. For <c>info vmx</c> and tests.</summary>
    public string? FailedCheck { get; private set; }

    /// <summary>The checks whose failure is that of the instruction; null: none failed.</summary>
    public VmxError? CheckControls()
    {
        _checks.Begin();
        bool isLong = CpuMode.IsLong(p.State);
        if ((vmx.Current.Changed & VmcsParts.Controls) == 0 && isLong == _checkedInLongMode)
        {
            FailedCheck = _checks.FirstFailure(VmxEntryChecks.ControlsInMemory);
            return FailedCheck != null ? VmxError.EntryInvalidControls : null;
        }
        FailedCheck = _checks.FirstFailure(VmxEntryChecks.Controls);
        if (FailedCheck != null) return VmxError.EntryInvalidControls;
        FailedCheck = _checks.FirstFailure(VmxEntryChecks.Host);
        if (FailedCheck != null) return VmxError.EntryInvalidHostState;
        _checkedInLongMode = isLong;
        vmx.Current.Changed &= ~VmcsParts.Controls;
        return null;
    }

    private bool _checkedInLongMode; // controls and host state, when they were found to be valid

    /// <summary>The checks of guest state. Segments that the last exit saved, and nobody has written to, are those that a guest had.</summary>
    private string? FirstFailureOfGuest()
    {
        bool segments = (vmx.Current.Changed & VmcsParts.Segments) != 0;
        string? failed = _checks.FirstFailure(VmxEntryChecks.GuestRegisters) ?? (segments ? _checks.FirstFailure(VmxEntryChecks.GuestSegments) : null)
            ?? _checks.FirstFailure(VmxEntryChecks.GuestRest);
        if (failed == null) vmx.Current.Changed &= ~VmcsParts.Segments;
        return failed;
    }

    /// <summary>An EPT pointer that this processor takes.</summary>
    public bool IsEptPointer(ulong pointer) => _checks.IsEptPointer(pointer);

    /// <summary>The rest of the entry, after <see cref="CheckControls"/>: the guest runs, or the host has its exit.</summary>
    public void Enter(bool launch)
    {
        Vmcs v = vmx.Current;
        ProcessorState* s = p.State;
        s->Current = null;
        v[VmcsField.ExitInterruptionInformation] = 0;
        FailedCheck = FirstFailureOfGuest();
        if (FailedCheck != null)
        {
            vmx.Exit.FailEntry(VmxExitReason.EntryInvalidGuestState, _checks.Qualification);
            return;
        }
        if (_checks.LoadsPdptes && !vmx.TryLoadGuestPdptes(v))
        {
            FailedCheck = "PDPTEs that the guest's CR3 names";
            vmx.Exit.FailEntry(VmxExitReason.EntryInvalidGuestState, 2);
            return;
        }
        LoadGuest(v, s);
        vmx.BeginGuest();
        p.ModeChanged();
        if (!vmx.Has(SecondaryControls.EnableVpid)) p.Tlb.Flush();
        if (!vmx.Exit.LoadMsrs(v[VmcsField.EntryMsrLoadAddress], (uint)v[VmcsField.EntryMsrLoadCount], out uint failed))
        {
            vmx.Exit.FailEntry(VmxExitReason.EntryMsrLoading, failed);
            return;
        }
        if (launch) vmx.Current.Launched = true;
        vmx.Timer.Start();
        vmx.Apic.Enter();
        p.NestedObserver?.Crossed(new NestedCrossing(p.CpuIndex, IsVmx: true, IsEntry: true, vmx.CurrentPointer, 0, 0, 0, s->Rip, s->Retired));
        Inject(v);
    }

    private void LoadGuest(Vmcs v, ProcessorState* s)
    {
        var entry = (EntryControls)v[VmcsField.EntryControls];
        const ulong kept = (ulong)(Cr0.Et | Cr0.Nw | Cr0.Cd);
        ulong cr0 = v[VmcsField.GuestCr0];
        s->Cr0 = cr0 & ControlRegisters.Cr0Defined & ~kept | s->Cr0 & kept;
        s->Cr3 = v[VmcsField.GuestCr3];
        s->Cr4 = v[VmcsField.GuestCr4];
        if ((entry & EntryControls.LoadDebugControls) != 0) s->Dr7 = v[VmcsField.GuestDr7] & ~0xD800ul & uint.MaxValue | DebugUnit.Dr7Fixed;
        p.Msrs.SetSysenter(v[VmcsField.GuestSysenterCs], v[VmcsField.GuestSysenterEsp], v[VmcsField.GuestSysenterEip],
            (entry & EntryControls.LoadDebugControls) != 0 ? v[VmcsField.GuestDebugCtl] : p.Msrs.DebugCtl);
        bool longMode = (entry & EntryControls.Ia32eModeGuest) != 0, systemCalls = (s->Efer & (ulong)Efer.Sce) != 0;
        if ((entry & EntryControls.LoadEfer) != 0)
        {
            s->Efer = v[VmcsField.GuestEfer];
        }
        else
        {
            s->Efer = s->Efer & ~(ulong)Efer.Lma | (longMode ? (ulong)Efer.Lma : 0);
            // LME follows where paging is on; else it stays.
            if ((cr0 & (ulong)Cr0.Pg) != 0) s->Efer = s->Efer & ~(ulong)Efer.Lme | (longMode ? (ulong)Efer.Lme : 0);
        }
        if ((s->Efer & (ulong)Efer.Sce) != 0 != systemCalls) p.Msrs.SystemCallsChanged();
        if ((entry & EntryControls.LoadPat) != 0) p.Msrs.Pat = v[VmcsField.GuestPat];
        s->Es = Segment(v, VmcsField.GuestEsSelector, VmcsField.GuestEsBase, VmcsField.GuestEsLimit, VmcsField.GuestEsRights);
        s->Cs = Segment(v, VmcsField.GuestCsSelector, VmcsField.GuestCsBase, VmcsField.GuestCsLimit, VmcsField.GuestCsRights);
        s->Ss = Segment(v, VmcsField.GuestSsSelector, VmcsField.GuestSsBase, VmcsField.GuestSsLimit, VmcsField.GuestSsRights);
        s->Ds = Segment(v, VmcsField.GuestDsSelector, VmcsField.GuestDsBase, VmcsField.GuestDsLimit, VmcsField.GuestDsRights);
        s->Fs = Segment(v, VmcsField.GuestFsSelector, VmcsField.GuestFsBase, VmcsField.GuestFsLimit, VmcsField.GuestFsRights);
        s->Gs = Segment(v, VmcsField.GuestGsSelector, VmcsField.GuestGsBase, VmcsField.GuestGsLimit, VmcsField.GuestGsRights);
        s->Ldtr = Segment(v, VmcsField.GuestLdtrSelector, VmcsField.GuestLdtrBase, VmcsField.GuestLdtrLimit, VmcsField.GuestLdtrRights);
        s->Tr = Segment(v, VmcsField.GuestTrSelector, VmcsField.GuestTrBase, VmcsField.GuestTrLimit, VmcsField.GuestTrRights);
        s->GdtrBase = v[VmcsField.GuestGdtrBase];
        s->GdtrLimit = (uint)v[VmcsField.GuestGdtrLimit];
        s->IdtrBase = v[VmcsField.GuestIdtrBase];
        s->IdtrLimit = (uint)v[VmcsField.GuestIdtrLimit];
        s->Rip = v[VmcsField.GuestRip];
        s->Rsp = v[VmcsField.GuestRsp];
        Flags.Set(s, (uint)v[VmcsField.GuestRflags]);
        s->Cpl = (int)(v[VmcsField.GuestSsRights] >> 5) & 3;
        p.Events.LoadBlocking((Interruptibility)v[VmcsField.GuestInterruptibility]);
        p.Debug.EnterOtherMode();
    }

    private static SegmentRegister Segment(Vmcs v, VmcsField selector, VmcsField @base, VmcsField limit, VmcsField rights) => new()
    {
        Selector = (ushort)v[selector],
        Base = v[@base],
        Limit = (uint)v[limit],
        Attributes = (uint)v[rights] & (0xF0FF | SegmentRegister.Unusable),
    };

    private const uint Valid = 1u << 31, DeliverErrorCode = 1 << 11;

    /// <summary>Delivers the event that is to be injected, then what is due before the guest's first instruction.</summary>
    private void Inject(Vmcs v)
    {
        var information = (uint)v[VmcsField.EntryInterruptionInformation];
        var activity = (uint)v[VmcsField.GuestActivity];
        bool injects = (information & Valid) != 0;
        vmx.NoteActive();
        if (injects)
        {
            uint type = information >> 8 & 7;
            if (type == 7)
            {
                vmx.TrapPending = true;
            }
            else
            {
                EventKind kind = type switch
                {
                    0 => EventKind.ExternalInterrupt,
                    2 => EventKind.Nmi,
                    3 => EventKind.HardwareException,
                    4 => EventKind.SoftwareInterrupt,
                    5 => EventKind.PrivilegedSoftwareException,
                    _ => EventKind.SoftwareException,
                };
                bool isSoftware = type >= 4;
                if (kind == EventKind.Nmi && vmx.Has(PinControls.VirtualNmis)) p.Events.NmiBlocked = true;
                p.Delivery.DeliverGuestEvent(new VectoredEvent(kind, (byte)information,
                    (information & DeliverErrorCode) != 0 ? (uint)v[VmcsField.EntryExceptionErrorCode] : null,
                    isSoftware ? (byte)v[VmcsField.EntryInstructionLength] : (byte)0));
                if (!vmx.InGuest || p.Exits.Pending) return;
                if (vmx.Has(ProcessorControls.MonitorTrapFlag)) vmx.TrapPending = true; // the delivery is what the flag traps after
            }
        }
        p.Debug.SetPending(v[VmcsField.GuestPendingDebug], injects && (information >> 8 & 7) is not (4 or 5 or 6));
        p.Events.UpdateWindowAttention();
        if (vmx.Timer.IsDue || vmx.TrapPending) p.WantAttention();
        if (injects && (information >> 8 & 7) != 7) return;
        vmx.EnterActivity(activity);
    }
}
