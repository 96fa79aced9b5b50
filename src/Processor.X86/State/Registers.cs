namespace Bunraku.Processor.X86;

/// <summary>RFLAGS bits. Intel SDM vol. 1, "EFLAGS Register".</summary>
[Flags]
internal enum Rflags : uint
{
    Cf = 1, Fixed1 = 2, Pf = 4, Af = 0x10, Zf = 0x40, Sf = 0x80, Tf = 0x100, If = 0x200, Df = 0x400, Of = 0x800,
    Iopl = 0x3000, Nt = 0x4000, Rf = 0x1_0000, Vm = 0x2_0000, Ac = 0x4_0000, Vif = 0x8_0000, Vip = 0x10_0000, Id = 0x20_0000,
    Arithmetic = Cf | Pf | Af | Zf | Sf | Of,
}

/// <summary>CR0 bits. Intel SDM vol. 3A, "Control Registers".</summary>
[Flags]
internal enum Cr0 : ulong
{
    Pe = 1, Mp = 2, Em = 4, Ts = 8, Et = 0x10, Ne = 0x20, Wp = 0x1_0000, Am = 0x4_0000, Nw = 0x2000_0000, Cd = 0x4000_0000, Pg = 0x8000_0000,
}

/// <summary>CR4 bits. Intel SDM vol. 3A, "Control Registers".</summary>
[Flags]
internal enum Cr4 : ulong
{
    Vme = 1, Pvi = 2, Tsd = 4, De = 8, Pse = 0x10, Pae = 0x20, Mce = 0x40, Pge = 0x80, Pce = 0x100, Osfxsr = 0x200, Osxmmexcpt = 0x400,
    Umip = 0x800, La57 = 0x1000, Vmxe = 0x2000, Fsgsbase = 0x1_0000, Pcide = 0x2_0000, Osxsave = 0x4_0000, Smep = 0x10_0000, Smap = 0x20_0000, Pke = 0x40_0000,
}

/// <summary>IA32_EFER bits. Intel SDM vol. 3A, "IA32_EFER MSR".</summary>
[Flags]
internal enum Efer : ulong
{
    Sce = 1, Lme = 0x100, Lma = 0x400, Nxe = 0x800, Svme = 0x1000,
}

/// <summary>Exception vectors. Intel SDM vol. 3A, "Protected-Mode Exceptions and Interrupts".</summary>
internal enum Vector : byte
{
    De = 0, Db = 1, Nmi = 2, Bp = 3, Of = 4, Br = 5, Ud = 6, Nm = 7, Df = 8, Ts = 10, Np = 11, Ss = 12, Gp = 13, Pf = 14, Mf = 16, Ac = 17, Mc = 18,
    Xm = 19, Ve = 20, Sx = 30,
}

/// <summary>Page-fault error code bits. Intel SDM vol. 3A, "Page-Fault Exceptions".</summary>
[Flags]
internal enum PageFaultError : uint
{
    Present = 1, Write = 2, User = 4, Reserved = 8, Fetch = 0x10, ProtectionKey = 0x20,
}
