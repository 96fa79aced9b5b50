using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>From the host into its guest, and back. AMD APM vol. 2, "VMRUN Instruction" and "#VMEXIT".</summary>
internal sealed unsafe class SvmWorldSwitch(Processor p, Svm svm)
{
    private readonly VmrunChecks _checks = new(p, svm.Features);

    /// <summary>
    /// VMRUN, whose registers are those behind the instruction. Afterwards the guest's state is in force, or the host's again. What other processors write to
    /// the VMCB meanwhile has no effect: all of it is copied before it is looked at.
    /// </summary>
    /// <param name="address">A multiple of 4096 below the end of physical addresses.</param>
    /// <returns>False: the guest was not entered, VMEXIT_INVALID.</returns>
    public bool Enter(ulong address)
    {
        ProcessorState* s = p.State;
        var vmcb = (Vmcb*)svm.Memory.Page(address);
        var host = (Vmcb*)svm.Memory.Page(svm.HostSaveArea);
        svm.VmcbAddress = address;
        if (vmcb == null || host == null)
        {
            svm.GlobalInterruptFlag = false; // VMEXIT_INVALID that nobody can be told of
            return false;
        }
        svm.Memory.BeforeWrite((byte*)host);
        SaveHost(&host->Save);
        svm.Memory.AfterWrite((byte*)&host->Save, sizeof(VmcbSave));
        *svm.Control = vmcb->Control;
        VmcbSave save = vmcb->Save;
        Span<ulong> pdptes = stackalloc ulong[4];
        bool pae = IsPae(save) && !svm.HasNestedPaging;
        if (!_checks.Pass(svm.Control, &save, s->Cr0) || !svm.Avic.IsValid(svm.Control, 1ul << p.Model.PhysicalAddressBits)
            || (pae && !p.Walker.TryReadPdptes(save.Cr3, pdptes)))
        {
            Refuse(vmcb);
            return false;
        }
        svm.Host = (s->Cr0, s->Cr4, s->Efer);
        svm.HostInterruptFlag = (s->FlagsOther & (uint)Rflags.If) != 0;
        svm.HostPat = p.Msrs.Pat;
        new ReadOnlySpan<ulong>(&s->Pdpte0, 4).CopyTo(svm.HostPdptes);
        if (pae) pdptes.CopyTo(new Span<ulong>(&s->Pdpte0, 4));
        svm.InGuest = true;
        svm.GlobalInterruptFlag = true;
        FlushBeforeEntry();
        LoadGuest(&save);
        svm.Instructions.BeginPauses();
        if (!svm.ScalesTsc) s->TscOffset += svm.Control->TscOffset;
        if (svm.HasNestedPaging) p.Msrs.Pat = save.GuestPat;
        if (svm.HasOwnBranches)
        {
            SaveBranches(&host->Save);
            LoadBranches(&save);
        }
        p.Events.EndShadows();
        if ((svm.Control->InterruptShadow & VmcbControl.ShadowBit) != 0) p.Events.InterruptShadow = true;
        PutInForce();
        svm.DropPendingExit();
        svm.Avic.Begin();
        // What was looked at for the host need not hold for the guest.
        p.Events.UpdateWindowAttention();
        if (p.Events.InterruptShadow) p.WantAttention();
        p.NestedObserver?.Crossed(new NestedCrossing(p.CpuIndex, IsVmx: false, IsEntry: true, address, 0, 0, 0, s->Rip, s->Retired));
        svm.Events.Inject();
        return true;
    }

    private static bool IsPae(in VmcbSave save) => (save.Cr0 & (ulong)Cr0.Pg) != 0 && (save.Cr4 & (ulong)Cr4.Pae) != 0 && (save.Efer & (ulong)Efer.Lme) == 0;

    /// <summary>What follows from the control area, once the guest's registers are loaded: intercepts, second stage, address space.</summary>
    public void PutInForce()
    {
        VmcbControl* c = svm.Control;
        svm.InGuest = true;
        if (svm.HasNestedPaging)
            svm.NestedPages.Select(c->NestedCr3, (ushort)c->Asid, svm.Host.Cr4, svm.Host.Efer,
                svm.Features.ExecuteTrap && (c->NestedControl & VmcbControl.GuestModeExecuteTrap) != 0);
        p.GuestMode.Enter(new AddressSpaceOwner((ushort)c->Asid, svm.HasNestedPaging ? svm.NestedPages.Key : 0), svm.HasNestedPaging ? svm.NestedPages : null,
            svm.Avic.Page);
        if (!svm.Instructions.PutInForce()) p.ModeChanged();
    }

