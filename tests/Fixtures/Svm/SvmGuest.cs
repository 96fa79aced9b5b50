using Bunraku.Engines;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>
/// A host that enters a guest by VMRUN. Both run in 64-bit mode with the same page tables; the guest's code is at <see cref="GuestCode"/>. What is not set
/// otherwise is as simple as it can be: ASID 1, VMRUN, VMMCALL and shutdown intercepted, no nested paging.
/// </summary>
internal sealed class SvmGuest : IDisposable
{
    public const uint Vmcb = 0x10_0000, HostSave = 0x10_1000, Msrpm = 0x10_2000, Iopm = 0x10_4000, NestedRoot = 0x11_0000, OtherVmcb = 0x10_8000,
        GuestCode = 0x2_8000, GuestStack = 0x5_4000;
    private const uint NestedPdpt = NestedRoot + 0x1000, NestedPd = NestedRoot + 0x2000, NestedPt = NestedRoot + 0x3000;

    public SvmGuest(string model = "max,+svm", int guestCpl = 0)
    {
        Host = new Guest(Mode.Long, 0, model);
        CpuState s = Host.State;
        s.Efer |= 0x1000; // SVME
        s.Svm = new SvmState { HostSaveArea = HostSave };
        Set(Field.Intercepts1, 1u << 31);
        Set(Field.Intercepts2, 3u);
        Set(Field.Asid, 1u);
        Set(Field.MsrpmBase, (ulong)Msrpm);
        Set(Field.IopmBase, (ulong)Iopm);
        foreach ((int at, SegmentState r) in new[] { (0x400, s.Es), (0x410, s.Cs), (0x420, s.Ss), (0x430, s.Ds), (0x440, s.Fs), (0x450, s.Gs), (0x470, s.Ldtr),
            (0x490, s.Tr) })
        {
            SetSegment(at, r);
        }
        Set(Field.GdtrLimit, (uint)s.GdtrLimit);
        Set(Field.GdtrBase, s.GdtrBase);
        Set(Field.IdtrLimit, (uint)s.IdtrLimit);
        Set(Field.IdtrBase, s.IdtrBase);
        Set(Field.Cpl, (byte)guestCpl);
        Set(Field.Efer, s.Efer);
        Set(Field.Cr0, s.Cr0);
        Set(Field.Cr3, s.Cr3);
        Set(Field.Cr4, s.Cr4);
        Set(Field.Dr6, 0xFFFF_0FF0ul);
        Set(Field.Dr7, 0x400ul);
        Set(Field.Rflags, 2ul);
        Set(Field.Rip, (ulong)GuestCode);
        Set(Field.Rsp, (ulong)GuestStack);
        Set(Field.GuestPat, 0x0007_0406_0007_0406ul);
        Enter = a => { };
        After = a => { };
    }

    public Guest Host { get; }

    /// <summary>Code of the host in front of VMRUN, and behind it.</summary>
    public Action<Assembler> Enter { get; set; }
    public Action<Assembler> After { get; set; }

    public void Set<T>(int field, T value) where T : unmanaged => Host.Write(Vmcb + (uint)field, value);

    public T Get<T>(int field) where T : unmanaged => Host.Read<T>(Vmcb + (uint)field);

    public void Intercept(int word, int bit) => Set(word, Get<uint>(word) | 1u << bit);

    public ulong ExitCode => Get<ulong>(Field.ExitCode);
    public ulong Info1 => Get<ulong>(Field.ExitInfo1);
    public ulong Info2 => Get<ulong>(Field.ExitInfo2);

    private void SetSegment(int at, SegmentState r)
    {
        Set(at, r.Selector);
        Set(at + 2, (ushort)(r.Attributes & 0xFF | r.Attributes >> 4 & 0xF00));
        Set(at + 4, r.Limit);
        Set(at + 8, r.Base);
    }

