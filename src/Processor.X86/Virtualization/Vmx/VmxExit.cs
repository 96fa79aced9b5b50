using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>VM exits: what is told of them, what is saved of the guest, what is loaded of the host. Intel SDM vol. 3C, "VM Exits".</summary>
internal sealed unsafe class VmxExit(Processor p, Vmx vmx)
{
    private const uint Valid = 1u << 31, ErrorCodeValid = 1 << 11, NmiUnblocking = 1 << 12;

    /// <summary>The interruption type that the fields about events hold.</summary>
    private static uint Type(EventKind kind) => kind switch
    {
        EventKind.ExternalInterrupt => 0,
        EventKind.Nmi => 2,
        EventKind.HardwareException => 3,
        EventKind.SoftwareInterrupt => 4,
        EventKind.PrivilegedSoftwareException => 5,
        _ => 6,
    };

    private static uint Information(in VectoredEvent e) => e.Vector | Type(e.Kind) << 8 | (e.ErrorCode != null ? ErrorCodeValid : 0) | Valid;

    /// <summary>Exits that no event of the guest causes. RIP is what the guest's state gets.</summary>
    /// <param name="length">Of the instruction that exits; 0 for other exits.</param>
    public void Leave(VmxExitReason reason, ulong qualification, uint length, uint information = 0)
    {
        Vmcs v = vmx.Current;
        v[VmcsField.ExitInterruptionInformation] = 0;
        Leave((uint)reason, qualification, length, information);
    }

    /// <summary>Exits because of an exception, an external interrupt that was acknowledged, or an NMI.</summary>
    public void LeaveForEvent(in VectoredEvent e, ulong qualification)
    {
        Vmcs v = vmx.Current;
        bool unblocked = p.Events.IretUnblockedNmis && p.Delivery.Vectoring == null && e is not { Kind: EventKind.HardwareException, Vector: (byte)Vector.Df };
        v[VmcsField.ExitInterruptionInformation] = Information(e) | (unblocked ? NmiUnblocking : 0);
        v[VmcsField.ExitInterruptionErrorCode] = e.ErrorCode ?? 0;
        Leave((uint)(e.Kind == EventKind.ExternalInterrupt ? VmxExitReason.ExternalInterrupt : VmxExitReason.ExceptionOrNmi), qualification,
            e.InstructionLength, 0);
    }

    private void Leave(uint reason, ulong qualification, uint length, uint information)
    {
        Vmcs v = vmx.Current;
        p.Delivery.CountGuestEvent();
        // What a list of MSRs stores of the TSC is the time of the exit, not of the work that it makes.
        ulong tsc = v[VmcsField.ExitMsrStoreCount] != 0 ? p.Msrs.GuestTsc - vmx.AddedTscOffset : 0;
        v[VmcsField.ExitReason] = reason;
        v[VmcsField.ExitQualification] = qualification;
        v[VmcsField.ExitInstructionInformation] = information;
        VectoredEvent? vectoring = p.Delivery.Vectoring;
        bool isDelivery = vectoring != null && reason != (uint)VmxExitReason.TripleFault;
        v[VmcsField.IdtVectoringInformation] = isDelivery ? Information(vectoring!.Value) : 0;
        v[VmcsField.IdtVectoringErrorCode] = isDelivery ? vectoring!.Value.ErrorCode ?? 0 : 0;
        // Of the instruction that asked for the event that was being delivered.
        if (isDelivery && length == 0) length = vectoring!.Value.InstructionLength;
        v[VmcsField.ExitInstructionLength] = length;
        v[VmcsField.EntryInterruptionInformation] &= ~(ulong)Valid;
        SaveGuest(v);
        Tell(v);
        if (!StoreMsrs(v, tsc))
        {
            Abort(VmxAbort.SavingMsrs);
            return;
        }
        bool isNmi = reason == (uint)VmxExitReason.ExceptionOrNmi && (v[VmcsField.ExitInterruptionInformation] & 0x7FF) == (2 << 8 | (ulong)Vector.Nmi);
        bool keepsBlocking = !vmx.Has(PinControls.VirtualNmis) && p.Events.NmiBlocked;
        vmx.EndGuest();
        LoadHost(v, nmiBlocked: isNmi || keepsBlocking);
    }

    /// <summary>An entry failed after its checks of controls and host state: the host's state is loaded, nothing of the guest is saved.</summary>
    public void FailEntry(VmxExitReason reason, ulong qualification)
    {
        Vmcs v = vmx.Current;
        p.Delivery.CountGuestEvent();
        v[VmcsField.ExitReason] = (uint)reason | 1u << 31;
        v[VmcsField.ExitQualification] = qualification;
        Tell(v, vmx.Entry.FailedCheck);
        bool blocked = p.Events.NmiBlocked;
        if (vmx.InGuest) vmx.EndGuest();
        LoadHost(v, blocked);
    }