    private void FlushBeforeEntry()
    {
        switch ((TlbControl)svm.Control->TlbControl)
        {
            case TlbControl.None:
                break;
            case TlbControl.FlushAsid or TlbControl.FlushAsidNonGlobal when svm.Features.FlushByAsid:
                p.Tlb.FlushTag((ushort)svm.Control->Asid);
                p.GuestMode.Mappings.Drop();
                break;
            default:
                p.Tlb.FlushAll();
                break;
        }
    }

    private void Refuse(Vmcb* vmcb)
    {
        svm.GlobalInterruptFlag = false;
        svm.Memory.BeforeWrite((byte*)vmcb);
        VmcbControl* c = &vmcb->Control;
        p.NestedObserver?.Crossed(new NestedCrossing(p.CpuIndex, IsVmx: false, IsEntry: false, svm.VmcbAddress, (ulong)SvmExit.Invalid, 0, 0,
            vmcb->Save.Rip, p.State->Retired));
        (c->ExitCode, c->ExitInfo1, c->ExitInfo2, c->ExitIntInfo) = ((ulong)SvmExit.Invalid, 0, 0, 0);
        svm.Memory.AfterWrite((byte*)c, sizeof(VmcbControl));
    }

    /// <summary>
    /// #VMEXIT, with the guest's state as it is to be saved: RIP on the instruction that is intercepted. Afterwards the host goes on behind its VMRUN.
    /// </summary>
    /// <param name="intInfo">EXITINTINFO.</param>
    /// <param name="nextRip">RIP behind an intercepted instruction.</param>
    /// <param name="fetchInstruction">The bytes of the instruction are told where decode assists exist.</param>
    public void Exit(SvmExit code, ulong info1 = 0, ulong info2 = 0, ulong intInfo = 0, ulong nextRip = 0, bool fetchInstruction = false)
    {
        ProcessorState* s = p.State;
        VmcbControl* control = svm.Control;
        var instruction = fetchInstruction && svm.Features.DecodeAssists ? new GuestInstruction(p) : default;
        svm.GlobalInterruptFlag = false;
        p.NestedObserver?.Crossed(new NestedCrossing(p.CpuIndex, IsVmx: false, IsEntry: false, svm.VmcbAddress, (ulong)code, info1, info2, s->Rip, s->Retired));
        var vmcb = (Vmcb*)svm.Memory.Page(svm.VmcbAddress);
        if (vmcb != null)
        {
            svm.Memory.BeforeWrite((byte*)vmcb);
            VmcbControl* c = &vmcb->Control;
            c->ExitCode = (ulong)code;
            c->ExitInfo1 = info1;
            c->ExitInfo2 = info2;
            c->ExitIntInfo = intInfo;
            c->EventInjection = 0;
            c->InterruptShadow = p.Events.InterruptShadow ? VmcbControl.ShadowBit : 0;
            c->VirtualInterrupt = control->VirtualInterrupt;
            if (svm.Features.NextRip) c->NextRip = nextRip;
            if (svm.Features.DecodeAssists) instruction.Store(c);
            SaveGuest(&vmcb->Save);
            svm.Memory.AfterWrite((byte*)vmcb, sizeof(Vmcb));
        }
        if (!svm.ScalesTsc) s->TscOffset -= control->TscOffset;
        if (svm.HasNestedPaging) p.Msrs.Pat = svm.HostPat;
        if (svm.HasOwnBranches && svm.Memory.Page(svm.HostSaveArea) is var area && area != null) LoadBranches(&((Vmcb*)area)->Save);
        svm.InGuest = false;
        p.GuestMode.Leave();
        new ReadOnlySpan<ulong>(svm.HostPdptes).CopyTo(new Span<ulong>(&s->Pdpte0, 4));
        p.Events.EndShadows();
        p.Delivery.CountGuestEvent();
        s->Current = null;
        s->LinkFrom = null;
        LoadHost();
        if (!p.SelectGuestIntercepts(GuestIntercepts.None)) p.ModeChanged();
        p.Events.UpdateWindowAttention();
    }

