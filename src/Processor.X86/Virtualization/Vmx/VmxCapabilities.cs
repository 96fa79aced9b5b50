namespace Bunraku.Processor.X86;

/// <summary>
/// What the VMX capability MSRs tell: which settings of the controls a VM entry takes. A bit stands here only when what it switches is complete.
/// </summary>
/// <remarks>Intel SDM vol. 3D, appendix "VMX Capability Reporting Facility".</remarks>
internal static class VmxCapabilities
{
    /// <summary>IA32_FEATURE_CONTROL and its bits.</summary>
    public const uint FeatureControl = 0x3A;
    public const ulong FeatureControlLock = 1, FeatureControlVmxOutsideSmx = 4;

    /// <summary>The capability MSRs.</summary>
    public const uint Basic = 0x480, PinBased = 0x481, ProcessorBased = 0x482, Exit = 0x483, Entry = 0x484, Misc = 0x485, Cr0Fixed0 = 0x486,
        Cr0Fixed1 = 0x487, Cr4Fixed0 = 0x488, Cr4Fixed1 = 0x489, VmcsEnum = 0x48A, Secondary = 0x48B, EptVpid = 0x48C, TruePinBased = 0x48D,
        TrueProcessorBased = 0x48E, TrueExit = 0x48F, TrueEntry = 0x490, VmFunctions = 0x491;

    /// <summary>Names in the order of the numbers, from <see cref="Basic"/>.</summary>
    public static readonly string[] Names =
    [
        "VMX_BASIC", "VMX_PINBASED_CTLS", "VMX_PROCBASED_CTLS", "VMX_EXIT_CTLS", "VMX_ENTRY_CTLS", "VMX_MISC", "VMX_CR0_FIXED0", "VMX_CR0_FIXED1",
        "VMX_CR4_FIXED0", "VMX_CR4_FIXED1", "VMX_VMCS_ENUM", "VMX_PROCBASED_CTLS2", "VMX_EPT_VPID_CAP", "VMX_TRUE_PINBASED_CTLS",
        "VMX_TRUE_PROCBASED_CTLS", "VMX_TRUE_EXIT_CTLS", "VMX_TRUE_ENTRY_CTLS", "VMX_VMFUNC",
    ];

    /// <summary>CR0 bits that VMX operation wants set; PE and PG may be clear in an unrestricted guest.</summary>
    public const ulong Cr0Required = (ulong)(Cr0.Pe | Cr0.Ne | Cr0.Pg), Cr4Required = (ulong)Cr4.Vmxe;

    /// <summary>Counts of the VMX-preemption timer are ticks of the TSC shifted right by this.</summary>
    public const int PreemptionTimerShift = 5;

    /// <summary>VM function 0, in IA32_VMX_VMFUNC and the VM-function controls.</summary>
    public const ulong EptpSwitching = 1;

    /// <summary>Most MSRs in a list.</summary>
    public const int MostMsrs = 512;

    /// <summary>Values of CR3 that load without an exit.</summary>
    public const int Cr3Targets = 4;

    public const PinControls Pin = PinControls.Default1 | PinControls.ExternalInterruptExiting | PinControls.NmiExiting | PinControls.VirtualNmis
        | PinControls.PreemptionTimer;

    public const ProcessorControls Processor = ProcessorControls.Default1 | ProcessorControls.InterruptWindowExiting | ProcessorControls.UseTscOffsetting
        | ProcessorControls.HltExiting | ProcessorControls.InvlpgExiting | ProcessorControls.MwaitExiting | ProcessorControls.RdpmcExiting
        | ProcessorControls.RdtscExiting | ProcessorControls.Cr8LoadExiting | ProcessorControls.Cr8StoreExiting | ProcessorControls.NmiWindowExiting
        | ProcessorControls.MovDrExiting | ProcessorControls.UnconditionalIoExiting | ProcessorControls.UseIoBitmaps | ProcessorControls.MonitorTrapFlag
        | ProcessorControls.UseTprShadow | ProcessorControls.UseMsrBitmaps
        | ProcessorControls.MonitorExiting | ProcessorControls.PauseExiting | ProcessorControls.ActivateSecondaryControls;

    public const ExitControls ExitBits = ExitControls.Default1 | ExitControls.HostAddressSpaceSize | ExitControls.AcknowledgeInterruptOnExit
        | ExitControls.SavePat | ExitControls.LoadPat | ExitControls.SaveEfer | ExitControls.LoadEfer | ExitControls.SavePreemptionTimer;

