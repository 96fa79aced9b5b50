using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>What a guest's address space, time, activity and shadow VMCS come to.</summary>
internal sealed unsafe partial class Vmx
{
    private ExtendedPageTables? _ept;
    private bool _halted;
    private ulong _haltRip, _haltRetired; // where it has halted: an event that is delivered leads elsewhere
    private ulong _pauseFirst, _pauseLast; // TSC of the first and the last PAUSE of a loop

    // ---- address spaces

    /// <summary>The address space of the side that runs now. <see cref="Processor.ModeChanged"/> must follow.</summary>
    private void SelectAddressSpace()
    {
        if (!InGuest)
        {
            _p.GuestMode.Leave();
            return;
        }
        Vmcs v = Current;
        GuestApicPage apicPage = Has(SecondaryControls.VirtualizeApicAccesses)
            ? new GuestApicPage(ApicAccess, v[VmcsField.ApicAccessAddress] & ~0xFFFul, IsGuestPhysical: false) : default;
        ushort vpid = Has(SecondaryControls.EnableVpid) ? (ushort)v[VmcsField.VirtualProcessorIdentifier] : (ushort)0;
        if (!Has(SecondaryControls.EnableEpt))
        {
            _p.GuestMode.Enter(new AddressSpaceOwner(vpid, GuestRoot), null, apicPage);
            return;
        }
        _ept ??= new ExtendedPageTables(_p, this);
        bool modeBased = Has(SecondaryControls.ModeBasedExecute);
        _ept.Select(v[VmcsField.EptPointer], modeBased);
        _p.GuestMode.Enter(new AddressSpaceOwner(vpid, _ept.Pointer | (modeBased ? ModeBased : 0)), _ept, apicPage);
    }

    /// <summary>With mode-based execute control the same tables mean other rights, so that what is cached of them is not the same.</summary>
    private const ulong ModeBased = 1ul << 62;

    /// <summary>Stands for the second stage of guests without EPT, so that they are told from the host, which has none either.</summary>
    private const ulong GuestRoot = 1ul << 63;

    public void InvalidateEpt(ulong? pointer)
    {
        if (pointer is not { } p)
        {
            _p.Tlb.FlushAll();
            return;
        }
        _p.Tlb.FlushSecondStage(p);
        _p.Tlb.FlushSecondStage(p | ModeBased);
    }

    /// <param name="vpid">Null: all but 0, which are never cached across an entry or exit.</param>
    public void InvalidateVpid(ushort? vpid, ulong? address = null)
    {
        if (vpid is not { } tag) _p.Tlb.FlushAll();
        else if (address is { } linear) _p.Tlb.FlushPage(linear, tag);
        else _p.Tlb.FlushTag(tag);
    }

    /// <summary>CR0 bits that the side that runs now may not clear.</summary>
    public ulong RequiredCr0 => !InOperation ? 0
        : InGuest && Has(SecondaryControls.UnrestrictedGuest) ? VmxCapabilities.Cr0Required & ~(ulong)(Cr0.Pe | Cr0.Pg) : VmxCapabilities.Cr0Required;

    /// <summary>CR4 bits that may not be cleared.</summary>
    public ulong RequiredCr4 => InOperation ? VmxCapabilities.Cr4Required : 0;

    /// <summary>Loads the PDPTEs for an entry, from the VMCS with EPT and else from memory. False: they are not valid.</summary>
    public bool TryLoadGuestPdptes(Vmcs v)
    {
        ProcessorState* s = _p.State;
        bool secondary = ((ProcessorControls)v[VmcsField.ProcessorBasedControls] & ProcessorControls.ActivateSecondaryControls) != 0;
        if (secondary && ((SecondaryControls)v[VmcsField.SecondaryControls] & SecondaryControls.EnableEpt) != 0)
        {
            s->Pdpte0 = v[VmcsField.GuestPdpte0];
            s->Pdpte1 = v[VmcsField.GuestPdpte1];
            s->Pdpte2 = v[VmcsField.GuestPdpte2];
            s->Pdpte3 = v[VmcsField.GuestPdpte3];
            return true;
        }
        try
        {
            _p.Walker.LoadPdptes(v[VmcsField.GuestCr3]);
            return true;
        }
        catch (GuestFault)
        {
            return false;
        }
    }

