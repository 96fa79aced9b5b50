using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>What VMRUN checks before it loads anything; whatever fails ends it with VMEXIT_INVALID.</summary>
/// <remarks>AMD APM vol. 2, "VMRUN Instruction", "Canonicalization and Consistency Checks"; "Event Injection".</remarks>
internal sealed unsafe class VmrunChecks(Processor p, SvmFeatures features)
{
    /// <summary>Bytes that the two permission maps have; the I/O map's last byte is for accesses that begin at its last ports.</summary>
    private const ulong MsrpmSize = 2 * GuestMemory.PageSize, IopmSize = 3 * GuestMemory.PageSize;

    private ulong PhysicalLimit => 1ul << p.Model.PhysicalAddressBits;

    /// <summary>The guest may be entered.</summary>
    /// <param name="hostCr0">CR0 of the host.</param>
    public bool Pass(VmcbControl* control, VmcbSave* save, ulong hostCr0) =>
        IsControlValid(control, hostCr0) && AreRegistersValid(save) && IsModeValid(save) && IsInjectionValid(control, save);

    private bool IsControlValid(VmcbControl* c, ulong hostCr0)
    {
        if ((c->Intercepts2 & SvmIntercepts2.Vmrun) == 0 || c->Asid == 0 || c->Asid >= CpuidLeaves.SvmAsids) return false;
        if ((c->Intercepts1 & SvmIntercepts1.Msr) != 0 && !IsMap(c->MsrpmBase, MsrpmSize, mustBeRam: true)) return false;
        if ((c->Intercepts1 & SvmIntercepts1.Io) != 0 && !IsMap(c->IopmBase, IopmSize, mustBeRam: false)) return false;
        bool virtualNmi = features.VirtualNmi && (c->VirtualInterrupt & VirtualInterruptBits.NmiEnable) != 0;
        if (virtualNmi && (c->Intercepts1 & SvmIntercepts1.Nmi) == 0) return false;
        if ((c->NestedControl & VmcbControl.NestedPaging) == 0) return true;
        bool exists = features.NestedPaging && (hostCr0 & (ulong)Cr0.Pg) != 0;
        return exists && (c->NestedCr3 & ~0xFFFul) < PhysicalLimit;
    }

    /// <summary>
    /// The map lies below the end of physical addresses. That of MSRs must be memory, too: a processor that finds none there does not enter the guest.
    /// </summary>
    private bool IsMap(ulong address, ulong size, bool mustBeRam)
    {
        ulong start = address & ~0xFFFul;
        if (start >= PhysicalLimit || start + size > PhysicalLimit) return false;
        return !mustBeRam || p.Physical.Resolve(start, Engines.PageRights.Read).Kind != PhysicalKind.Mmio;
    }

    private bool AreRegistersValid(VmcbSave* s)
    {
        if ((s->Efer & (ulong)Efer.Svme) == 0 || (s->Efer & ~(p.Msrs.EferAllowed | (ulong)Efer.Lma)) != 0) return false;
        if (s->Cr0 >> 32 != 0 || (s->Cr0 & (ulong)(Cr0.Cd | Cr0.Nw)) == (ulong)Cr0.Nw) return false;
        if ((s->Cr4 & ~p.ControlRegisters.Cr4Allowed) != 0) return false;
        return s->Dr6 >> 32 == 0 && s->Dr7 >> 32 == 0;
    }

    private bool IsModeValid(VmcbSave* s)
    {
        bool paging = (s->Cr0 & (ulong)Cr0.Pg) != 0, longMode = paging && (s->Efer & (ulong)Efer.Lme) != 0;
        if (paging && (s->Cr3 & ~(PhysicalLimit - 1)) != 0) return false;
        if (!longMode) return true;
        if ((s->Cr4 & (ulong)Cr4.Pae) == 0 || (s->Cr0 & (ulong)Cr0.Pe) == 0) return false;
        const ushort codeLong = 1 << 9, codeDefault = 1 << 10;
        return (s->Cs.Attributes & (codeLong | codeDefault)) != (codeLong | codeDefault);
    }

    /// <summary>Types 0, 2, 3 and 4; an exception must be one that the guest's mode has.</summary>
    private static bool IsInjectionValid(VmcbControl* c, VmcbSave* s)
    {
        ulong e = c->EventInjection;
        if ((e & SvmEvent.Valid) == 0) return true;
        uint type = (uint)(e >> SvmEvent.TypeShift) & SvmEvent.TypeMask, vector = (byte)e;
        if (type is not (SvmEvent.External or SvmEvent.Nmi or SvmEvent.Exception or SvmEvent.SoftwareInterrupt)) return false;
        if (type != SvmEvent.Exception) return true;
        if (vector is 2 or > 31) return false;
        // INTO and BOUND do not exist in 64-bit mode.
        const ushort codeLong = 1 << 9;
        bool is64Bit = (s->Efer & (ulong)Efer.Lme) != 0 && (s->Cr0 & (ulong)Cr0.Pg) != 0 && (s->Cs.Attributes & codeLong) != 0;
        return !is64Bit || vector is not ((uint)Vector.Of or (uint)Vector.Br);
    }
}