    private void Tell(Vmcs v, string? failed = null) => p.NestedObserver?.Crossed(new NestedCrossing(p.CpuIndex, IsVmx: true, IsEntry: false,
        vmx.CurrentPointer, v[VmcsField.ExitReason], v[VmcsField.ExitQualification], v[VmcsField.GuestPhysicalAddress], v[VmcsField.GuestRip],
        p.State->Retired, failed));

    // ---- saving the guest

    private void SaveGuest(Vmcs v)
    {
        ProcessorState* s = p.State;
        var exit = (ExitControls)v[VmcsField.ExitControls];
        v[VmcsField.GuestCr0] = s->Cr0;
        v[VmcsField.GuestCr3] = s->Cr3;
        v[VmcsField.GuestCr4] = s->Cr4;
        if ((exit & ExitControls.SaveDebugControls) != 0)
        {
            v[VmcsField.GuestDr7] = s->Dr7;
            v[VmcsField.GuestDebugCtl] = p.Msrs.DebugCtl;
        }
        v[VmcsField.GuestSysenterCs] = p.Msrs.SysenterCs;
        v[VmcsField.GuestSysenterEsp] = p.Msrs.SysenterEsp;
        v[VmcsField.GuestSysenterEip] = p.Msrs.SysenterEip;
        SaveSegments(v, s);
        v[VmcsField.GuestGdtrBase] = s->GdtrBase;
        v[VmcsField.GuestGdtrLimit] = s->GdtrLimit;
        v[VmcsField.GuestIdtrBase] = s->IdtrBase;
        v[VmcsField.GuestIdtrLimit] = s->IdtrLimit;
        v[VmcsField.GuestRip] = s->Rip;
        v[VmcsField.GuestRsp] = s->Rsp;
        v[VmcsField.GuestRflags] = SavedFlags(v, s);
        if ((exit & ExitControls.SavePat) != 0) v[VmcsField.GuestPat] = p.Msrs.Pat;
        if ((exit & ExitControls.SaveEfer) != 0) v[VmcsField.GuestEfer] = s->Efer;
        if ((exit & ExitControls.SavePreemptionTimer) != 0 && vmx.Timer.Runs)
            v[VmcsField.PreemptionTimer] = (VmxExitReason)v[VmcsField.ExitReason] == VmxExitReason.PreemptionTimer ? 0 : vmx.Timer.Remaining;
        ulong entry = v[VmcsField.EntryControls] & ~(ulong)EntryControls.Ia32eModeGuest;
        v.Write(VmcsField.EntryControls, entry | (CpuMode.IsLong(s) ? (ulong)EntryControls.Ia32eModeGuest : 0));
        Interruptibility blocking = p.Events.InMovSsShadow ? Interruptibility.BlockingByMovSs : p.Events.InterruptShadow ? Interruptibility.BlockingBySti : 0;
        if (p.Events.NmiBlocked) blocking |= Interruptibility.BlockingByNmi;
        v[VmcsField.GuestInterruptibility] = (uint)blocking;
        v[VmcsField.GuestActivity] = vmx.Activity;
        v[VmcsField.GuestPendingDebug] = p.Debug.TakePending();
        if (vmx.Has(SecondaryControls.EnableEpt) && (s->Cr0 & (ulong)Cr0.Pg) != 0 && (s->Cr4 & (ulong)Cr4.Pae) != 0 && !CpuMode.IsLong(s))
        {
            v[VmcsField.GuestPdpte0] = s->Pdpte0;
            v[VmcsField.GuestPdpte1] = s->Pdpte1;
            v[VmcsField.GuestPdpte2] = s->Pdpte2;
            v[VmcsField.GuestPdpte3] = s->Pdpte3;
        }
    }

    /// <summary>RF as the event would have pushed it: faults set it. Intel SDM vol. 3C, "Saving RIP, RSP, RFLAGS, and SSP".</summary>
    private uint SavedFlags(Vmcs v, ProcessorState* s)
    {
        uint flags = Flags.Get(s);
        var reason = (VmxExitReason)v[VmcsField.ExitReason];
        ulong information = v[VmcsField.ExitInterruptionInformation];
        bool isFault = reason == VmxExitReason.ExceptionOrNmi && (information >> 8 & 7) == 3
            && (Vector)(byte)information is not (Vector.Db or Vector.Df or Vector.Mc);
        if (p.Delivery.Vectoring is { } e)
            return e.Kind == EventKind.HardwareException && (Vector)e.Vector is not (Vector.Db or Vector.Df or Vector.Mc) ? flags | (uint)Rflags.Rf : flags;
        if (Vmx.IsOfInstruction(reason)) return flags & ~(uint)Rflags.Rf;
        return isFault || reason is VmxExitReason.EptViolation or VmxExitReason.EptMisconfiguration or VmxExitReason.PmlFull or VmxExitReason.ApicAccess
            ? flags | (uint)Rflags.Rf : flags;
    }