    /// <summary>An access that the guest's second stage refuses.</summary>
    public bool TakeExit(X86Exit exit)
    {
        if (!InGuest || exit.Reason != ExitReason.EptViolation || _p.Exits.NestedFault is not { } fault) return false;
        Vmcs v = Current;
        PageViolation violation = exit.Violation;
        if (fault.Code == VirtualApicAccess.Refused) return TakeApicAccess(exit);
        if (fault.IsConvertible && Has(SecondaryControls.EptViolationVe) && exit.Vectoring == null && TryRaiseVirtualizationException(exit, fault)) return true;
        v[VmcsField.GuestPhysicalAddress] = exit.Address;
        v[VmcsField.GuestLinearAddress] = violation.LinearAddress;
        // The event whose delivery was abandoned is told as IDT vectoring.
        _p.Delivery.Vectoring = exit.Vectoring;
        try
        {
            if (fault.IsMisconfiguration)
            {
                Exit.Leave(VmxExitReason.EptMisconfiguration, 0, 0);
                return true;
            }
            if (fault.Code == ExtendedPageTables.LogFull)
            {
                Exit.Leave(VmxExitReason.PmlFull, UnblockingOfNmis(exit), 0);
                return true;
            }
            Exit.Leave(VmxExitReason.EptViolation, Qualification(fault, violation) | UnblockingOfNmis(exit), 0);
        }
        finally
        {
            _p.Delivery.Vectoring = null;
        }
        return true;
    }

    /// <summary>An access to the APIC-access page that is not virtualized. Intel SDM vol. 3C, "Exit Qualification for APIC-Access VM Exits".</summary>
    private bool TakeApicAccess(X86Exit exit)
    {
        PageViolation violation = exit.Violation;
        bool delivers = exit.Vectoring != null;
        // Of an access to a paging structure no offset is told.
        ulong type = violation.IsTableAccess ? (delivers ? 10u : 15u) : delivers ? 3u
            : violation.Wanted switch { PageRights.Read => 0u, PageRights.Write => 1u, _ => 2u };
        ulong offset = violation.IsTableAccess ? 0 : exit.Address & 0xFFF;
        _p.Delivery.Vectoring = exit.Vectoring;
        // Hypervisors rely on the length of an instruction that accesses the page.
        Exit.Leave(VmxExitReason.ApicAccess, offset | type << 12, delivers ? 0 : _p.Exits.RefusedInstructionLength);
        _p.Delivery.Vectoring = null;
        return true;
    }

    /// <summary>Bit 7: there is a linear address; bit 8: the access is its own, and not that of a paging structure.</summary>
    private static ulong Qualification(in SecondStageFault fault, in PageViolation violation) => fault.Code | 1 << 7 | (violation.IsTableAccess ? 0u : 1u << 8);

    /// <summary>
    /// The EPT violation becomes an exception of the guest: what would be told to the hypervisor stands in the guest's memory. Not while the guest has not
    /// taken the last one's information, and not in real mode.
    /// </summary>
    /// <remarks>Intel SDM vol. 3C, "Virtualization Exceptions".</remarks>
    private bool TryRaiseVirtualizationException(X86Exit exit, in SecondStageFault fault)
    {
        if ((_p.State->Cr0 & (ulong)Cr0.Pe) == 0) return false;
        byte* area = Memory.Pointer(Current[VmcsField.VirtualizationExceptionAddress] & ~0xFFFul, PageRights.Read | PageRights.Write);
        if (area == null || *(uint*)(area + 4) != 0) return false;
        Memory.BeforeWrite(area);
        *(uint*)area = (uint)VmxExitReason.EptViolation;
        *(uint*)(area + 4) = uint.MaxValue;
        *(ulong*)(area + 8) = Qualification(fault, exit.Violation);
        *(ulong*)(area + 16) = exit.Violation.LinearAddress;
        *(ulong*)(area + 24) = exit.Address;
        *(ushort*)(area + 32) = (ushort)Current[VmcsField.EptpIndex];
        Memory.Written(area, 34);
        if (!_p.Exits.TryExitWithException(Vector.Ve, null)) _p.Delivery.DeliverException(Vector.Ve, null);
        return true;
    }

    /// <summary>Bit 12 of the qualification: the access belongs to an IRET that has ended blocking of NMIs.</summary>
    private ulong UnblockingOfNmis(X86Exit exit)
    {
        if (!_p.Events.IretUnblockedNmis || exit.Vectoring != null) return 0;
        _p.Events.NmiBlocked = false;
        return 1 << 12;
    }

    // ---- page-modification logging

    private const ulong LastLogEntry = 511;

    /// <summary>The next write that sets a dirty flag exits.</summary>
    public bool PageLogIsFull => Current[VmcsField.PmlIndex] > LastLogEntry;

