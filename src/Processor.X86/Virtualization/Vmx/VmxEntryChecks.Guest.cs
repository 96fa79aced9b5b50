namespace Bunraku.Processor.X86;

/// <summary>The checks on the guest-state area. Intel SDM vol. 3C, "Checks on the Guest State Area".</summary>
internal sealed unsafe partial class VmxEntryChecks
{
    private bool LongGuest => Has(EntryControls.Ia32eModeGuest);

    private ulong GuestCr0 => _v[VmcsField.GuestCr0];

    private ulong GuestCr4 => _v[VmcsField.GuestCr4];

    private bool Unrestricted => Has(SecondaryControls.UnrestrictedGuest);

    private bool Virtual8086 => (_v[VmcsField.GuestRflags] & (ulong)Rflags.Vm) != 0;

    private bool PagingOn => (GuestCr0 & (ulong)Cr0.Pg) != 0;

    /// <summary>The PDPTEs are read from memory, and an entry that they forbid fails with qualification 2.</summary>
    public bool LoadsPdptes => PagingOn && (GuestCr4 & (ulong)Cr4.Pae) != 0 && !LongGuest;

    private Interruptibility Blocking => (Interruptibility)_v[VmcsField.GuestInterruptibility];

    private uint Activity => (uint)_v[VmcsField.GuestActivity];

    private bool Injects => (Interruption & 1u << 31) != 0;

    private uint InjectedType => Interruption >> 8 & 7;

    private uint InjectedVector => Interruption & 0xFF;

    // Segments, by their distance from ES.
    private enum S { Es, Cs, Ss, Ds, Fs, Gs, Ldtr, Tr }

    private ulong Selector(S n) => _v[VmcsField.GuestEsSelector + (ushort)(2 * (int)n)];

    private ulong Base(S n) => _v[VmcsField.GuestEsBase + (ushort)(2 * (int)n)];

    private ulong Limit(S n) => _v[VmcsField.GuestEsLimit + (ushort)(2 * (int)n)];

    private uint Rights(S n) => (uint)_v[VmcsField.GuestEsRights + (ushort)(2 * (int)n)];

    private bool IsUsable(S n) => (Rights(n) & SegmentRegister.Unusable) == 0;

    private uint Type(S n) => Rights(n) & 0xF;

    private uint Dpl(S n) => Rights(n) >> 5 & 3;

    private bool Bit(S n, int bit) => (Rights(n) >> bit & 1) != 0;

    private const int SystemBit = 4, PresentBit = 7, LongBit = 13, DefaultBit = 14, GranularBit = 15;

    private static readonly S[] s_data = [S.Es, S.Ds, S.Fs, S.Gs];
    private static readonly S[] s_codeAndData = [S.Es, S.Cs, S.Ss, S.Ds, S.Fs, S.Gs];

    private bool All(S[] segments, Func<S, bool> holds)
    {
        foreach (S n in segments)
        {
            if (!holds(n)) return false;
        }
        return true;
    }

    /// <summary>Control registers, debug registers, MSRs.</summary>
    public static readonly VmxEntryCheck[] GuestRegisters =
    [
        new("Guest CR0", c => (c.RequiredCr0 & ~c.GuestCr0) == 0 && c.GuestCr0 >> 32 == 0),
        new("Guest CR0.PG without PE", c => !c.PagingOn || (c.GuestCr0 & (ulong)Cr0.Pe) != 0),
        new("Guest CR4", c => (VmxCapabilities.Cr4Required & ~c.GuestCr4) == 0 && (c.GuestCr4 & ~c.Cr4Allowed) == 0),
        new("Guest IA32_DEBUGCTL", c => !c.Has(EntryControls.LoadDebugControls) || (c._v[VmcsField.GuestDebugCtl] & ~MsrTable.DebugCtlBits) == 0),
        new("IA-32e mode without paging", c => !c.LongGuest || (c.PagingOn && (c.GuestCr4 & (ulong)Cr4.Pae) != 0)),
        new("PCIDs outside IA-32e mode", c => c.LongGuest || (c.GuestCr4 & (ulong)Cr4.Pcide) == 0),
        new("Guest CR3", c => (c._v[VmcsField.GuestCr3] & c._beyondPhysical) == 0),
        new("Guest DR7", c => !c.Has(EntryControls.LoadDebugControls) || c._v[VmcsField.GuestDr7] >> 32 == 0),
        new("Guest IA32_SYSENTER_ESP and EIP", c => c.IsCanonical(VmcsField.GuestSysenterEsp) && c.IsCanonical(VmcsField.GuestSysenterEip)),
        new("Guest IA32_PAT", c => !c.Has(EntryControls.LoadPat) || ArePatTypes(c._v[VmcsField.GuestPat])),
        new("Guest IA32_EFER", c => !c.Has(EntryControls.LoadEfer) || c.IsEfer(c._v[VmcsField.GuestEfer], c.LongGuest, c.PagingOn)),
    ];

