using System.Runtime.Intrinsics.X86;
using Bunraku.Engines;
using Bunraku.Processor.X86;

namespace Bunraku.Silicon;

/// <summary>CPU models for tests: everything that the software processor implements, with the behaviour of one vendor.</summary>
public static class HostModel
{
    private static readonly CpuModel s_max = CpuModels.Parse("max,+monitor,-la57");

    /// <summary>Addresses of 48 bits, like every host's.</summary>
    public static CpuModel Amd { get; } = s_max;

    public static CpuModel Intel { get; } = s_max with { Vendor = "GenuineIntel", Family = 6, Model = 0x6A, Stepping = 6 };

    /// <summary>The one that must do what this host's silicon does.</summary>
    public static CpuModel Like { get; } = HostIsAmd ? Amd : Intel;

    /// <summary>The vendor is AMD, or Hygon, whose processors are AMD's family 17h.</summary>
    public static bool HostIsAmd
    {
        get
        {
            (_, int b, _, _) = X86Base.CpuId(0, 0);
            return b is 0x6874_7541 or 0x6F67_7948; // "Auth", "Hygo"
        }
    }

    /// <summary>CPUID.(7,0):EBX bit 6, "x87 FPU Data Pointer updated only on x87 exceptions" (Intel SDM vol. 2A "CPUID").</summary>
    public static bool HostKeepsDataPointer { get; } = MaxLeaf >= 7 && (X86Base.CpuId(7, 0).Ebx >> 6 & 1) != 0;

    private static int MaxLeaf => X86Base.CpuId(0, 0).Eax;
}