    /// <summary>A dirty flag of EPT was set. Intel SDM vol. 3C, "Page-Modification Logging".</summary>
    public void LogPage(ulong guestPhysical)
    {
        ref ulong index = ref Current[VmcsField.PmlIndex];
        Memory.Write(Current[VmcsField.PmlAddress] + index * sizeof(ulong), guestPhysical & ~0xFFFul);
        index = (ushort)(index - 1);
    }

    // ---- VM functions

    /// <summary>VMFUNC: leaf 0, EPTP switching.</summary>
    public Insn* Function(Insn* i)
    {
        ProcessorState* s = _p.State;
        Vmcs v = Current;
        var leaf = (uint)s->Rax;
        if (leaf >= 64 || (v[VmcsField.VmFunctionControls] >> (int)leaf & 1) == 0) return Leave(i, VmxExitReason.Vmfunc, 0);
        var index = (uint)s->Rcx;
        if (index >= 512) return Leave(i, VmxExitReason.Vmfunc, 0);
        ulong pointer = Memory.Read<ulong>(v[VmcsField.EptpListAddress] + index * 8);
        if (!Entry.IsEptPointer(pointer)) return Leave(i, VmxExitReason.Vmfunc, 0);
        v[VmcsField.EptPointer] = pointer;
        if (Has(SecondaryControls.EptViolationVe)) v[VmcsField.EptpIndex] = index;
        SelectAddressSpace();
        _p.ModeChanged();
        return Flow.Leave(s, i);
    }

    // ---- time

    /// <summary>The TSC multiplier is a binary fraction of 48 bits.</summary>
    private const int MultiplierShift = 48;

    /// <summary>The guest's TSC under TSC scaling: multiplied, then the offset.</summary>
    public ulong ScaledTsc => (ulong)((UInt128)_p.Msrs.GuestTsc * Current[VmcsField.TscMultiplier] >> MultiplierShift) + Current[VmcsField.TscOffset];

    /// <summary>PAUSE at CPL 0 under PAUSE-loop exiting: true when the loop has lasted longer than the window.</summary>
    public bool PauseLoopEnds()
    {
        ulong now = _p.Clock.Counter;
        ulong gap = now - _pauseLast;
        _pauseLast = now;
        if (gap > Current[VmcsField.PleGap])
        {
            _pauseFirst = now;
            return false;
        }
        return now - _pauseFirst > Current[VmcsField.PleWindow];
    }

    // ---- activity

    /// <summary>The guest has halted, and nothing has woken it since.</summary>
    public bool IsHalted => _halted && _p.State->Rip == _haltRip && _p.State->Retired == _haltRetired;

    /// <summary>HLT of the guest has retired.</summary>
    public void NoteHalt()
    {
        if (_p.Events.Activity == CpuActivity.Halted) BeginHalt();
    }

    /// <summary>
    /// The guest waits. Where its hypervisor's timer runs, the hypervisor outside must not wait for events alone: the processor comes back to it again and
    /// again.
    /// </summary>
    private void BeginHalt()
    {
        (_halted, _haltRip, _haltRetired) = (true, _p.State->Rip, _p.State->Retired);
        if (!Timer.Runs) return;
        _p.Exits.Drop();
        _p.Events.Activity = CpuActivity.Active;
        _p.WantAttention();
    }

    public void NoteActive() => _halted = false;

    /// <summary>A notification of posted interrupts has been taken: of a guest that waits it ends the halt only with an interrupt that it can take.</summary>
    private void GoOnHalting()
    {
        if (!IsHalted || EndsHalt) return;
        BeginHalt();
        if (Timer.Runs) return;
        _p.Events.Activity = CpuActivity.Halted;
        _p.Exits.ExitWith(ExitReason.Hlt);
    }

    private const uint HaltedActivity = 1, WaitForStartUpActivity = 3;

    /// <summary>The activity state that an exit saves.</summary>
    public uint Activity => WaitsForStartUp ? WaitForStartUpActivity : IsHalted ? HaltedActivity : 0;

    /// <summary>The guest is entered in an activity state, or goes on.</summary>
    public void EnterActivity(uint activity)
    {
        if (activity == WaitForStartUpActivity)
        {
            WaitsForStartUp = true;
            _p.Events.Activity = CpuActivity.WaitForStartUp;
            _p.Exits.ExitWith(ExitReason.Hlt);
            return;
        }
        // An interrupt that waits ends the halt before it has begun.
        if (activity != HaltedActivity || (Apic.IsRecognized && _p.Events.GuestInterruptWindowOpen)) return;
        _p.Events.Activity = CpuActivity.Halted;
        _p.Exits.ExitWith(ExitReason.Hlt);
        BeginHalt();
        // What is due wakes it at once.
        if (TakeTrap() || (Window != GuestWindow.None && TakeWindow())) _p.Exits.Drop();
    }

