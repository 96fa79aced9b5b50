using System.Numerics;
using System.Text;

namespace Bunraku.Engines.X86;

/// <summary>What CPUID returns.</summary>
public readonly record struct CpuidResult(uint Eax, uint Ebx, uint Ecx, uint Edx);

/// <summary>Everything that CPUID's answers depend on.</summary>
/// <param name="CpuIndex">0-based number of the vCPU, also its initial APIC identifier.</param>
/// <param name="CpuCount">How many vCPUs the VM has.</param>
/// <param name="TscFrequency">Hz.</param>
/// <param name="Osxsave">CR4.OSXSAVE.</param>
/// <param name="Ospke">CR4.PKE.</param>
/// <param name="ApicDisabled">IA32_APIC_BASE.EN is clear.</param>
public readonly record struct CpuidSubject(
    CpuModel Model, int CpuIndex, int CpuCount, ulong TscFrequency, bool Osxsave = false, bool Ospke = false, ulong Xcr0 = XsaveLayout.X87,
    ulong Xss = 0, bool ApicDisabled = false);

/// <summary>CPUID leaves of a model. Intel SDM vol. 2, CPUID; AMD APM vol. 3, appendix E.</summary>
public static class CpuidLeaves
{
    /// <summary>First leaf of the hypervisor, its leaf with frequencies, and first extended leaf.</summary>
    public const uint HypervisorFirst = 0x4000_0000, HypervisorTiming = 0x4000_0010, ExtendedFirst = 0x8000_0000;

    /// <summary>Hz of the crystal behind leaf 15h, which is also what clocks the APIC timer.</summary>
    public const uint CrystalFrequency = 1_000_000_000;

    /// <summary>SVM's revision, and its address space identifiers, 0 (the host's) included.</summary>
    public const uint SvmRevision = 1, SvmAsids = 0x8000;

    /// <summary>Highest basic leaf.</summary>
    public static uint MaxBasic(CpuModel m) => m.IsAmd ? 0xDu : 0x16;

    /// <summary>Highest extended leaf.</summary>
    public static uint MaxExtended(CpuModel m) => m.IsAmd ? 0x8000_0021 : 0x8000_0008;

    /// <summary>What the instruction returns for EAX = <paramref name="leaf"/> and ECX = <paramref name="subleaf"/>.</summary>
    public static CpuidResult Query(in CpuidSubject p, uint leaf, uint subleaf)
    {
        CpuModel m = p.Model;
        if (leaf >= ExtendedFirst)
        {
            if (leaf <= MaxExtended(m)) return Extended(p, leaf, subleaf);
        }
        else if (leaf <= MaxBasic(m))
        {
            return Basic(p, leaf, subleaf);
        }
        else if (leaf >= HypervisorFirst && m.Has(CpuFeature.Hypervisor))
        {
            return Hypervisor(p, leaf);
        }
        // Out of range: AMD returns zeros, Intel the highest basic leaf.
        return m.IsAmd ? default : Basic(p, MaxBasic(m), subleaf);
    }

    /// <summary>The range that hypervisors keep for themselves: its last leaf and who this is, what that one tells, and frequencies.</summary>
    private static CpuidResult Hypervisor(in CpuidSubject p, uint leaf)
    {
        HypervisorInterface hypervisor = p.Model.Hypervisor;
        switch (leaf)
        {
            case HypervisorFirst:
                byte[] name = new byte[12];
                Encoding.ASCII.GetBytes(hypervisor.Signature, name);
                return new(HypervisorTiming, BitConverter.ToUInt32(name), BitConverter.ToUInt32(name, 4), BitConverter.ToUInt32(name, 8));
            // A convention among hypervisors, begun by VMware: kHz of the TSC and of the APIC timer's clock.
            case HypervisorTiming:
                return new((uint)(p.TscFrequency / 1000), CrystalFrequency / 1000, 0, 0);
            default:
                return hypervisor.Leaves.TryGetValue(leaf, out CpuidResult result) ? result : default;
        }
    }

    /// <summary>The TSC's frequency as a fraction of the crystal's.</summary>
    /// <remarks>
    /// The best approximation (by continued fractions) whose numerator times the crystal's kHz fits 32 bits: Linux multiplies so in native_calibrate_tsc.
    /// It is exact for whole MHz up to 4294, mostly less than one part in ten million off otherwise, and 20 parts in a million close to whole GHz.
    /// </remarks>
    private static (uint Denominator, uint Numerator) CrystalRatio(ulong frequency)
    {
        const ulong most = uint.MaxValue / (CrystalFrequency / 1000);
        ulong a = frequency, b = CrystalFrequency, previousN = 1, previousD = 0, n = a / b, d = 1;
        (a, b) = (b, a % b);
        while (b != 0)
        {
            ulong q = a / b, nextN = q * n + previousN, nextD = q * d + previousD;
            if (nextN > most || nextD > uint.MaxValue) break;
            (previousN, previousD, n, d) = (n, d, nextN, nextD);
            (a, b) = (b, a % b);
        }
        return ((uint)d, (uint)n);
    }