    /// <summary>Nested page tables that map all memory to itself; the first 2 MiB by 4 KiB pages.</summary>
    public SvmGuest Nested()
    {
        const ulong all = Pte.P | Pte.W | Pte.U;
        Set(Field.NestedControl, 1ul);
        Set(Field.NestedCr3, (ulong)NestedRoot);
        Host.Write(NestedRoot, NestedPdpt | all);
        Host.Write(NestedPdpt, NestedPd | all);
        Host.Write(NestedPd, NestedPt | all);
        Host.Write(NestedPd + 8, 0x20_0000 | all | Pte.Ps);
        for (uint page = 0; page < 512; page++) Host.Write(NestedPt + page * 8, page << 12 | all);
        return this;
    }

    /// <summary>The nested entry of a 4 KiB page below 2 MiB.</summary>
    public static uint NestedEntry(uint address) => NestedPt + (address >> 12) * 8;

    /// <summary>The guest's code; it should exit. Marks are the host's.</summary>
    public SvmGuest Code(Action<Assembler> emit)
    {
        Host.Place(GuestCode, 64, emit);
        return this;
    }

    /// <summary>Runs the host until it has come to its end behind VMRUN.</summary>
    public Outcome Run(string engine)
    {
        Host.Code(a =>
        {
            Enter(a);
            a.mov(rax, (ulong)Vmcb);
            Host.Mark(a, "vmrun");
            a.vmrunq();
            Host.Mark(a, "behind");
            After(a);
            a.hlt();
        });
        return Host.Run(engine);
    }

    public void Dispose() => Host.Dispose();

    /// <summary>Fields of the VMCB. AMD APM vol. 2, appendix "Layout of VMCB".</summary>
    public static class Field
    {
        public const int CrReads = 0, CrWrites = 2, DrReads = 4, DrWrites = 6, Exceptions = 8, Intercepts1 = 0xC, Intercepts2 = 0x10, Intercepts3 = 0x14,
            PauseThreshold = 0x3C, PauseCount = 0x3E, IopmBase = 0x40, MsrpmBase = 0x48, TscOffset = 0x50, Asid = 0x58, TlbControl = 0x5C,
            VirtualInterrupt = 0x60, InterruptShadow = 0x68, ExitCode = 0x70, ExitInfo1 = 0x78, ExitInfo2 = 0x80, ExitIntInfo = 0x88, NestedControl = 0x90,
            EventInjection = 0xA8, NestedCr3 = 0xB0, VirtualExtensions = 0xB8, Clean = 0xC0, NextRip = 0xC8, FetchedBytes = 0xD0,
            Cs = 0x410, CsAttributes = 0x412, GdtrLimit = 0x464, GdtrBase = 0x468, IdtrLimit = 0x484, IdtrBase = 0x488, Cpl = 0x4CB, Efer = 0x4D0, Cr4 = 0x548,
            Cr3 = 0x550, Cr0 = 0x558, Dr7 = 0x560, Dr6 = 0x568, Rflags = 0x570, Rip = 0x578, Rsp = 0x5D8, Rax = 0x5F8, Star = 0x600, Lstar = 0x608,
            Cstar = 0x610, Sfmask = 0x618, KernelGsBase = 0x620, SysenterCs = 0x628, SysenterEsp = 0x630, SysenterEip = 0x638, Cr2 = 0x640, GuestPat = 0x668,
            DebugCtl = 0x670, BranchFrom = 0x678, BranchTo = 0x680;
    }
}

/// <summary>Instructions for which the assembler has no method.</summary>
internal static class SvmAssembler
{
    public static void vmrunq(this Assembler a) => a.db(0x0F, 0x01, 0xD8);
    public static void vmloadq(this Assembler a) => a.db(0x0F, 0x01, 0xDA);
    public static void vmsaveq(this Assembler a) => a.db(0x0F, 0x01, 0xDB);
    public static void invlpgaq(this Assembler a) => a.db(0x0F, 0x01, 0xDF);
    public static void monitorq(this Assembler a) => a.db(0x0F, 0x01, 0xC8);
}
