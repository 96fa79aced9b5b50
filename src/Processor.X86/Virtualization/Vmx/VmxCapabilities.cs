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

    /// <summary>Pin-based controls that the model has.</summary>
    public static PinControls PinBits(CpuModel model) => PinControls.Default1 | PinControls.ExternalInterruptExiting | PinControls.NmiExiting
        | When(model, CpuFeature.VmxVnmi, PinControls.VirtualNmis) | When(model, CpuFeature.VmxPreemptionTimer, PinControls.PreemptionTimer)
        | When(model, CpuFeature.VmxPostedIntr, PinControls.ProcessPostedInterrupts);

    private const ProcessorControls Processor = ProcessorControls.Default1 | ProcessorControls.InterruptWindowExiting | ProcessorControls.UseTscOffsetting
        | ProcessorControls.HltExiting | ProcessorControls.InvlpgExiting | ProcessorControls.MwaitExiting | ProcessorControls.RdpmcExiting
        | ProcessorControls.RdtscExiting | ProcessorControls.Cr8LoadExiting | ProcessorControls.Cr8StoreExiting
        | ProcessorControls.MovDrExiting | ProcessorControls.UnconditionalIoExiting | ProcessorControls.UseIoBitmaps | ProcessorControls.UseMsrBitmaps
        | ProcessorControls.MonitorExiting | ProcessorControls.PauseExiting | ProcessorControls.ActivateSecondaryControls;

    /// <summary>Primary processor-based controls that the model has.</summary>
    public static ProcessorControls PrimaryBits(CpuModel model) => Processor | When(model, CpuFeature.VmxVnmi, ProcessorControls.NmiWindowExiting)
        | When(model, CpuFeature.VmxMtf, ProcessorControls.MonitorTrapFlag) | When(model, CpuFeature.VmxFlexpriority, ProcessorControls.UseTprShadow);

    public const ExitControls ExitBits = ExitControls.Default1 | ExitControls.HostAddressSpaceSize | ExitControls.AcknowledgeInterruptOnExit
        | ExitControls.SavePat | ExitControls.LoadPat | ExitControls.SaveEfer | ExitControls.LoadEfer | ExitControls.SavePreemptionTimer;

    public const EntryControls EntryBits = EntryControls.Default1 | EntryControls.Ia32eModeGuest | EntryControls.LoadPat | EntryControls.LoadEfer;

    /// <summary>Secondary controls that the model's features allow.</summary>
    public static SecondaryControls SecondaryBits(CpuModel model)
    {
        SecondaryControls bits = SecondaryControls.WbinvdExiting | When(model, CpuFeature.VmxEpt, SecondaryControls.EnableEpt)
            | When(model, CpuFeature.VmxDescExit, SecondaryControls.DescriptorTableExiting) | When(model, CpuFeature.VmxVpid, SecondaryControls.EnableVpid)
            | When(model, CpuFeature.VmxUnrestrictedGuest, SecondaryControls.UnrestrictedGuest)
            | When(model, CpuFeature.VmxTscScaling, SecondaryControls.UseTscScaling) | When(model, CpuFeature.VmxPle, SecondaryControls.PauseLoopExiting)
            | When(model, CpuFeature.VmxShadowVmcs, SecondaryControls.VmcsShadowing) | When(model, CpuFeature.VmxVmfunc, SecondaryControls.EnableVmFunctions)
            | When(model, CpuFeature.VmxPml, SecondaryControls.EnablePml) | When(model, CpuFeature.VmxMbec, SecondaryControls.ModeBasedExecute)
            | When(model, CpuFeature.VmxEptViolationVe, SecondaryControls.EptViolationVe)
            | When(model, CpuFeature.VmxApicvXapic, SecondaryControls.VirtualizeApicAccesses)
            | When(model, CpuFeature.VmxApicvX2apic, SecondaryControls.VirtualizeX2Apic)
            | When(model, CpuFeature.VmxApicvRegister, SecondaryControls.ApicRegisterVirtualization)
            | When(model, CpuFeature.VmxApicvVid, SecondaryControls.VirtualInterruptDelivery);
        if (model.Has(CpuFeature.Rdtscp) || model.Has(CpuFeature.Rdpid)) bits |= SecondaryControls.EnableRdtscp;
        if (model.Has(CpuFeature.Invpcid)) bits |= SecondaryControls.EnableInvpcid;
        if (model.Has(CpuFeature.Rdrand)) bits |= SecondaryControls.RdrandExiting;
        if (model.Has(CpuFeature.Rdseed)) bits |= SecondaryControls.RdseedExiting;
        if (model.Has(CpuFeature.Xsaves)) bits |= SecondaryControls.EnableXsaves;
        return bits;
    }

    private static T When<T>(CpuModel model, CpuFeature feature, T bits) where T : struct => model.Has(feature) ? bits : default;

    /// <summary>IA32_VMX_EPT_VPID_CAP: page walks of length 4, uncacheable and write-back memory, pages of 2 MiB, INVEPT for one context and for all.</summary>
    private const ulong EptBits = 1 << 6 | 1 << 8 | 1 << 14 | 1 << 16 | 1 << 20 | 1 << 25 | 1 << 26;

    /// <summary>All four types of INVVPID.</summary>
    private const ulong VpidBits = 1ul << 32 | 1ul << 40 | 1ul << 41 | 1ul << 42 | 1ul << 43;

    private static ulong EptVpidBits(CpuModel model) => When(model, CpuFeature.VmxEpt, EptBits) | When(model, CpuFeature.VmxVpid, VpidBits)
        | When(model, CpuFeature.VmxEptExeconly, 1ul << 0) | When(model, CpuFeature.VmxEpt1gb, 1ul << 17) | When(model, CpuFeature.VmxEptad, 1ul << 21);

    public static ulong Read(uint index, CpuModel model, ulong cr4Allowed) => index switch
    {
        // Write-back regions of 4096 bytes; INS and OUTS tell more; the TRUE controls exist.
        Basic => Vmcs.Revision | (ulong)Vmcs.RegionSize << 32 | 6ul << 50 | 1ul << 54 | 1ul << 55 | 1ul << 56,
        PinBased => Pair((uint)PinControls.Default1, (uint)PinBits(model)),
        ProcessorBased => Pair((uint)ProcessorControls.Default1, (uint)PrimaryBits(model)),
        Exit => Pair((uint)ExitControls.Default1, (uint)ExitBits),
        Entry => Pair((uint)EntryControls.Default1, (uint)EntryBits),
        // LMA is saved; activity states HLT and wait-for-SIPI; CR3 targets; VMWRITE to any field; injection with length 0.
        Misc => PreemptionTimerShift | 1 << 5 | 1 << 6 | 1 << 8 | Cr3Targets << 16 | 1ul << 29 | 1ul << 30,
        Cr0Fixed0 => Cr0Required,
        Cr0Fixed1 => uint.MaxValue,
        Cr4Fixed0 => Cr4Required,
        Cr4Fixed1 => cr4Allowed,
        VmcsEnum => VmcsFields.HighestIndex,
        Secondary => Pair(0, (uint)SecondaryBits(model)),
        EptVpid => EptVpidBits(model),
        TruePinBased => Pair((uint)PinControls.Default1, (uint)PinBits(model)),
        TrueProcessorBased => Pair((uint)(ProcessorControls.Default1 & ~(ProcessorControls.Cr3LoadExiting | ProcessorControls.Cr3StoreExiting)),
            (uint)PrimaryBits(model)),
        TrueExit => Pair((uint)(ExitControls.Default1 & ~ExitControls.SaveDebugControls), (uint)ExitBits),
        VmFunctions => When(model, CpuFeature.VmxVmfunc, EptpSwitching),
        TrueEntry => Pair((uint)(EntryControls.Default1 & ~EntryControls.LoadDebugControls), (uint)EntryBits),
        _ => 0,
    };

    /// <summary>Bits 31:0: what must be 1; 63:32: what may be.</summary>
    private static ulong Pair(uint required, uint allowed) => required | (ulong)allowed << 32;
}
