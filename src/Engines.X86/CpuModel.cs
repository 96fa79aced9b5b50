namespace Bunraku.Engines.X86;

/// <summary>
/// Features a CPU model can have, one for each CPUID bit that the project knows, and for capabilities of VMX that can be absent.
/// The names are those of Linux's /proc/cpuinfo in upper camel case.
/// </summary>
/// <remarks>Intel SDM vol. 2, CPUID; AMD APM vol. 3, appendix E. What each is for is told there, under these names.</remarks>
public enum CpuFeature
{
#pragma warning disable CS1591 // a table of names
    // CPUID.1:EDX
    Fpu, Vme, De, Pse, Tsc, Msr, Pae, Mce, Cx8, Apic, Sep, Mtrr, Pge, Mca, Cmov, Pat, Pse36, Clflush, Mmx, Fxsr, Sse, Sse2, Ht,
    // CPUID.1:ECX
    Sse3, Pclmulqdq, Monitor, Vmx, Ssse3, Fma, Cx16, Pcid, Sse41, Sse42, X2apic, Movbe, Popcnt, TscDeadline, Aes, Xsave, Osxsave, Avx, F16c, Rdrand, Hypervisor,
    // CPUID.7.0:EBX, ECX
    Fsgsbase, TscAdjust, Bmi1, Avx2, Smep, Bmi2, Erms, Invpcid, Rdseed, Adx, Smap, Clflushopt, Clwb, Sha, Umip, Pku, Ospke, La57, Rdpid,
    // CPUID.80000001
    Syscall, Nx, Pdpe1gb, Rdtscp, Lm, LahfLm, CmpLegacy, Cr8Legacy, Lzcnt, Prefetchw, Sse4a, Misalignsse,
    // CPUID.0D.1, CPUID.06, CPUID.80000007
    Xsaveopt, Xsavec, Xgetbv1, Xsaves, Arat, InvariantTsc,
    // CPUID.7.0:EDX, CPUID.80000008:EBX, CPUID.80000021: speculation that this processor does not do
    ArchCapabilities, SsbNo, NullSelClearsBase, AutoIbrs, SrsoNo, TsaSqNo, TsaL1No,
    // CPUID.80000001:ECX, CPUID.8000000A:EDX
    Svm, Npt, Lbrv, SvmLock, NripSave, TscScale, VmcbClean, FlushByAsid, DecodeAssists, PauseFilter, PfThreshold, Avic, VVmsaveVmload, Vgif, Gmet, X2avic,
    Vnmi,
    // Capability MSRs of VMX, by QEMU's names: IA32_VMX_PINBASED_CTLS, IA32_VMX_PROCBASED_CTLS, IA32_VMX_PROCBASED_CTLS2, IA32_VMX_EPT_VPID_CAP
    VmxVnmi, VmxPreemptionTimer, VmxFlexpriority, VmxMtf, VmxEpt, VmxDescExit, VmxVpid, VmxUnrestrictedGuest, VmxPle, VmxVmfunc, VmxShadowVmcs, VmxPml,
    VmxEptViolationVe, VmxMbec, VmxTscScaling, VmxEptExeconly, VmxEpt1gb, VmxEptad, VmxApicvXapic, VmxApicvX2apic, VmxApicvRegister,
    VmxApicvVid, VmxPostedIntr,
#pragma warning restore CS1591
}

/// <summary>A CPU as a guest sees it: vendor, family, and exactly the features that it has.</summary>
/// <param name="Name">The word on the command line.</param>
/// <param name="Vendor">12 characters, CPUID leaf 0.</param>
/// <param name="Brand">At most 48 characters, CPUID leaves 80000002 to 80000004.</param>
public sealed record CpuModel(string Name, string Vendor, uint Family, uint Model, uint Stepping, string Brand, IReadOnlySet<CpuFeature> Features)
{
    /// <summary>Number of physical address bits, 36 to 52.</summary>
    public int PhysicalAddressBits { get; init; } = 46;

    /// <summary>What the hypervisor says about itself, where <see cref="CpuFeature.Hypervisor"/> says that there is one.</summary>
    public HypervisorInterface Hypervisor { get; init; } = HypervisorInterface.None;

    /// <summary>AuthenticAMD: decides the layout of CPUID and which MSRs exist. What instructions do is in <see cref="Behavior"/>.</summary>
    public bool IsAmd => Vendor == "AuthenticAMD";

    /// <summary>What instructions do where the vendors differ.</summary>
    public VendorBehavior Behavior => IsAmd ? VendorBehavior.Amd : VendorBehavior.Intel;

    /// <summary>The model has the feature.</summary>
    public bool Has(CpuFeature feature) => Features.Contains(feature);
}