    // ---- INIT and the start-up IPI

    private bool _initWaits; // it is blocked, and whoever has it wants to hear when it is not
    private bool _initDue; // it exits
    private byte? _startUpDue; // vector of the start-up IPI that exits

    /// <summary>The guest was entered in the activity state wait-for-SIPI: nothing but a start-up IPI comes through.</summary>
    public bool WaitsForStartUp { get; private set; }

    /// <summary>INIT comes. Between exits.</summary>
    /// <remarks>Intel SDM vol. 3C, "Other Causes of VM Exits"; vol. 3A, "Interrupts in VMX Operation": VMX root operation blocks it.</remarks>
    public InitResponse TakeInit()
    {
        if (!InOperation) return InitResponse.Initialize;
        if (!InGuest || WaitsForStartUp)
        {
            _initWaits = true;
            return InitResponse.Blocked;
        }
        _initDue = true;
        _p.Events.Activity = CpuActivity.Active;
        _p.WantAttention();
        return InitResponse.Taken;
    }

    /// <summary>A start-up IPI comes. False: the processor does not wait for one inside a guest.</summary>
    public bool TakeStartUp(byte vector)
    {
        if (!WaitsForStartUp) return false;
        _startUpDue = vector;
        _p.Events.Activity = CpuActivity.Active;
        _p.WantAttention();
        return true;
    }

    /// <summary>What blocked INIT has ended: whoever has one that waits is to ask again.</summary>
    private void InitIsFree()
    {
        if (_initWaits) _p.Kick();
        _initWaits = false;
    }

    private bool TakeSignals()
    {
        if (_startUpDue is { } vector) return LeaveFor(VmxExitReason.StartupIpi, vector);
        return _initDue && LeaveFor(VmxExitReason.Init);
    }

    /// <summary>The exit is of an instruction that was about to execute: RF is saved as 0.</summary>
    public static bool IsOfInstruction(VmxExitReason reason) => reason is not (VmxExitReason.ExceptionOrNmi or VmxExitReason.ExternalInterrupt
        or VmxExitReason.TripleFault or VmxExitReason.Init or VmxExitReason.StartupIpi or VmxExitReason.InterruptWindow or VmxExitReason.NmiWindow
        or VmxExitReason.TaskSwitch or VmxExitReason.MonitorTrapFlag or VmxExitReason.TprBelowThreshold or VmxExitReason.ApicAccess
        or VmxExitReason.VirtualizedEoi or VmxExitReason.EptViolation or VmxExitReason.EptMisconfiguration or VmxExitReason.PreemptionTimer
        or VmxExitReason.ApicWrite or VmxExitReason.PmlFull);

    // ---- VMCS shadowing

    /// <summary>VMREAD or VMWRITE in the guest is for its shadow VMCS. False: it exits.</summary>
    public bool UsesShadow(ProcessorState* s, ulong encoding, VmcsField bitmap) =>
        Has(SecondaryControls.VmcsShadowing) && s->Cpl == 0 && CpuMode.IsProtected(s) && (!CpuMode.IsLong(s) || s->Cs.Long)
        && encoding <= 0x7FFF && !Memory.Bit(Current[bitmap], (uint)encoding);

    /// <summary>The field of the shadow VMCS; or the flags of a failure: there is no shadow VMCS, or no such field.</summary>
    public uint? FindShadowed(ulong encoding, out VmcsField field, out bool high)
    {
        field = 0;
        high = false;
        if (Current[VmcsField.VmcsLinkPointer] == NoPointer) return VmxInstructions.FailedInvalid;
        if (VmcsFields.TryFind(encoding, out field, out high)) return null;
        Current[VmcsField.InstructionError] = (uint)VmxError.UnsupportedField; // of the current VMCS, not of its shadow
        return VmxInstructions.Failed;
    }

    public ulong ReadShadow(VmcsField field, bool high)
    {
        ulong value = Memory.Read<ulong>(Current[VmcsField.VmcsLinkPointer] + (ulong)Vmcs.OffsetOf(field));
        return high ? value >> 32 : value;
    }

    public void WriteShadow(VmcsField field, bool high, ulong value)
    {
        ulong at = Current[VmcsField.VmcsLinkPointer] + (ulong)Vmcs.OffsetOf(field);
        Memory.Write(at, Merge(Memory.Read<ulong>(at), field, high, value, wide: true));
    }
}
