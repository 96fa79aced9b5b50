namespace Bunraku.Processor.X86;

/// <summary>Whose processors have an MSR.</summary>
internal enum MsrVendor { Any, Amd, Intel }

/// <summary>What a WRMSR does about bits outside <see cref="MsrRow.Writable"/>.</summary>
internal enum MsrWrite
{
    /// <summary>#GP when a bit outside the mask is set.</summary>
    Checked,
    /// <summary>As <see cref="Checked"/>, and the value must be canonical.</summary>
    Canonical,
    /// <summary>Bits outside the mask keep their value.</summary>
    Masked,
    /// <summary>#GP always.</summary>
    ReadOnly,
    /// <summary>A memory type in each byte: 0, 1, 4, 5, 6; 7 in PAT.</summary>
    MemoryTypes,
    /// <summary>#GP unless all bits are alike.</summary>
    AllOrNone,
}

/// <summary>One MSR that the processor itself holds.</summary>
internal readonly record struct MsrRow(uint Index, string Name, ulong Reset, ulong Writable, MsrWrite Write = MsrWrite.Checked, CpuFeature? Feature = null,
    MsrVendor Vendor = MsrVendor.Any)
{
    public bool ExistsOn(CpuModel model) =>
        (Feature is not { } f || model.Has(f)) && Vendor switch { MsrVendor.Amd => model.IsAmd, MsrVendor.Intel => !model.IsAmd, _ => true };
}

/// <summary>The MSRs of the processor, one row each; all others raise #GP or, for those of the local APIC, exit.</summary>
internal static class MsrTable
{
    private const ulong All = ulong.MaxValue, Dword = uint.MaxValue;
    public const int VariableMtrrs = 8, MachineCheckBanks = 10, LegacyCounters = 4;

    /// <summary>Rows in no particular order; the position is the storage slot.</summary>
    public static readonly MsrRow[] Rows = [.. Fixed(), .. VmxRows(), .. VariableRangeMtrrs(), .. MachineCheck(), .. PerformanceCounters()];

    public static readonly Dictionary<uint, int> Slots = FindSlots();

    private static Dictionary<uint, int> FindSlots()
    {
        var slots = new Dictionary<uint, int>(Rows.Length);
        for (int n = 0; n < Rows.Length; n++) slots.Add(Rows[n].Index, n);
        return slots;
    }

    /// <summary>MSRs of the local APIC and of the hypervisor's own interface: they exit with <see cref="ExitReason.Msr"/>.</summary>
    public static bool IsOutside(uint index, CpuModel model) =>
        index is >= MsrIndex.X2ApicFirst and <= MsrIndex.X2ApicLast ? model.Has(CpuFeature.X2apic)
        : index == MsrIndex.ApicBase ? model.Has(CpuFeature.Apic)
        : index == MsrIndex.TscDeadline ? model.Has(CpuFeature.TscDeadline)
        : model.Hypervisor.HasMsr(index);

