using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>MOV to control registers, XCR0, and the PAE page-directory-pointer registers. Intel SDM vol. 3A, "Control Registers"; vol. 2, MOV—Move to/from Control Registers.</summary>
public sealed unsafe partial class Processor
{
    private const ulong Cr0Defined = (ulong)(Cr0.Pe | Cr0.Mp | Cr0.Em | Cr0.Ts | Cr0.Et | Cr0.Ne | Cr0.Wp | Cr0.Am | Cr0.Nw | Cr0.Cd | Cr0.Pg);

    /// <summary>CR4 bits that this model has; the others raise #GP.</summary>
    internal ulong Cr4Allowed
    {
        get
        {
            Cr4 bits = Cr4.Tsd | Cr4.Pce;
            void Bit(CpuFeature feature, Cr4 bit)
            {
                if (Model.Has(feature)) bits |= bit;
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
            return (ulong)bits;
        }
    }

    /// <summary>MOV to CR0, also LMSW and CLTS.</summary>
    internal void WriteCr0(ulong value)
    {
        ProcessorState* s = State;
        if (value >> 32 != 0) throw GeneralProtection();
        value = value & Cr0Defined | (ulong)Cr0.Et;
        ulong old = s->Cr0;
        if ((value & (ulong)Cr0.Pg) != 0 && (value & (ulong)Cr0.Pe) == 0) throw GeneralProtection();
        if ((value & (ulong)Cr0.Nw) != 0 && (value & (ulong)Cr0.Cd) == 0) throw GeneralProtection();
        bool pgOn = (value & ~old & (ulong)Cr0.Pg) != 0, pgOff = (old & ~value & (ulong)Cr0.Pg) != 0;
        bool pae = (s->Cr4 & (ulong)Cr4.Pae) != 0;
        bool lme = (s->Efer & (ulong)Efer.Lme) != 0;
        if (pgOn && lme && (!pae || s->Cs.Long)) throw GeneralProtection();
        if (pgOn && lme && IsTss16(s)) throw GeneralProtection();
        if (pgOff && ((s->Cr4 & (ulong)Cr4.Pcide) != 0 || Is64Bit(s))) throw GeneralProtection();
        const ulong reload = (ulong)(Cr0.Pg | Cr0.Cd | Cr0.Nw);
        if ((value & (ulong)Cr0.Pg) != 0 && ((value ^ old) & reload) != 0 && pae && !lme) LoadPdptes(s->Cr3);

        s->Cr0 = value;
        if (pgOn && lme) s->Efer |= (ulong)Efer.Lma;
        if (pgOff) s->Efer &= ~(ulong)Efer.Lma;
        if (((old ^ value) & (ulong)(Cr0.Pg | Cr0.Pe | Cr0.Wp)) != 0) FlushTlb();
        ModeChanged();
    }

    private static bool IsTss16(ProcessorState* s) => !s->Tr.IsUnusable && (s->Tr.Type & 8) == 0;

    /// <summary>MOV to CR3.</summary>
    internal void WriteCr3(ulong value)
    {
        ProcessorState* s = State;
        bool noFlush = false;
        if (IsLongMode(s))
        {
            if ((s->Cr4 & (ulong)Cr4.Pcide) != 0)
            {
                noFlush = (value & 1ul << 63) != 0;
                value &= ~(1ul << 63);
            }
            if (value >> Model.PhysicalAddressBits != 0) throw GeneralProtection();
        }
        else
        {
            value = (uint)value;
            if ((s->Cr0 & (ulong)Cr0.Pg) != 0 && (s->Cr4 & (ulong)Cr4.Pae) != 0) LoadPdptes(value);
        }
        s->Cr3 = value;
        if (!noFlush)
        {
            if ((s->Cr4 & (ulong)Cr4.Pcide) != 0) FlushTlbPcid((uint)value & 0xFFF);
            else FlushTlb();
        }
        ModeChanged();
    }

    /// <summary>MOV to CR4.</summary>
    internal void WriteCr4(ulong value)
    {
        ProcessorState* s = State;
        ulong old = s->Cr4, changed = old ^ value;
        if ((value & ~Cr4Allowed) != 0) throw GeneralProtection();
        bool longMode = IsLongMode(s);
        if (longMode && ((value & (ulong)Cr4.Pae) == 0 || (changed & (ulong)Cr4.La57) != 0)) throw GeneralProtection();
        if ((value & ~old & (ulong)Cr4.Pcide) != 0 && (!longMode || (s->Cr3 & 0xFFF) != 0)) throw GeneralProtection();
        const ulong paging = (ulong)(Cr4.Pae | Cr4.Pse | Cr4.Pge | Cr4.Smep);
        if ((s->Cr0 & (ulong)Cr0.Pg) != 0 && (value & (ulong)Cr4.Pae) != 0 && (changed & paging) != 0 && !longMode) LoadPdptes(s->Cr3);

        s->Cr4 = value;
        if ((changed & (paging | (ulong)(Cr4.Pcide | Cr4.La57 | Cr4.Smap | Cr4.Pke))) != 0) FlushTlb();
        ModeChanged();
    }

    /// <summary>Loads the PDPTEs from <paramref name="cr3"/>; #GP(0) when a present one has reserved bits set. Intel SDM vol. 3A, "PDPTE Registers".</summary>
    internal void LoadPdptes(ulong cr3)
    {
        Span<ulong> entries = stackalloc ulong[4];
        ulong address = cr3 & 0xFFFF_FFE0;
        ulong reserved = ~((1ul << Model.PhysicalAddressBits) - 1) | 0x1E6;
        for (int n = 0; n < 4; n++)
        {
            if (!TryRead(address + (ulong)n * 8, out TableEntry<ulong> entry)) throw RefusedAccess(0, _tableRefusal);
            entries[n] = entry.Value;
            if ((entries[n] & 1) != 0 && (entries[n] & reserved) != 0) throw GeneralProtection();
        }
        entries.CopyTo(new Span<ulong>(&State->Pdpte0, 4));
    }

    /// <summary>XCR0 bits of this model.</summary>
    internal ulong Xcr0Allowed => XsaveLayout.Allowed(Model);

    /// <summary>XSETBV of register <paramref name="index"/>.</summary>
    internal void WriteXcr(uint index, ulong value)
    {
        if (index != 0 || (value & ~Xcr0Allowed) != 0 || (value & XsaveLayout.X87) == 0) throw GeneralProtection();
        if ((value & XsaveLayout.Avx) != 0 && (value & XsaveLayout.Sse) == 0) throw GeneralProtection();
        State->Xcr0 = value;
        ModeChanged();
    }
}