    private static void SaveSegments(Vmcs v, ProcessorState* s)
    {
        Save(v, s->Es, VmcsField.GuestEsSelector, VmcsField.GuestEsBase, VmcsField.GuestEsLimit, VmcsField.GuestEsRights);
        Save(v, s->Cs, VmcsField.GuestCsSelector, VmcsField.GuestCsBase, VmcsField.GuestCsLimit, VmcsField.GuestCsRights);
        Save(v, s->Ss, VmcsField.GuestSsSelector, VmcsField.GuestSsBase, VmcsField.GuestSsLimit, VmcsField.GuestSsRights);
        v[VmcsField.GuestSsRights] = v[VmcsField.GuestSsRights] & ~0x60ul | (ulong)s->Cpl << 5;
        Save(v, s->Ds, VmcsField.GuestDsSelector, VmcsField.GuestDsBase, VmcsField.GuestDsLimit, VmcsField.GuestDsRights);
        Save(v, s->Fs, VmcsField.GuestFsSelector, VmcsField.GuestFsBase, VmcsField.GuestFsLimit, VmcsField.GuestFsRights);
        Save(v, s->Gs, VmcsField.GuestGsSelector, VmcsField.GuestGsBase, VmcsField.GuestGsLimit, VmcsField.GuestGsRights);
        Save(v, s->Ldtr, VmcsField.GuestLdtrSelector, VmcsField.GuestLdtrBase, VmcsField.GuestLdtrLimit, VmcsField.GuestLdtrRights);
        Save(v, s->Tr, VmcsField.GuestTrSelector, VmcsField.GuestTrBase, VmcsField.GuestTrLimit, VmcsField.GuestTrRights);

        static void Save(Vmcs v, in SegmentRegister r, VmcsField selector, VmcsField @base, VmcsField limit, VmcsField rights)
        {
            v[selector] = r.Selector;
            v[@base] = r.Base;
            v[limit] = r.Limit;
            v[rights] = r.Attributes;
        }
    }

    // ---- loading the host

    private void LoadHost(Vmcs v, bool nmiBlocked)
    {
        ProcessorState* s = p.State;
        var exit = (ExitControls)v[VmcsField.ExitControls];
        bool wide = (exit & ExitControls.HostAddressSpaceSize) != 0;
        const ulong kept = (ulong)(Cr0.Et | Cr0.Nw | Cr0.Cd);
        s->Cr0 = v[VmcsField.HostCr0] & ControlRegisters.Cr0Defined & ~kept | s->Cr0 & kept;
        s->Cr3 = v[VmcsField.HostCr3];
        s->Cr4 = v[VmcsField.HostCr4];
        if (wide) s->Cr4 |= (ulong)Cr4.Pae;
        else s->Cr4 &= ~(ulong)Cr4.Pcide;
        bool systemCalls = (s->Efer & (ulong)Efer.Sce) != 0;
        s->Efer = s->Efer & ~(ulong)(Efer.Lma | Efer.Lme) | (wide ? (ulong)(Efer.Lma | Efer.Lme) : 0);
        if ((exit & ExitControls.LoadEfer) != 0) s->Efer = v[VmcsField.HostEfer];
        if ((s->Efer & (ulong)Efer.Sce) != 0 != systemCalls) p.Msrs.SystemCallsChanged();
        if ((exit & ExitControls.LoadPat) != 0) p.Msrs.Pat = v[VmcsField.HostPat];
        s->Dr7 = DebugUnit.Dr7Fixed;
        p.Msrs.SetSysenter(v[VmcsField.HostSysenterCs], v[VmcsField.HostSysenterEsp], v[VmcsField.HostSysenterEip], debugCtl: 0);
        LoadHostSegments(v, s, wide);
        s->Rsp = v[VmcsField.HostRsp];
        s->Rip = v[VmcsField.HostRip];
        Flags.Set(s, (uint)Rflags.Fixed1);
        s->Cpl = 0;
        s->Current = null;
        s->LinkFrom = null;
        p.Events.EndShadows();
        p.Events.NmiBlocked = nmiBlocked;
        p.Events.Activity = CpuActivity.Active;
        p.Events.DropHeld();
        p.Exits.DropCompletion();
        p.Mmio.DropRead();
        p.Debug.EnterOtherMode();
        p.ModeChanged();
        if (!wide && (s->Cr4 & (ulong)Cr4.Pae) != 0 && !LoadPdptes(s->Cr3))
        {
            Abort(VmxAbort.HostPdpte);
            return;
        }
        if (!LoadMsrs(v[VmcsField.ExitMsrLoadAddress], (uint)v[VmcsField.ExitMsrLoadCount], out _)) Abort(VmxAbort.LoadingMsrs);
        p.Events.UpdateWindowAttention();
    }