    private static MsrRow[] Fixed() =>
    [
#pragma warning disable IDE0055 // one aligned row a register
        new(0x0000_0000, "P5_MC_ADDR",        0,                     All,          MsrWrite.Masked),
        new(0x0000_0001, "P5_MC_TYPE",        0,                     All,          MsrWrite.Masked),
        new(0x0000_0010, "TSC",               0,                     All,          MsrWrite.Checked,     CpuFeature.Tsc),
        new(0x0000_0017, "PLATFORM_ID",       0,                     0,            MsrWrite.ReadOnly,    null, MsrVendor.Intel),
        new(0x0000_003A, "FEATURE_CONTROL",   1,                     0,            MsrWrite.ReadOnly,    null, MsrVendor.Intel),
        new(0x0000_003B, "TSC_ADJUST",        0,                     All,          MsrWrite.Checked,     CpuFeature.TscAdjust),
        // Intel's processors: software writes zero and executes CPUID, after which the revision is in bits 63:32.
        new(MsrIndex.PatchLevel, "PATCH_LEVEL, BIOS_SIGN_ID", AmdPatchLevel, 0,    MsrWrite.Masked),
        new(0x0000_00FE, "MTRRcap",           0x500 | VariableMtrrs, 0,            MsrWrite.ReadOnly,    CpuFeature.Mtrr),
        new(0x0000_010A, "ARCH_CAPABILITIES", ArchCapabilities,      0,            MsrWrite.ReadOnly,    CpuFeature.ArchCapabilities),
        new(0x0000_0174, "SYSENTER_CS",       0,                     Dword,        MsrWrite.Masked,      CpuFeature.Sep),
        new(0x0000_0175, "SYSENTER_ESP",      0,                     All,          MsrWrite.Canonical,   CpuFeature.Sep),
        new(0x0000_0176, "SYSENTER_EIP",      0,                     All,          MsrWrite.Canonical,   CpuFeature.Sep),
        new(0x0000_0179, "MCG_CAP",           0x100 | MachineCheckBanks, 0,        MsrWrite.ReadOnly,    CpuFeature.Mca),
        new(0x0000_017A, "MCG_STATUS",        0,                     7,            MsrWrite.Checked,     CpuFeature.Mca),
        new(0x0000_017B, "MCG_CTL",           0,                     All,          MsrWrite.Checked,     CpuFeature.Mca),
        // BTS and PEBS are unavailable; these bits are read-only.
        new(0x0000_01A0, "MISC_ENABLE",       0x1801,                0x4_00C5_0009, MsrWrite.Masked,     null, MsrVendor.Intel),
        new(0x0000_01D9, "DEBUGCTL",          0,                     DebugCtlBits, MsrWrite.Checked),
        new(0x0000_01DB, "LASTBRANCHFROMIP",  0,                     0,            MsrWrite.ReadOnly),
        new(0x0000_01DC, "LASTBRANCHTOIP",    0,                     0,            MsrWrite.ReadOnly),
        new(0x0000_01DD, "LASTINTFROMIP",     0,                     0,            MsrWrite.ReadOnly),
        new(0x0000_01DE, "LASTINTTOIP",       0,                     0,            MsrWrite.ReadOnly),
        new(0x0000_0250, "MTRRfix64K_00000",  0,                     All,          MsrWrite.MemoryTypes, CpuFeature.Mtrr),
        new(0x0000_0258, "MTRRfix16K_80000",  0,                     All,          MsrWrite.MemoryTypes, CpuFeature.Mtrr),
        new(0x0000_0259, "MTRRfix16K_A0000",  0,                     All,          MsrWrite.MemoryTypes, CpuFeature.Mtrr),
        new(0x0000_0268, "MTRRfix4K_C0000",   0,                     All,          MsrWrite.MemoryTypes, CpuFeature.Mtrr),
        new(0x0000_0269, "MTRRfix4K_C8000",   0,                     All,          MsrWrite.MemoryTypes, CpuFeature.Mtrr),
        new(0x0000_026A, "MTRRfix4K_D0000",   0,                     All,          MsrWrite.MemoryTypes, CpuFeature.Mtrr),
        new(0x0000_026B, "MTRRfix4K_D8000",   0,                     All,          MsrWrite.MemoryTypes, CpuFeature.Mtrr),
        new(0x0000_026C, "MTRRfix4K_E0000",   0,                     All,          MsrWrite.MemoryTypes, CpuFeature.Mtrr),
        new(0x0000_026D, "MTRRfix4K_E8000",   0,                     All,          MsrWrite.MemoryTypes, CpuFeature.Mtrr),
        new(0x0000_026E, "MTRRfix4K_F0000",   0,                     All,          MsrWrite.MemoryTypes, CpuFeature.Mtrr),
        new(0x0000_026F, "MTRRfix4K_F8000",   0,                     All,          MsrWrite.MemoryTypes, CpuFeature.Mtrr),
        new(0x0000_0277, "PAT",               0x0007_0406_0007_0406, All,          MsrWrite.MemoryTypes, CpuFeature.Pat),
        new(0x0000_02FF, "MTRRdefType",       0,                     0xCFF,        MsrWrite.Checked,     CpuFeature.Mtrr),
        new(0x0000_0DA0, "XSS",               0,                     0,            MsrWrite.Checked,     CpuFeature.Xsaves),
        new(0xC000_0080, "EFER",              0,                     0,            MsrWrite.Checked),
        new(0xC000_0081, "STAR",              0,                     All,          MsrWrite.Checked,     CpuFeature.Syscall),
        new(0xC000_0082, "LSTAR",             0,                     All,          MsrWrite.Canonical,   CpuFeature.Lm),
        new(0xC000_0083, "CSTAR",             0,                     All,          MsrWrite.Canonical,   CpuFeature.Lm),
        new(0xC000_0084, "FMASK",             0,                     Dword,        MsrWrite.Checked,     CpuFeature.Lm),
        new(0xC000_0100, "FS_BASE",           0,                     All,          MsrWrite.Canonical,   CpuFeature.Lm),
        new(0xC000_0101, "GS_BASE",           0,                     All,          MsrWrite.Canonical,   CpuFeature.Lm),
        new(0xC000_0102, "KERNEL_GS_BASE",    0,                     All,          MsrWrite.Canonical,   CpuFeature.Lm),
        new(0xC000_0103, "TSC_AUX",           0,                     Dword,        MsrWrite.Checked,     CpuFeature.Rdtscp),
        new(0xC001_0010, "SYSCFG",            0,                     0x7C_0000,    MsrWrite.Masked,      null, MsrVendor.Amd),
        // TscFreqSel: the TSC counts at the P0 frequency, which Linux checks.
        new(0xC001_0015, "HWCR",              1 << 24,               0x4004_0018,  MsrWrite.Masked,      null, MsrVendor.Amd),
        new(0xC001_001A, "TOP_MEM",           0,                     0xFFFF_FF80_0000, MsrWrite.Masked,  null, MsrVendor.Amd),
        new(0xC001_001D, "TOP_MEM2",          0,                     0xFFFF_FF80_0000, MsrWrite.Masked,  null, MsrVendor.Amd),
        new(0xC001_001F, "NB_CFG",            0,                     1ul << 46,    MsrWrite.Masked,      null, MsrVendor.Amd),
        new(0xC001_0055, "INTPENDING",        0,                     0,            MsrWrite.Masked,      null, MsrVendor.Amd),
        new(0xC001_0058, "MMIO_CFG_BASE",     0,                     0,            MsrWrite.Masked,      null, MsrVendor.Amd),
        new(0xC001_1020, "LS_CFG",            0,                     All,          MsrWrite.Masked,      null, MsrVendor.Amd),
        new(0xC001_1021, "IC_CFG",            0,                     All,          MsrWrite.Masked,      null, MsrVendor.Amd),
        new(0xC001_1022, "DC_CFG",            0,                     All,          MsrWrite.Masked,      null, MsrVendor.Amd),
        // Bit 1: LFENCE is serialising, as it is here.
        new(0xC001_1029, "DE_CFG",            2,                     2,            MsrWrite.Masked,      null, MsrVendor.Amd),
#pragma warning restore IDE0055
    ];