    /// <summary>Segment registers, LDTR, TR.</summary>
    public static readonly VmxEntryCheck[] GuestSegments =
    [
        new("TI of TR's selector", c => (c.Selector(S.Tr) & 4) == 0),
        new("TI of LDTR's selector", c => !c.IsUsable(S.Ldtr) || (c.Selector(S.Ldtr) & 4) == 0),
        new("RPL of SS's selector", c => c.Virtual8086 || c.Unrestricted || (c.Selector(S.Ss) & 3) == (c.Selector(S.Cs) & 3)),
        new("Virtual-8086 bases", c => !c.Virtual8086 || c.All(s_codeAndData, n => c.Base(n) == c.Selector(n) << 4)),
        new("Canonical bases", c => c.All([S.Tr, S.Fs, S.Gs], n => c.IsCanonicalAddress(c.Base(n)))
            && (!c.IsUsable(S.Ldtr) || c.IsCanonicalAddress(c.Base(S.Ldtr)))),
        new("Bases of 32 bits", c => c.Base(S.Cs) >> 32 == 0 && c.All([S.Ss, S.Ds, S.Es], n => !c.IsUsable(n) || c.Base(n) >> 32 == 0)),
        new("Virtual-8086 limits", c => !c.Virtual8086 || c.All(s_codeAndData, n => c.Limit(n) == 0xFFFF)),
        new("Virtual-8086 access rights", c => !c.Virtual8086 || c.All(s_codeAndData, n => c.Rights(n) == 0xF3)),
        new("Type of CS", c => c.Virtual8086 || (c.Type(S.Cs) is 9 or 11 or 13 or 15) || (c.Unrestricted && c.Type(S.Cs) == 3)),
        new("Type of SS", c => c.Virtual8086 || !c.IsUsable(S.Ss) || c.Type(S.Ss) is 3 or 7),
        new("Types of DS, ES, FS and GS", c => c.Virtual8086 || c.All(s_data, n => !c.IsUsable(n) || ((c.Type(n) & 1) != 0
            && ((c.Type(n) & 8) == 0 || (c.Type(n) & 2) != 0)))),
        new("S of code and data segments", c => c.Virtual8086 || (c.Bit(S.Cs, SystemBit)
            && c.All(s_codeAndData, n => (n != S.Cs && !c.IsUsable(n)) || c.Bit(n, SystemBit)))),
        new("DPL of CS", c => c.Virtual8086 || c.IsCsDplValid()),
        new("DPL of SS", c => c.Virtual8086 || c.IsSsDplValid()),
        new("DPL of data segments", c => c.Virtual8086 || c.Unrestricted || c.All(s_data, n => !c.IsUsable(n) || c.Type(n) > 11
            || c.Dpl(n) >= (c.Selector(n) & 3))),
        new("P of code and data segments", c => c.Virtual8086 || (c.Bit(S.Cs, PresentBit)
            && c.All(s_codeAndData, n => !c.IsUsable(n) || c.Bit(n, PresentBit)))),
        new("Reserved access rights", c => c.Virtual8086 || ((c.Rights(S.Cs) & 0xFFFE_0F00) == 0
            && c.All(s_codeAndData, n => !c.IsUsable(n) || (c.Rights(n) & 0xFFFE_0F00) == 0))),
        new("D/B of a 64-bit CS", c => c.Virtual8086 || !c.LongGuest || !c.Bit(S.Cs, LongBit) || !c.Bit(S.Cs, DefaultBit)),
        new("Granularity of code and data segments", c => c.Virtual8086 || (c.IsGranularityValid(S.Cs)
            && c.All(s_codeAndData, n => !c.IsUsable(n) || c.IsGranularityValid(n)))),
        new("Access rights of TR", c => c.Type(S.Tr) == 11 || (!c.LongGuest && c.Type(S.Tr) == 3)),
        new("S, P and reserved rights of TR", c => !c.Bit(S.Tr, SystemBit) && c.Bit(S.Tr, PresentBit)
            && (c.Rights(S.Tr) & 0xFFFF_0F00) == 0 && c.IsUsable(S.Tr)),
        new("Granularity of TR", c => c.IsGranularityValid(S.Tr)),
        new("Access rights of LDTR", c => !c.IsUsable(S.Ldtr) || (c.Type(S.Ldtr) == 2 && !c.Bit(S.Ldtr, SystemBit) && c.Bit(S.Ldtr, PresentBit)
            && (c.Rights(S.Ldtr) & 0xFFFE_0F00) == 0 && c.IsGranularityValid(S.Ldtr))),
    ];

