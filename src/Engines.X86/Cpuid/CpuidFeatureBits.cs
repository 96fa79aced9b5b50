
namespace Bunraku.Engines.X86;

/// <summary>Result registers of CPUID by number.</summary>
public enum CpuidRegister
{
    /// <summary>EAX.</summary>
    Eax,
    /// <summary>EBX.</summary>
    Ebx,
    /// <summary>ECX.</summary>
    Ecx,
    /// <summary>EDX.</summary>
    Edx,
}

/// <summary>Where CPUID reports a feature.</summary>
/// <param name="HostExecuted">Its instructions run on the host's own units: without the bit on the host a model cannot have it.</param>
public readonly record struct CpuidFeatureBit(CpuFeature Feature, uint Leaf, uint Subleaf, CpuidRegister Register, int Bit, bool HostExecuted = false);

/// <summary>One row for each feature. Intel SDM vol. 2, CPUID; AMD APM vol. 3, appendix E.</summary>
public static class CpuidFeatureBits
{
    /// <summary>The rows, in no order that matters.</summary>
    public static readonly CpuidFeatureBit[] Rows =
    [
        .. Column(1, 0, CpuidRegister.Edx,
            (CpuFeature.Fpu, 0), (CpuFeature.Vme, 1), (CpuFeature.De, 2), (CpuFeature.Pse, 3), (CpuFeature.Tsc, 4), (CpuFeature.Msr, 5), (CpuFeature.Pae, 6),
            (CpuFeature.Mce, 7), (CpuFeature.Cx8, 8), (CpuFeature.Apic, 9), (CpuFeature.Sep, 11), (CpuFeature.Mtrr, 12), (CpuFeature.Pge, 13),
            (CpuFeature.Mca, 14),
            (CpuFeature.Cmov, 15), (CpuFeature.Pat, 16), (CpuFeature.Pse36, 17), (CpuFeature.Clflush, 19), (CpuFeature.Mmx, 23), (CpuFeature.Fxsr, 24),
            (CpuFeature.Sse, 25), (CpuFeature.Sse2, 26), (CpuFeature.Ht, 28)),
        .. Column(1, 0, CpuidRegister.Ecx,
            (CpuFeature.Monitor, 3), (CpuFeature.Vmx, 5),
            (CpuFeature.Cx16, 13), (CpuFeature.Pcid, 17), (CpuFeature.X2apic, 21), (CpuFeature.Movbe, 22), (CpuFeature.Popcnt, 23),
            (CpuFeature.TscDeadline, 24), (CpuFeature.Xsave, 26), (CpuFeature.Osxsave, 27), (CpuFeature.Rdrand, 30), (CpuFeature.Hypervisor, 31)),
        .. HostColumn(1, 0, CpuidRegister.Ecx,
            (CpuFeature.Sse3, 0), (CpuFeature.Pclmulqdq, 1), (CpuFeature.Ssse3, 9), (CpuFeature.Fma, 12), (CpuFeature.Sse41, 19), (CpuFeature.Sse42, 20),
            (CpuFeature.Aes, 25), (CpuFeature.Avx, 28), (CpuFeature.F16c, 29)),
        .. Column(7, 0, CpuidRegister.Ebx,
            (CpuFeature.Fsgsbase, 0), (CpuFeature.TscAdjust, 1), (CpuFeature.Bmi1, 3), (CpuFeature.Smep, 7), (CpuFeature.Bmi2, 8), (CpuFeature.Erms, 9),
            (CpuFeature.Invpcid, 10), (CpuFeature.Rdseed, 18), (CpuFeature.Adx, 19), (CpuFeature.Smap, 20), (CpuFeature.Clflushopt, 23), (CpuFeature.Clwb, 24)),
        .. HostColumn(7, 0, CpuidRegister.Ebx, (CpuFeature.Avx2, 5), (CpuFeature.Sha, 29)),
        .. Column(7, 0, CpuidRegister.Ecx, (CpuFeature.Umip, 2), (CpuFeature.Pku, 3), (CpuFeature.Ospke, 4), (CpuFeature.La57, 16), (CpuFeature.Rdpid, 22)),
        .. Column(7, 0, CpuidRegister.Edx, (CpuFeature.ArchCapabilities, 29)),
        .. Column(0xD, 1, CpuidRegister.Eax, (CpuFeature.Xsaveopt, 0), (CpuFeature.Xsavec, 1), (CpuFeature.Xgetbv1, 2), (CpuFeature.Xsaves, 3)),
        .. Column(6, 0, CpuidRegister.Eax, (CpuFeature.Arat, 2)),
        .. Column(0x8000_0001, 0, CpuidRegister.Edx, (CpuFeature.Syscall, 11), (CpuFeature.Nx, 20), (CpuFeature.Pdpe1gb, 26), (CpuFeature.Rdtscp, 27),
            (CpuFeature.Lm, 29)),
        .. Column(0x8000_0001, 0, CpuidRegister.Ecx,
            (CpuFeature.LahfLm, 0), (CpuFeature.CmpLegacy, 1), (CpuFeature.Svm, 2), (CpuFeature.Cr8Legacy, 4), (CpuFeature.Lzcnt, 5),
            (CpuFeature.Misalignsse, 7), (CpuFeature.Prefetchw, 8)),
        .. HostColumn(0x8000_0001, 0, CpuidRegister.Ecx, (CpuFeature.Sse4a, 6)),
        .. Column(0x8000_0007, 0, CpuidRegister.Edx, (CpuFeature.InvariantTsc, 8)),
        .. Column(0x8000_0008, 0, CpuidRegister.Ebx, (CpuFeature.SsbNo, 26)),
        .. Column(0x8000_000A, 0, CpuidRegister.Edx,
            (CpuFeature.Npt, 0), (CpuFeature.Lbrv, 1), (CpuFeature.SvmLock, 2), (CpuFeature.NripSave, 3), (CpuFeature.TscScale, 4), (CpuFeature.VmcbClean, 5),
            (CpuFeature.FlushByAsid, 6), (CpuFeature.DecodeAssists, 7), (CpuFeature.PauseFilter, 10), (CpuFeature.PfThreshold, 12),
            (CpuFeature.Avic, 13), (CpuFeature.VVmsaveVmload, 15), (CpuFeature.Vgif, 16), (CpuFeature.Gmet, 17),
            (CpuFeature.X2avic, 18), (CpuFeature.Vnmi, 25)),
        .. Column(0x8000_0021, 0, CpuidRegister.Eax, (CpuFeature.NullSelClearsBase, 6), (CpuFeature.AutoIbrs, 8), (CpuFeature.SrsoNo, 29)),
        .. Column(0x8000_0021, 0, CpuidRegister.Ecx, (CpuFeature.TsaSqNo, 1), (CpuFeature.TsaL1No, 2)),
    ];