    /// <summary>
    /// RDCL_NO, IBRS_ALL clear, SKIP_L1DFL_VMENTRY, SSB_NO, MDS_NO, PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO:
    /// nothing here is executed speculatively.
    /// </summary>
    private const ulong ArchCapabilities = 1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 13 | 1 << 14 | 1 << 15 | 1 << 20 | 1 << 24 | 1 << 26 | 1 << 27;

    /// <summary>Revisions of the microcode. AMD's tells of processors whose microcode has the known mends; Intel's is what hypervisors show.</summary>
    public const ulong AmdPatchLevel = 0x0A00_11D5, IntelUpdateSignature = 1ul << 32;

    /// <summary>LBR and BTF.</summary>
    public const ulong DebugCtlBits = 3;

    private static IEnumerable<MsrRow> VmxRows()
    {
        uint index = VmxCapabilities.Basic;
        foreach (string name in VmxCapabilities.Names) yield return new(index++, name, 0, 0, MsrWrite.ReadOnly, CpuFeature.Vmx);
    }

    private static IEnumerable<MsrRow> VariableRangeMtrrs()
    {
        for (uint n = 0; n < VariableMtrrs; n++)
        {
            yield return new(0x200 + 2 * n, $"MTRRphysBase{n}", 0, All & ~0xF00ul, MsrWrite.Checked, CpuFeature.Mtrr);
            yield return new(0x201 + 2 * n, $"MTRRphysMask{n}", 0, All & ~0x7FFul, MsrWrite.Checked, CpuFeature.Mtrr);
        }
    }

    /// <summary>
    /// The four counters that every AMD processor has, fixed at zero: they can select no event, which an operating system notices and leaves them alone.
    /// </summary>
    private static IEnumerable<MsrRow> PerformanceCounters()
    {
        for (uint n = 0; n < LegacyCounters; n++)
        {
            yield return new(0xC001_0000 + n, $"PERF_LEGACY_CTL{n}", 0, 0, MsrWrite.Masked, null, MsrVendor.Amd);
            yield return new(0xC001_0004 + n, $"PERF_LEGACY_CTR{n}", 0, 0, MsrWrite.Masked, null, MsrVendor.Amd);
        }
    }

    private static IEnumerable<MsrRow> MachineCheck()
    {
        for (uint n = 0; n < MachineCheckBanks; n++)
        {
            yield return new(0x400 + 4 * n, $"MC{n}_CTL", 0, All, MsrWrite.AllOrNone, CpuFeature.Mca);
            yield return new(0x401 + 4 * n, $"MC{n}_STATUS", 0, 0, MsrWrite.Checked, CpuFeature.Mca);
            yield return new(0x402 + 4 * n, $"MC{n}_ADDR", 0, All, MsrWrite.Masked, CpuFeature.Mca);
            yield return new(0x403 + 4 * n, $"MC{n}_MISC", 0, All, MsrWrite.Masked, CpuFeature.Mca);
        }
    }
}
