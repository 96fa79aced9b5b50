using Bunraku.Engines;

namespace Bunraku.Engine.Kvm;

/// <summary>MSRs that are a vCPU's state. The TSC is not among them: it moves; FS_BASE, GS_BASE, EFER and IA32_APIC_BASE go with the registers.</summary>
/// <remarks>Intel SDM vol. 4; AMD APM vol. 2, "MSR Cross-Reference".</remarks>
internal static class StateMsrs
{
    /// <summary>What the guest's own software relies on to hold what it wrote.</summary>
    private static readonly uint[] s_essential =
    [
        MsrIndex.TscAdjust, MsrIndex.SysenterCs, MsrIndex.SysenterEsp, MsrIndex.SysenterEip, MsrIndex.Pat, MsrIndex.MtrrDefType, .. Mtrrs(),
        MsrIndex.Star, MsrIndex.Lstar, MsrIndex.Cstar, MsrIndex.Fmask, MsrIndex.KernelGsBase, MsrIndex.TscAux,
    ];

    /// <summary>IA32_FEATURE_CONTROL; VM_CR and VM_HSAVE_PA.</summary>
    private static readonly uint[] s_hypervisors = [0x3A, 0xC001_0114, 0xC001_0117];

    private const uint SpecCtrl = 0x48, McgStatus = 0x17A, McgCtl = 0x17B, MiscEnable = 0x1A0, FirstBank = 0x400, Banks = 10, Hwcr = 0xC001_0015;

    /// <summary>MSR_KVM_WALL_CLOCK_NEW, _SYSTEM_TIME_NEW, _STEAL_TIME, _PV_EOI_EN, _POLL_CONTROL: where the guest keeps what KVM tells it.</summary>
    /// <remarks>Linux Documentation/virt/kvm/x86/msr.rst.</remarks>
    private static readonly uint[] s_paravirtual = [0x4B56_4D00, 0x4B56_4D01, 0x4B56_4D03, 0x4B56_4D04, 0x4B56_4D05];

    private static readonly uint[] s_others =
    [
        SpecCtrl, McgStatus, McgCtl, MiscEnable, MsrIndex.DebugCtl, MsrIndex.Xss, Hwcr, .. s_paravirtual,
        .. Enumerable.Range((int)FirstBank, (int)Banks * 4).Select(n => (uint)n),
    ];

    public static IEnumerable<uint> All => s_essential.Concat(s_others);

    /// <summary>What guests with VMX or SVM have beside them.</summary>
    public static IEnumerable<uint> OfHypervisors => s_hypervisors;

    public static bool IsEssential(uint index) => s_essential.Contains(index) || s_hypervisors.Contains(index);

    private static IEnumerable<uint> Mtrrs() =>
        Enumerable.Range(0x200, 16).Concat([0x250, 0x258, 0x259]).Concat(Enumerable.Range(0x268, 8)).Select(n => (uint)n);
}