    /// <summary>Descriptor tables, RIP and RFLAGS, non-register state, PDPTEs.</summary>
    public static readonly VmxEntryCheck[] GuestRest =
    [
        // Descriptor tables
        new("GDTR and IDTR bases", c => c.IsCanonicalAddress(c._v[VmcsField.GuestGdtrBase]) && c.IsCanonicalAddress(c._v[VmcsField.GuestIdtrBase])),
        new("GDTR and IDTR limits", c => c._v[VmcsField.GuestGdtrLimit] >> 16 == 0 && c._v[VmcsField.GuestIdtrLimit] >> 16 == 0),
        // RIP, RFLAGS
        new("RIP of 32 bits", c => (c.LongGuest && c.Bit(S.Cs, LongBit)) || c._v[VmcsField.GuestRip] >> 32 == 0),
        new("RIP canonical", c => !c.LongGuest || !c.Bit(S.Cs, LongBit) || c.IsCanonicalRip(c._v[VmcsField.GuestRip], c.GuestCr4)),
        new("RFLAGS reserved bits", c => (c._v[VmcsField.GuestRflags] & 0xFFFF_FFFF_FFC0_802A) == (ulong)Rflags.Fixed1),
        new("RFLAGS.VM", c => !c.Virtual8086 || (!c.LongGuest && (c.GuestCr0 & (ulong)Cr0.Pe) != 0)),
        new("RFLAGS.IF for an injected interrupt", c => !c.Injects || c.InjectedType != 0 || (c._v[VmcsField.GuestRflags] & (ulong)Rflags.If) != 0),
        // Non-register state
        new("Activity state", c => c.Activity is 0 or 1 or 3),
        new("HLT with CPL", c => c.Activity != 1 || c.Dpl(S.Ss) == 0),
        new("Activity state with blocking by STI or MOV SS", c => c.Activity == 0
            || (c.Blocking & (Interruptibility.BlockingBySti | Interruptibility.BlockingByMovSs)) == 0),
        new("Activity state with an injected event", c => !c.Injects || c.IsInjectionInActivity()),
        new("Reserved bits of the interruptibility state", c => ((uint)c.Blocking & ~0xFu) == 0),
        new("Blocking by STI and MOV SS", c => (c.Blocking & (Interruptibility.BlockingBySti | Interruptibility.BlockingByMovSs))
            != (Interruptibility.BlockingBySti | Interruptibility.BlockingByMovSs)),
        new("Blocking by STI without RFLAGS.IF", c => (c.Blocking & Interruptibility.BlockingBySti) == 0
            || (c._v[VmcsField.GuestRflags] & (ulong)Rflags.If) != 0),
        new("Blocking with an injected interrupt", c => !c.Injects || c.InjectedType != 0
            || (c.Blocking & (Interruptibility.BlockingBySti | Interruptibility.BlockingByMovSs)) == 0),
        new("Blocking by MOV SS with an injected NMI", c => !c.Injects || c.InjectedType != 2
            || (c.Blocking & Interruptibility.BlockingByMovSs) == 0),
        new("Blocking by STI with an injected NMI", c => !c.Injects || c.InjectedType != 2 || (c.Blocking & Interruptibility.BlockingBySti) == 0),
        new("Blocking by SMI", c => (c.Blocking & Interruptibility.BlockingBySmi) == 0),
        new("Blocking by NMI with an injected virtual NMI", c => !c.Has(PinControls.VirtualNmis) || !c.Injects || c.InjectedType != 2
            || (c.Blocking & Interruptibility.BlockingByNmi) == 0),
        new("Reserved bits of the pending debug exceptions", c => (c._v[VmcsField.GuestPendingDebug] & ~0x1_500Ful) == 0),
        new("Single step among the pending debug exceptions", c => c.IsPendingSingleStepValid()),
        new("VMCS link pointer", c => c.IsLinkPointerValid()),
        new("PDPTEs", c => c.ArePdptesValid()),
    ];