    public const EntryControls EntryBits = EntryControls.Default1 | EntryControls.Ia32eModeGuest | EntryControls.LoadPat | EntryControls.LoadEfer;

    /// <summary>Secondary controls that the model's features allow.</summary>
    public static SecondaryControls SecondaryBits(CpuModel model)
    {
        SecondaryControls bits = SecondaryControls.EnableEpt | SecondaryControls.DescriptorTableExiting | SecondaryControls.EnableVpid
            | SecondaryControls.WbinvdExiting | SecondaryControls.UnrestrictedGuest | SecondaryControls.UseTscScaling | SecondaryControls.PauseLoopExiting
            | SecondaryControls.VmcsShadowing | SecondaryControls.EnableVmFunctions | SecondaryControls.EnablePml;
        if (model.Has(CpuFeature.Rdtscp) || model.Has(CpuFeature.Rdpid)) bits |= SecondaryControls.EnableRdtscp;
        if (model.Has(CpuFeature.Invpcid)) bits |= SecondaryControls.EnableInvpcid;
        if (model.Has(CpuFeature.Rdrand)) bits |= SecondaryControls.RdrandExiting;
        if (model.Has(CpuFeature.Rdseed)) bits |= SecondaryControls.RdseedExiting;
        if (model.Has(CpuFeature.Xsaves)) bits |= SecondaryControls.EnableXsaves;
        return bits;
    }

    /// <summary>IA32_VMX_EPT_VPID_CAP.</summary>
    private const ulong EptVpidBits = 1 << 0 // execute-only
        | 1 << 6 // page-walk length 4
        | 1 << 8 | 1 << 14 // uncacheable, write-back
        | 1 << 16 | 1 << 17 // 2 MiB and 1 GiB pages
        | 1 << 20 | 1 << 25 | 1 << 26 // INVEPT: single context, all contexts
        | 1 << 21 // accessed and dirty flags
        | 1ul << 32 | 1ul << 40 | 1ul << 41 | 1ul << 42 | 1ul << 43; // INVVPID: all four types

    public static ulong Read(uint index, CpuModel model, ulong cr4Allowed) => index switch
    {
        // Write-back regions of 4096 bytes; INS and OUTS tell more; the TRUE controls exist.
        Basic => Vmcs.Revision | (ulong)Vmcs.RegionSize << 32 | 6ul << 50 | 1ul << 54 | 1ul << 55 | 1ul << 56,
        PinBased => Pair((uint)PinControls.Default1, (uint)Pin),
        ProcessorBased => Pair((uint)ProcessorControls.Default1, (uint)Processor),
        Exit => Pair((uint)ExitControls.Default1, (uint)ExitBits),
        Entry => Pair((uint)EntryControls.Default1, (uint)EntryBits),
        // LMA is saved; activity state HLT; CR3 targets; VMWRITE to any field; injection with length 0.
        Misc => PreemptionTimerShift | 1 << 5 | 1 << 6 | Cr3Targets << 16 | 1ul << 29 | 1ul << 30,
        Cr0Fixed0 => Cr0Required,
        Cr0Fixed1 => uint.MaxValue,
        Cr4Fixed0 => Cr4Required,
        Cr4Fixed1 => cr4Allowed,
        VmcsEnum => VmcsFields.HighestIndex,
        Secondary => Pair(0, (uint)SecondaryBits(model)),
        EptVpid => EptVpidBits,
        TruePinBased => Pair((uint)PinControls.Default1, (uint)Pin),
        TrueProcessorBased => Pair((uint)(ProcessorControls.Default1 & ~(ProcessorControls.Cr3LoadExiting | ProcessorControls.Cr3StoreExiting)),
            (uint)Processor),
        TrueExit => Pair((uint)(ExitControls.Default1 & ~ExitControls.SaveDebugControls), (uint)ExitBits),
        VmFunctions => EptpSwitching,
        TrueEntry => Pair((uint)(EntryControls.Default1 & ~EntryControls.LoadDebugControls), (uint)EntryBits),
        _ => 0,
    };

    /// <summary>Bits 31:0: what must be 1; 63:32: what may be.</summary>
    private static ulong Pair(uint required, uint allowed) => required | (ulong)allowed << 32;
}