    private static CpuidFeatureBit[] Column(uint leaf, uint subleaf, CpuidRegister register, params (CpuFeature Feature, int Bit)[] bits) =>
        Column(leaf, subleaf, register, hostExecuted: false, bits);

    private static CpuidFeatureBit[] HostColumn(uint leaf, uint subleaf, CpuidRegister register, params (CpuFeature Feature, int Bit)[] bits) =>
        Column(leaf, subleaf, register, hostExecuted: true, bits);

    private static CpuidFeatureBit[] Column(uint leaf, uint subleaf, CpuidRegister register, bool hostExecuted, (CpuFeature Feature, int Bit)[] bits)
    {
        var rows = new CpuidFeatureBit[bits.Length];
        for (int n = 0; n < rows.Length; n++) rows[n] = new(bits[n].Feature, leaf, subleaf, register, bits[n].Bit, hostExecuted);
        return rows;
    }

    /// <summary>The model's feature bits in one CPUID register.</summary>
    public static uint Of(CpuModel model, uint leaf, uint subleaf, CpuidRegister register)
    {
        uint bits = 0;
        foreach (CpuidFeatureBit row in Rows)
        {
            if (row.Leaf == leaf && row.Subleaf == subleaf && row.Register == register && model.Has(row.Feature)) bits |= 1u << row.Bit;
        }
        return bits;
    }
}
