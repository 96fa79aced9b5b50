namespace Bunraku.Engines.X86;

/// <summary>MSR numbers that code names. Intel SDM vol. 4; AMD APM vol. 2, "MSR Cross-Reference".</summary>
public static class MsrIndex
{
    /// <summary>The MSR of that name: IA32_… of Intel's manual, without the prefix.</summary>
    public const uint Tsc = 0x10, ApicBase = 0x1B, TscAdjust = 0x3B, PatchLevel = 0x8B, SysenterCs = 0x174, SysenterEsp = 0x175,
        SysenterEip = 0x176, DebugCtl = 0x1D9,
        Pat = 0x277, MtrrDefType = 0x2FF, TscDeadline = 0x6E0, X2ApicFirst = 0x800, X2ApicLast = 0x8FF, Xss = 0xDA0,
        Efer = 0xC000_0080, Star = 0xC000_0081, Lstar = 0xC000_0082, Cstar = 0xC000_0083, Fmask = 0xC000_0084,
        FsBase = 0xC000_0100, GsBase = 0xC000_0101, KernelGsBase = 0xC000_0102, TscAux = 0xC000_0103;
}