    private void SaveHost(VmcbSave* save)
    {
        ProcessorState* s = p.State;
        SaveCommon(save);
        save->Rflags = Flags.Get(s);
    }

    /// <summary>What is saved of both.</summary>
    private void SaveCommon(VmcbSave* save)
    {
        ProcessorState* s = p.State;
        save->Es = VmcbSegment.Of(s->Es);
        save->Cs = VmcbSegment.Of(s->Cs);
        save->Ss = VmcbSegment.Of(s->Ss);
        save->Ds = VmcbSegment.Of(s->Ds);
        (save->Gdtr.Base, save->Gdtr.Limit) = (s->GdtrBase, s->GdtrLimit);
        (save->Idtr.Base, save->Idtr.Limit) = (s->IdtrBase, s->IdtrLimit);
        (save->Efer, save->Cr4, save->Cr3, save->Cr0) = (s->Efer, s->Cr4, s->Cr3, s->Cr0);
        save->Rflags = Flags.Get(s);
        (save->Rip, save->Rsp, save->Rax) = (s->Rip, s->Rsp, s->Rax);
    }

    private void SaveGuest(VmcbSave* save)
    {
        ProcessorState* s = p.State;
        SaveCommon(save);
        (save->Cr2, save->Dr6, save->Dr7, save->Cpl) = (s->Cr2, s->Dr6, s->Dr7, (byte)s->Cpl);
        if (svm.HasNestedPaging) save->GuestPat = p.Msrs.Pat;
        if (svm.HasOwnBranches) SaveBranches(save);
    }

    /// <summary>AMD APM vol. 2, "LBR Virtualization": each side has its own DEBUGCTL and its own last branch.</summary>
    private void SaveBranches(VmcbSave* save)
    {
        save->DebugCtl = p.Msrs.DebugCtl;
        (save->BranchFrom, save->BranchTo) = (p.Msrs.LastBranchFrom, p.Msrs.LastBranchTo);
        (save->LastExceptionFrom, save->LastExceptionTo) = (p.Msrs.LastInterruptFrom, p.Msrs.LastInterruptTo);
    }

    private void LoadBranches(VmcbSave* save)
    {
        p.Msrs.DebugCtl = save->DebugCtl & DefinedDebugCtl;
        (p.Msrs.LastBranchFrom, p.Msrs.LastBranchTo) = (save->BranchFrom, save->BranchTo);
        (p.Msrs.LastInterruptFrom, p.Msrs.LastInterruptTo) = (save->LastExceptionFrom, save->LastExceptionTo);
    }

    /// <summary>LBR and BTF.</summary>
    private const ulong DefinedDebugCtl = 3;

    private void LoadGuest(VmcbSave* save)
    {
        ProcessorState* s = p.State;
        LoadCommon(save);
        s->Cr2 = save->Cr2;
        s->Dr6 = DebugUnit.Dr6Of(save->Dr6);
        s->Dr7 = DebugUnit.Dr7Of(save->Dr7);
        p.Debug.Reset();
        Flags.Set(s, (uint)save->Rflags & DefinedFlags);
        bool longMode = (s->Cr0 & (ulong)Cr0.Pg) != 0 && (s->Efer & (ulong)Efer.Lme) != 0;
        s->Efer = longMode ? s->Efer | (ulong)Efer.Lma : s->Efer & ~(ulong)Efer.Lma;
        if (longMode && s->Cs.Long) s->Cs.Base = 0;
        s->Cpl = (s->Cr0 & (ulong)Cr0.Pe) == 0 ? 0 : CpuMode.IsVirtual8086(s) ? 3 : save->Cpl & 3;
        // The privilege level is that of SS, wherever the state goes.
        s->Ss.Attributes = s->Ss.Attributes & ~(3u << 5) | (uint)s->Cpl << 5;
        if ((s->FlagsOther & (uint)Rflags.Rf) != 0) p.Debug.KeepResumeFlag(s->Retired);
    }