    private static CpuidResult Basic(in CpuidSubject p, uint leaf, uint subleaf)
    {
        CpuModel m = p.Model;
        uint Bits(uint sub, CpuidRegister r) => CpuidFeatureBits.Of(m, leaf, sub, r);
        switch (leaf)
        {
            case 0:
                {
                    byte[] v = Encoding.ASCII.GetBytes(m.Vendor);
                    return new(MaxBasic(m), BitConverter.ToUInt32(v, 0), BitConverter.ToUInt32(v, 8), BitConverter.ToUInt32(v, 4));
                }
            case 1:
                return new(Signature(m), ClflushLine | (uint)p.CpuCount << 16 | (uint)p.CpuIndex << 24,
                    Bits(0, CpuidRegister.Ecx) | Dynamic(p.Osxsave, 27),
                    (Bits(0, CpuidRegister.Edx) | (p.CpuCount > 1 ? 1u << 28 : 0)) & ApicMask(p));
            case 2: return m.IsAmd ? default : new(0x00FE_FF01, 0, 0, 0); // everything is in leaf 4
            case 4: return m.IsAmd ? default : CacheLeaf(p, subleaf, (uint)(Math.Max(1, CoreBits(p)) << 26));
            case 6: return new(Bits(0, CpuidRegister.Eax), 0, 0, 0);
            case 7:
                return subleaf != 0 ? default
                    : new(0, Bits(0, CpuidRegister.Ebx), Bits(0, CpuidRegister.Ecx) | Dynamic(p.Ospke, 4), Bits(0, CpuidRegister.Edx));
            case 0xB: return Topology(p, subleaf);
            case 0xD: return Xsave(p, subleaf, Bits(1, CpuidRegister.Eax));
            case 0x15:
                {
                    // Nothing needs calibration.
                    (uint denominator, uint numerator) = CrystalRatio(p.TscFrequency);
                    return new(denominator, numerator, CrystalFrequency, 0);
                }
            case 0x16:
                {
                    var mhz = (uint)(p.TscFrequency / 1_000_000);
                    return new(mhz, mhz, 100, 0);
                }
            default: return default;
        }
    }

    private const uint ClflushLine = 8 << 8;

    /// <summary>OSXSAVE and OSPKE show CR4.</summary>
    private static uint Dynamic(bool set, int bit) => set ? 1u << bit : 0;

    /// <summary>The APIC bit mirrors IA32_APIC_BASE.EN (SDM vol. 3A, "Enabling or Disabling the Local APIC").</summary>
    private static uint ApicMask(in CpuidSubject p) => p.ApicDisabled ? ~(1u << 9) : uint.MaxValue;

    private static uint Signature(CpuModel m)
    {
        uint family = Math.Min(m.Family, 0xF), extended = m.Family - family;
        return extended << 20 | m.Model >> 4 << 16 | family << 8 | (m.Model & 0xF) << 4 | m.Stepping;
    }

    /// <summary>Bits of an APIC identifier that number the vCPUs.</summary>
    private static int CoreBits(in CpuidSubject p) => BitOperations.Log2((uint)(2 * p.CpuCount - 1));

    /// <summary>One thread a core, all cores in one package.</summary>
    private static CpuidResult Topology(in CpuidSubject p, uint level) => level switch
    {
        0 => new(0, 1, 0x100, (uint)p.CpuIndex),
        1 => new((uint)CoreBits(p), (uint)p.CpuCount, 0x201, (uint)p.CpuIndex),
        _ => new(0, 0, level & 0xFF, (uint)p.CpuIndex),
    };

    private static CpuidResult Xsave(in CpuidSubject p, uint subleaf, uint features)
    {
        if (!p.Model.Has(CpuFeature.Xsave)) return default;
        ulong allowed = XsaveLayout.Allowed(p.Model);
        return subleaf switch
        {
            0 => new((uint)allowed, (uint)XsaveLayout.StandardSize(p.Xcr0), (uint)XsaveLayout.StandardSize(allowed), (uint)(allowed >> 32)),
            1 => new(features, (features & 0xA) != 0 ? (uint)XsaveLayout.CompactSize(p.Xcr0 | p.Xss) : 0, 0, 0),
            XsaveLayout.AvxComponent when (allowed & XsaveLayout.Avx) != 0 => new(XsaveLayout.AvxSize, XsaveLayout.AvxOffset, 0, 0),
            XsaveLayout.PkruComponent when (allowed & XsaveLayout.Pkru) != 0 => new(XsaveLayout.PkruSize, XsaveLayout.PkruOffset, 0, 0),
            _ => default,
        };
    }

