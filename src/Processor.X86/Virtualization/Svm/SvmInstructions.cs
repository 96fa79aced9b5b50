using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>VMRUN, VMLOAD, VMSAVE, STGI, CLGI, INVLPGA, VMMCALL. AMD APM vol. 3, their descriptions.</summary>
internal static unsafe class SvmInstructions
{
    /// <summary>#UD unless EFER.SVME is set, #GP(0) above CPL 0, then the guest's hypervisor. True: the instruction goes on.</summary>
    private static bool Allowed(Processor p, ProcessorState* s, Insn* i, SvmIntercepts2 intercept, SvmExit exit, out Svm svm)
    {
        if (p.Svm is not { } unit || (s->Efer & (ulong)Efer.Svme) == 0) throw p.InvalidOpcode();
        if (s->Cpl != 0) throw p.GeneralProtection();
        svm = unit;
        if (!svm.InGuest || (svm.Control->Intercepts2 & intercept) == 0) return true;
        svm.Instructions.Exit(i, exit);
        return false;
    }

    /// <summary>rAX, in the bits of the address size: a page below the end of physical addresses.</summary>
    private static ulong PageInRax(Processor p, ProcessorState* s, Insn* i)
    {
        ulong address = (Iced.Intel.Code)i->Code switch
        {
            Iced.Intel.Code.Vmrunw or Iced.Intel.Code.Vmloadw or Iced.Intel.Code.Vmsavew => (ushort)s->Rax,
            Iced.Intel.Code.Vmrund or Iced.Intel.Code.Vmloadd or Iced.Intel.Code.Vmsaved => (uint)s->Rax,
            _ => s->Rax,
        };
        if ((address & 0xFFF) != 0 || address >> p.Model.PhysicalAddressBits != 0) throw p.GeneralProtection();
        return address;
    }

    public static Insn* Vmrun(Processor p, ProcessorState* s, Insn* i)
    {
        if (!Allowed(p, s, i, SvmIntercepts2.Vmrun, SvmExit.Vmrun, out Svm svm)) return null;
        ulong address = PageInRax(p, s, i);
        if (p.Exits.MustExitFirst) return p.Exits.LeaveForExit(i);
        // The guest's instructions are single steps of their own; the host's trap comes when VMRUN is complete.
        Flow.Leave(s, i);
        s->Current = null;
        if (svm.WorldSwitch.Enter(address)) p.Debug.SuppressSingleStep();
        return null;
    }

    /// <summary>Where VMLOAD and VMSAVE find the VMCB; null outside RAM. In a guest with virtual VMLOAD and VMSAVE the address is the guest's.</summary>
    private static Vmcb* VmcbInRax(Processor p, ProcessorState* s, Insn* i, Svm svm, PageRights wanted)
    {
        ulong address = PageInRax(p, s, i);
        if (svm.InGuest && (svm.Control->VirtualExtensions & VmcbControl.VirtualLoadSave) != 0 && p.GuestMode.SecondStage is { } stage
            && svm.Features.VirtualLoadSave)
        {
            SecondStageResult found;
            do found = stage.Translate(address, new SecondStageAccess(wanted, IsTableAccess: false, IsUser: false));
            while (found.Outcome == SecondStageOutcome.Void);
            if (found.Outcome == SecondStageOutcome.Refused) throw p.Exits.RefusedAccess(0, p.PagingStructures.Refusal);
            if (found.Outcome == SecondStageOutcome.Fault)
                throw p.Exits.RefusedAccess(0, new Refusal(address, wanted, IsTableAccess: false, found.Fault));
            address = found.Page;
        }
        return (Vmcb*)svm.Memory.Page(address);
    }

    public static Insn* Vmload(Processor p, ProcessorState* s, Insn* i)
    {
        if (!Allowed(p, s, i, SvmIntercepts2.Vmload, SvmExit.Vmload, out Svm svm)) return null;
        Vmcb* vmcb = VmcbInRax(p, s, i, svm, PageRights.Read);
        if (vmcb == null) return Flow.Leave(s, i);
        VmcbSave save = vmcb->Save;
        svm.WorldSwitch.Load(&save);
        p.ModeChanged();
        return Flow.Leave(s, i);
    }

    public static Insn* Vmsave(Processor p, ProcessorState* s, Insn* i)
    {
        if (!Allowed(p, s, i, SvmIntercepts2.Vmsave, SvmExit.Vmsave, out Svm svm)) return null;
        Vmcb* vmcb = VmcbInRax(p, s, i, svm, PageRights.Write);
        if (vmcb == null) return Flow.Leave(s, i);
        svm.Memory.BeforeWrite((byte*)vmcb);
        svm.WorldSwitch.Save(&vmcb->Save);
        svm.Memory.AfterWrite((byte*)&vmcb->Save, sizeof(VmcbSave));
        return Flow.Leave(s, i);
    }

    public static Insn* Stgi(Processor p, ProcessorState* s, Insn* i)
    {
        if (!Allowed(p, s, i, SvmIntercepts2.Stgi, SvmExit.Stgi, out Svm svm)) return null;
        svm.Events.GlobalInterruptFlag = true;
        return Flow.Leave(s, i);
    }

    public static Insn* Clgi(Processor p, ProcessorState* s, Insn* i)
    {
        if (!Allowed(p, s, i, SvmIntercepts2.Clgi, SvmExit.Clgi, out Svm svm)) return null;
        svm.Events.GlobalInterruptFlag = false;
        return Flow.Leave(s, i);
    }

    /// <summary>INVLPGA rAX, ECX: the page at linear address rAX of the ASID in ECX.</summary>
    public static Insn* Invlpga(Processor p, ProcessorState* s, Insn* i)
    {
        if (!Allowed(p, s, i, SvmIntercepts2.None, SvmExit.Invlpga, out Svm svm)) return null;
        if (svm.InGuest && (svm.Control->Intercepts1 & SvmIntercepts1.Invlpga) != 0)
        {
            svm.Instructions.Exit(i, SvmExit.Invlpga);
            return null;
        }
        ulong address = (Iced.Intel.Code)i->Code switch
        {
            Iced.Intel.Code.Invlpgaw => (ushort)s->Rax,
            Iced.Intel.Code.Invlpgad => (uint)s->Rax,
            _ => s->Rax,
        };
        var asid = (uint)s->Rcx;
        if (p.IsCanonical(address) && asid < CpuidLeaves.SvmAsids) p.Tlb.FlushPage(address, (ushort)asid);
        return Flow.Leave(s, i);
    }
}
