namespace Bunraku.Engines.X86;

#pragma warning disable CS1591 // names of the manual

/// <summary>Exit codes. AMD APM vol. 2, appendix "SVM Intercept Exit Codes".</summary>
public enum SvmExit : ulong
{
    ReadCr0 = 0x00, WriteCr0 = 0x10, ReadDr0 = 0x20, WriteDr0 = 0x30, Exception0 = 0x40,
    Intr = 0x60, Nmi, Smi, Init, Vintr, Cr0SelectiveWrite, IdtrRead, GdtrRead, LdtrRead, TrRead, IdtrWrite, GdtrWrite, LdtrWrite, TrWrite,
    Rdtsc, Rdpmc, Pushf, Popf, Cpuid, Rsm, Iret, SoftwareInterrupt, Invd, Pause, Hlt, Invlpg, Invlpga, Io, Msr, TaskSwitch, FerrFreeze, Shutdown,
    Vmrun = 0x80, Vmmcall, Vmload, Vmsave, Stgi, Clgi, Skinit, Rdtscp, Icebp, Wbinvd, Monitor, Mwait, MwaitConditional, Xsetbv, Rdpru, EferWriteTrap,
    Cr0WriteTrap = 0x90, Invpcid = 0xA2,
    NestedPageFault = 0x400, AvicIncompleteIpi, AvicNoAccelerate,
    Invalid = ulong.MaxValue,
}
