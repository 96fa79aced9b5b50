namespace Bunraku.Processor.X86;

/// <summary>MOV to control registers, and XCR0. Intel SDM vol. 3A, "Control Registers"; vol. 2, MOV—Move to/from Control Registers.</summary>
internal sealed unsafe class ControlRegisters(Processor p)
{
    public const ulong Cr0Defined = (ulong)(Cr0.Pe | Cr0.Mp | Cr0.Em | Cr0.Ts | Cr0.Et | Cr0.Ne | Cr0.Wp | Cr0.Am | Cr0.Nw | Cr0.Cd | Cr0.Pg);

    /// <summary>CR4 bits that this model has; the others raise #GP.</summary>
    public readonly ulong Cr4Allowed = Cr4Of(p.Model);

    private static ulong Cr4Of(CpuModel model)
    {
        Cr4 bits = Cr4.Tsd | Cr4.Pce;
        void Bit(CpuFeature feature, Cr4 bit)
        {
            if (model.Has(feature)) bits |= bit;
        }
        Bit(CpuFeature.Vme, Cr4.Vme | Cr4.Pvi);
        Bit(CpuFeature.De, Cr4.De);
        Bit(CpuFeature.Pse, Cr4.Pse);
        Bit(CpuFeature.Pae, Cr4.Pae);
        Bit(CpuFeature.Mce, Cr4.Mce);
        Bit(CpuFeature.Pge, Cr4.Pge);
        Bit(CpuFeature.Fxsr, Cr4.Osfxsr);
        Bit(CpuFeature.Sse, Cr4.Osxmmexcpt);
        Bit(CpuFeature.Umip, Cr4.Umip);
        Bit(CpuFeature.La57, Cr4.La57);
        Bit(CpuFeature.Fsgsbase, Cr4.Fsgsbase);
        Bit(CpuFeature.Pcid, Cr4.Pcide);
        Bit(CpuFeature.Xsave, Cr4.Osxsave);
        Bit(CpuFeature.Smep, Cr4.Smep);
        Bit(CpuFeature.Smap, Cr4.Smap);
        Bit(CpuFeature.Pku, Cr4.Pke);
        Bit(CpuFeature.Vmx, Cr4.Vmxe);
        return (ulong)bits;
    }

    /// <summary>MOV to CR0, also LMSW and CLTS.</summary>
    public void WriteCr0(ulong value)
    {
        ProcessorState* s = p.State;
        if (value >> 32 != 0) throw p.GeneralProtection();
        value = value & Cr0Defined | (ulong)Cr0.Et;
        ulong old = s->Cr0;
        if ((value & (ulong)Cr0.Pg) != 0 && (value & (ulong)Cr0.Pe) == 0) throw p.GeneralProtection();
        if ((value & (ulong)Cr0.Nw) != 0 && (value & (ulong)Cr0.Cd) == 0) throw p.GeneralProtection();
        if (p.Vmx is { } vmx && (vmx.RequiredCr0 & ~value) != 0) throw p.GeneralProtection();
        bool pgOn = (value & ~old & (ulong)Cr0.Pg) != 0, pgOff = (old & ~value & (ulong)Cr0.Pg) != 0;
        bool pae = (s->Cr4 & (ulong)Cr4.Pae) != 0;
        bool lme = (s->Efer & (ulong)Efer.Lme) != 0;
        if (pgOn && lme && (!pae || s->Cs.Long)) throw p.GeneralProtection();
        if (pgOn && lme && IsTss16(s)) throw p.GeneralProtection();
        if (pgOff && ((s->Cr4 & (ulong)Cr4.Pcide) != 0 || CpuMode.Is64Bit(s))) throw p.GeneralProtection();
        const ulong reload = (ulong)(Cr0.Pg | Cr0.Cd | Cr0.Nw);
        if ((value & (ulong)Cr0.Pg) != 0 && ((value ^ old) & reload) != 0 && pae && !lme) p.Walker.LoadPdptes(s->Cr3);

        s->Cr0 = value;
        if (pgOn && lme) s->Efer |= (ulong)Efer.Lma;
        if (pgOff) s->Efer &= ~(ulong)Efer.Lma;
        if (((old ^ value) & (ulong)(Cr0.Pg | Cr0.Pe | Cr0.Wp)) != 0) p.Tlb.Flush();
        p.ModeChanged();
    }

    private static bool IsTss16(ProcessorState* s) => !s->Tr.IsUnusable && (s->Tr.Type & 8) == 0;

    /// <summary>MOV to CR3.</summary>
    public void WriteCr3(ulong value)
    {
        ProcessorState* s = p.State;
        bool noFlush = false;
        if (CpuMode.IsLong(s))
        {
            if ((s->Cr4 & (ulong)Cr4.Pcide) != 0)
            {
                noFlush = (value & 1ul << 63) != 0;
                value &= ~(1ul << 63);
            }
            if (value >> p.Model.PhysicalAddressBits != 0) throw p.GeneralProtection();
        }
        else
        {
            value = (uint)value;
            if ((s->Cr0 & (ulong)Cr0.Pg) != 0 && (s->Cr4 & (ulong)Cr4.Pae) != 0) p.Walker.LoadPdptes(value);
        }
        s->Cr3 = value;
        if (!noFlush)
        {
            if ((s->Cr4 & (ulong)Cr4.Pcide) != 0) p.Tlb.FlushPcid((uint)value & 0xFFF);
            else p.Tlb.Flush();
        }
        p.ModeChanged();
    }

    /// <summary>MOV to CR4.</summary>
    public void WriteCr4(ulong value)
    {
        ProcessorState* s = p.State;
        ulong old = s->Cr4, changed = old ^ value;
        if ((value & ~Cr4Allowed) != 0) throw p.GeneralProtection();
        if (p.Vmx is { } vmx && (vmx.RequiredCr4 & ~value) != 0) throw p.GeneralProtection();
        bool longMode = CpuMode.IsLong(s);
        if (longMode && ((value & (ulong)Cr4.Pae) == 0 || (changed & (ulong)Cr4.La57) != 0)) throw p.GeneralProtection();
        if ((value & ~old & (ulong)Cr4.Pcide) != 0 && (!longMode || (s->Cr3 & 0xFFF) != 0)) throw p.GeneralProtection();
        const ulong paging = (ulong)(Cr4.Pae | Cr4.Pse | Cr4.Pge | Cr4.Smep);
        if ((s->Cr0 & (ulong)Cr0.Pg) != 0 && (value & (ulong)Cr4.Pae) != 0 && (changed & paging) != 0 && !longMode) p.Walker.LoadPdptes(s->Cr3);

        s->Cr4 = value;
        if ((changed & (paging | (ulong)(Cr4.Pcide | Cr4.La57 | Cr4.Smap | Cr4.Pke))) != 0) p.Tlb.Flush();
        p.ModeChanged();
    }

    /// <summary>XCR0 bits of this model.</summary>
    public ulong Xcr0Allowed => XsaveLayout.Allowed(p.Model);

    /// <summary>XSETBV of register <paramref name="index"/>.</summary>
    public void WriteXcr(uint index, ulong value)
    {
        if (index != 0 || (value & ~Xcr0Allowed) != 0 || (value & XsaveLayout.X87) == 0) throw p.GeneralProtection();
        if ((value & XsaveLayout.Avx) != 0 && (value & XsaveLayout.Sse) == 0) throw p.GeneralProtection();
        p.State->Xcr0 = value;
        p.ModeChanged();
    }
}