    private void LoadHost()
    {
        ProcessorState* s = p.State;
        var host = (Vmcb*)svm.Memory.Page(svm.HostSaveArea);
        bool step = false;
        if (host != null)
        {
            VmcbSave save = host->Save;
            save.Cr0 |= (ulong)Cr0.Pe;
            LoadCommon(&save);
            Flags.Set(s, (uint)save.Rflags & DefinedFlags & ~(uint)(Rflags.Vm | Rflags.Rf));
            step = (save.Rflags & (ulong)Rflags.Tf) != 0;
        }
        if (host == null || !IsHostConsistent())
        {
            // The host save area is not what VMRUN has left there.
            p.Events.Activity = CpuActivity.Shutdown;
            p.Exits.ExitWith(ExitReason.TripleFault);
            (s->Cr0, s->Cr4, s->Efer) = svm.Host;
        }
        s->Cpl = 0;
        s->Ss.Attributes &= ~(3u << 5);
        s->Dr7 = DebugUnit.Dr7Fixed;
        p.Debug.Reset();
        // A host that is stepped has its trap when VMRUN is complete.
        p.Debug.SuppressSingleStep();
        if (step) p.Debug.SingleStepNow();
    }

    private bool IsHostConsistent()
    {
        ProcessorState* s = p.State;
        return (s->Cr4 & ~p.ControlRegisters.Cr4Allowed) == 0 && (s->Efer & ~(p.Msrs.EferAllowed | (ulong)Efer.Lma)) == 0
            && (s->Efer & (ulong)Efer.Lma) == (svm.Host.Efer & (ulong)Efer.Lma) && s->Cr0 >> 32 == 0
            && (s->Cr0 & (ulong)Cr0.Pg) == (svm.Host.Cr0 & (ulong)Cr0.Pg) && (s->Cr4 & (ulong)Cr4.Pae) == (svm.Host.Cr4 & (ulong)Cr4.Pae);
    }

    private const uint DefinedFlags = 0x3F_7FD5;

    private void LoadCommon(VmcbSave* save)
    {
        ProcessorState* s = p.State;
        s->Es = save->Es.Load();
        s->Cs = save->Cs.Load();
        s->Ss = save->Ss.Load();
        s->Ds = save->Ds.Load();
        (s->GdtrBase, s->GdtrLimit) = (p.Canonical(save->Gdtr.Base), (ushort)save->Gdtr.Limit);
        (s->IdtrBase, s->IdtrLimit) = (p.Canonical(save->Idtr.Base), (ushort)save->Idtr.Limit);
        bool systemCalls = ((s->Efer ^ save->Efer) & (ulong)Efer.Sce) != 0;
        (s->Efer, s->Cr4, s->Cr3) = (save->Efer, save->Cr4, save->Cr3);
        s->Cr0 = save->Cr0 & ControlRegisters.Cr0Defined | (ulong)Cr0.Et;
        if (systemCalls) p.Msrs.SystemCallsChanged();
        (s->Rip, s->Rsp, s->Rax) = (save->Rip, save->Rsp, save->Rax);
    }

    /// <summary>VMSAVE and VMLOAD: what VMRUN leaves alone.</summary>
    public void Save(VmcbSave* save)
    {
        ProcessorState* s = p.State;
        save->Fs = VmcbSegment.Of(s->Fs);
        save->Gs = VmcbSegment.Of(s->Gs);
        save->Tr = VmcbSegment.Of(s->Tr);
        save->Ldtr = VmcbSegment.Of(s->Ldtr);
        save->KernelGsBase = s->KernelGsBase;
        (save->Star, save->Lstar, save->Cstar, save->Sfmask) = (p.Msrs.Star, p.Msrs.Lstar, p.Msrs.Cstar, p.Msrs.Fmask);
        (save->SysenterCs, save->SysenterEsp, save->SysenterEip) = (p.Msrs.SysenterCs, p.Msrs.SysenterEsp, p.Msrs.SysenterEip);
    }

    /// <inheritdoc cref="Save"/>
    public void Load(VmcbSave* save)
    {
        ProcessorState* s = p.State;
        s->Fs = Canonical(save->Fs);
        s->Gs = Canonical(save->Gs);
        s->Tr = Canonical(save->Tr);
        s->Ldtr = Canonical(save->Ldtr);
        s->KernelGsBase = p.Canonical(save->KernelGsBase);
        p.Msrs.LoadSystemCalls(save->Star, p.Canonical(save->Lstar), p.Canonical(save->Cstar), (uint)save->Sfmask);
        p.Msrs.LoadSysenter(save->SysenterCs, p.Canonical(save->SysenterEsp), p.Canonical(save->SysenterEip));
    }

    private SegmentRegister Canonical(in VmcbSegment segment)
    {
        SegmentRegister r = segment.Load();
        r.Base = p.Canonical(r.Base);
        return r;
    }
}