    private bool LoadPdptes(ulong cr3)
    {
        try
        {
            p.Walker.LoadPdptes(cr3);
            return true;
        }
        catch (Exception e) when (e is GuestFault or ExitRequest)
        {
            p.Exits.DropRefusal();
            return false;
        }
    }

    private static void LoadHostSegments(Vmcs v, ProcessorState* s, bool wide)
    {
        s->Cs = new SegmentRegister { Selector = (ushort)v[VmcsField.HostCsSelector], Limit = uint.MaxValue, Attributes = wide ? 0xA09Bu : 0xC09B };
        s->Ss = Data(v[VmcsField.HostSsSelector], 0);
        s->Ds = Data(v[VmcsField.HostDsSelector], 0);
        s->Es = Data(v[VmcsField.HostEsSelector], 0);
        s->Fs = Data(v[VmcsField.HostFsSelector], v[VmcsField.HostFsBase]);
        s->Gs = Data(v[VmcsField.HostGsSelector], v[VmcsField.HostGsBase]);
        s->Tr = new SegmentRegister { Selector = (ushort)v[VmcsField.HostTrSelector], Base = v[VmcsField.HostTrBase], Limit = 0x67, Attributes = 0x8B };
        s->Ldtr = new SegmentRegister { Attributes = SegmentRegister.Unusable };
        s->GdtrBase = v[VmcsField.HostGdtrBase];
        s->IdtrBase = v[VmcsField.HostIdtrBase];
        s->GdtrLimit = s->IdtrLimit = 0xFFFF;

        static SegmentRegister Data(ulong selector, ulong @base) => selector == 0
            ? new SegmentRegister { Base = @base, Attributes = SegmentRegister.Unusable }
            : new SegmentRegister { Selector = (ushort)selector, Base = @base, Limit = uint.MaxValue, Attributes = 0xC093 };
    }

    // ---- lists of MSRs

    /// <summary>Each entry: the index, 32 bits that must be zero, the value.</summary>
    private const int EntrySize = 16;

    private bool StoreMsrs(Vmcs v, ulong tsc)
    {
        ulong at = v[VmcsField.ExitMsrStoreAddress];
        var count = (uint)v[VmcsField.ExitMsrStoreCount];
        for (uint n = 0; n < count; n++, at += EntrySize)
        {
            ulong head = vmx.Memory.Read<ulong>(at);
            if (n >= VmxCapabilities.MostMsrs || head >> 32 != 0 || IsApic((uint)head) || !p.Msrs.TryRead((uint)head, out ulong value)) return false;
            if ((uint)head == MsrIndex.Tsc) value = tsc;
            vmx.Memory.Write(at + 8, value);
        }
        return true;
    }

    /// <summary>Loads a list of MSRs as WRMSR does.</summary>
    /// <param name="failed">1-based position of the first entry that cannot be loaded.</param>
    public bool LoadMsrs(ulong at, uint count, out uint failed)
    {
        for (failed = 1; failed <= count; failed++, at += EntrySize)
        {
            ulong head = vmx.Memory.Read<ulong>(at);
            var index = (uint)head;
            if (failed > VmxCapabilities.MostMsrs || head >> 32 != 0 || IsApic(index) || index is MsrIndex.FsBase or MsrIndex.GsBase) return false;
            ulong value = vmx.Memory.Read<ulong>(at + 8);
            if (index == MsrIndex.Efer && !p.Msrs.IsEferLoadable(value)) return false;
            if (!p.Msrs.TryWrite(index, value)) return false;
        }
        return true;
    }

    private static bool IsApic(uint index) => index is >= MsrIndex.X2ApicFirst and <= MsrIndex.X2ApicLast;

    /// <summary>A VMX abort: the processor shuts down, and the VMCS tells why.</summary>
    private void Abort(VmxAbort indicator)
    {
        vmx.Memory.Write(vmx.CurrentPointer + Vmcs.AbortOffset, (uint)indicator);
        if (vmx.InGuest) vmx.EndGuest();
        p.Events.Activity = CpuActivity.Shutdown;
        p.Exits.ExitWith(ExitReason.TripleFault);
    }
}