    private ulong RequiredCr0 => Unrestricted ? VmxCapabilities.Cr0Required & ~(ulong)(Cr0.Pe | Cr0.Pg) : VmxCapabilities.Cr0Required;

    private ulong Cr4Allowed => p.ControlRegisters.Cr4Allowed;

    private bool IsCanonicalAddress(ulong address) => p.IsCanonicalBase(address);

    private bool IsCsDplValid() => Type(S.Cs) switch
    {
        3 => Dpl(S.Cs) == 0,
        9 or 11 => Dpl(S.Cs) == Dpl(S.Ss),
        _ => Dpl(S.Cs) <= Dpl(S.Ss),
    };

    private bool IsSsDplValid()
    {
        if (!Unrestricted && Dpl(S.Ss) != (Selector(S.Ss) & 3)) return false;
        return (Type(S.Cs) != 3 && (GuestCr0 & (ulong)Cr0.Pe) != 0) || Dpl(S.Ss) == 0;
    }

    /// <summary>G clear: limit bits 31:20 are clear; G set: bits 11:0 are ones.</summary>
    private bool IsGranularityValid(S n) =>
        Bit(n, GranularBit) ? (Limit(n) & 0xFFF) == 0xFFF : Limit(n) >> 20 == 0;

    private bool IsInjectionInActivity() => Activity switch
    {
        0 => true,
        1 => InjectedType is 0 or 2 || (InjectedType == 3 && InjectedVector is 1 or 18) || (InjectedType == 7 && InjectedVector == 0),
        _ => false,
    };

    /// <summary>While debug exceptions are held back, or in HLT, BS must stand for exactly what TF and BTF say.</summary>
    private bool IsPendingSingleStepValid()
    {
        if ((Blocking & (Interruptibility.BlockingBySti | Interruptibility.BlockingByMovSs)) == 0 && Activity != 1) return true;
        bool tf = (_v[VmcsField.GuestRflags] & (ulong)Rflags.Tf) != 0, btf = (_v[VmcsField.GuestDebugCtl] & 2) != 0;
        bool bs = (_v[VmcsField.GuestPendingDebug] & 1 << 14) != 0;
        return bs == (tf && !btf);
    }

    private bool IsLinkPointerValid()
    {
        ulong link = _v[VmcsField.VmcsLinkPointer];
        if (link == Vmx.NoPointer) return true;
        bool valid = (link & 0xFFF) == 0 && (link & _beyondPhysical) == 0 && link != vmx.CurrentPointer;
        if (valid)
        {
            uint revision = vmx.Memory.Read<uint>(link);
            bool shadow = (revision & Vmcs.ShadowIndicator) != 0;
            valid = (revision & ~Vmcs.ShadowIndicator) == Vmcs.Revision && shadow == Has(SecondaryControls.VmcsShadowing);
        }
        if (!valid) Qualification = 4;
        return valid;
    }

    /// <summary>With EPT the PDPTEs are in the VMCS; without, they are read when they are loaded.</summary>
    private bool ArePdptesValid()
    {
        if (!LoadsPdptes || !Has(SecondaryControls.EnableEpt)) return true;
        for (int n = 0; n < 4; n++)
        {
            ulong entry = _v[VmcsField.GuestPdpte0 + (ushort)(2 * n)];
            if ((entry & PagingBits.Present) == 0 || (entry & (_beyondPhysical | PagingBits.ReservedOfPdpte)) == 0) continue;
            Qualification = 2;
            return false;
        }
        return true;
    }
}