    private static CpuidResult Extended(in CpuidSubject p, uint leaf, uint subleaf)
    {
        CpuModel m = p.Model;
        uint Bits(CpuidRegister r) => CpuidFeatureBits.Of(m, leaf, 0, r);
        switch (leaf)
        {
            case ExtendedFirst:
                {
                    if (!m.IsAmd) return new(MaxExtended(m), 0, 0, 0);
                    CpuidResult vendor = Basic(p, 0, 0);
                    return vendor with { Eax = MaxExtended(m) };
                }
            case 0x8000_0001:
                {
                    uint edx = Bits(CpuidRegister.Edx), ecx = Bits(CpuidRegister.Ecx);
                    if (!m.IsAmd) return new(0, 0, ecx, edx);
                    // AMD repeats these bits of leaf 1; bit 22 is the MMX part of SSE; TOPOEXT announces 8000001D and 8000001E.
                    const uint repeated = 0x0183_F3FF, mmxExtensions = 1 << 22, topologyExtensions = 1 << 22;
                    edx |= CpuidFeatureBits.Of(m, 1, 0, CpuidRegister.Edx) & repeated;
                    if (m.Has(CpuFeature.Sse)) edx |= mmxExtensions;
                    return new(Signature(m), 0, ecx | topologyExtensions, edx & ApicMask(p));
                }
            case >= 0x8000_0002 and <= 0x8000_0004:
                {
                    var brand = new byte[48];
                    Encoding.ASCII.GetBytes(m.Brand.AsSpan(0, Math.Min(m.Brand.Length, 47)), brand);
                    int at = (int)(leaf - 0x8000_0002) * 16;
                    return new(BitConverter.ToUInt32(brand, at), BitConverter.ToUInt32(brand, at + 4), BitConverter.ToUInt32(brand, at + 8),
                        BitConverter.ToUInt32(brand, at + 12));
                }
            // 32 KiB, 8 ways, 64-byte lines; 64 fully associative TLB entries.
            case 0x8000_0005: return m.IsAmd ? new(0xFF40_FF40, 0xFF40_FF40, 0x2008_0140, 0x2008_0140) : default;
            // L2 512 KiB, 8 ways; L3 32 MiB, 16 ways.
            case 0x8000_0006: return m.IsAmd ? new(0x4800_6400, 0x6800_6400, 0x0200_6140, 64u << 18 | 0x8140) : new(0, 0, 0x0200_6040, 0);
            case 0x8000_0007: return new(0, 0, 0, Bits(CpuidRegister.Edx));
            case 0x8000_0008:
                return new((uint)m.PhysicalAddressBits | (m.Has(CpuFeature.La57) ? 57u : 48u) << 8, Bits(CpuidRegister.Ebx),
                    m.IsAmd ? (uint)(p.CpuCount - 1) | (uint)CoreBits(p) << 12 : 0, 0);
            case 0x8000_000A: return m.Has(CpuFeature.Svm) ? new(SvmRevision, SvmAsids, 0, Bits(CpuidRegister.Edx)) : default;
            case 0x8000_001D: return CacheLeaf(p, subleaf, 0);
            case 0x8000_001E: return new((uint)p.CpuIndex, (uint)p.CpuIndex & 0xFF, 0, 0);
            case 0x8000_0021:
                const uint lfenceSerializing = 1 << 2;
                return new(Bits(CpuidRegister.Eax) | lfenceSerializing, 0, Bits(CpuidRegister.Ecx), 0);
            default: return default;
        }
    }

    /// <summary>Deterministic cache parameters: L1 data, L1 code, L2, L3 shared by all.</summary>
    private static CpuidResult CacheLeaf(in CpuidSubject p, uint index, uint cores)
    {
        const uint data = 1, code = 2, unified = 3, lineSize = 63, selfInitializing = 1 << 8;
        uint sharing = (uint)(p.CpuCount - 1) << 14;
        return index switch
        {
            0 => new(data | 1 << 5 | selfInitializing | cores, lineSize | 7u << 22, 63, 0),
            1 => new(code | 1 << 5 | selfInitializing | cores, lineSize | 7u << 22, 63, 0),
            2 => new(unified | 2 << 5 | selfInitializing | cores, lineSize | 7u << 22, 1023, 0),
            3 => new(unified | 3 << 5 | selfInitializing | cores | sharing, lineSize | 15u << 22, 32767, 0),
            _ => default,
        };
    }
}
