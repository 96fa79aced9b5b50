using System.Runtime.InteropServices;

namespace Bunraku.Processor.X86;

/// <summary>A virtual machine control block: its control area and its state save area, 4 KiB at a 4 KiB boundary.</summary>
/// <remarks>AMD APM vol. 2, appendix "Layout of VMCB"; the layout is stated here and nowhere else.</remarks>
[StructLayout(LayoutKind.Explicit, Size = 0x1000)]
internal unsafe struct Vmcb
{
    [FieldOffset(0)] public VmcbControl Control;
    [FieldOffset(0x400)] public VmcbSave Save;
}

/// <summary>VMCB, control area, as far as it means anything here.</summary>
[StructLayout(LayoutKind.Explicit, Size = SvmState.ControlSize)]
internal unsafe struct VmcbControl
{
    /// <summary>Reads of CR0 to CR15, and writes.</summary>
    [FieldOffset(0x000)] public ushort CrReads;
    [FieldOffset(0x002)] public ushort CrWrites;
    /// <summary>Reads of DR0 to DR15, and writes.</summary>
    [FieldOffset(0x004)] public ushort DrReads;
    [FieldOffset(0x006)] public ushort DrWrites;
    /// <summary>Exception vectors 0 to 31.</summary>
    [FieldOffset(0x008)] public uint Exceptions;
    [FieldOffset(0x00C)] public SvmIntercepts1 Intercepts1;
    [FieldOffset(0x010)] public SvmIntercepts2 Intercepts2;
    [FieldOffset(0x014)] public SvmIntercepts3 Intercepts3;
    [FieldOffset(0x03C)] public ushort PauseFilterThreshold;
    [FieldOffset(0x03E)] public ushort PauseFilterCount;
    [FieldOffset(0x040)] public ulong IopmBase;
    [FieldOffset(0x048)] public ulong MsrpmBase;
    [FieldOffset(0x050)] public ulong TscOffset;
    [FieldOffset(SvmState.AsidOffset)] public uint Asid;
    [FieldOffset(0x05C)] public byte TlbControl;
    [FieldOffset(0x060)] public ulong VirtualInterrupt;
    [FieldOffset(0x068)] public ulong InterruptShadow;
    [FieldOffset(0x070)] public ulong ExitCode;
    [FieldOffset(0x078)] public ulong ExitInfo1;
    [FieldOffset(0x080)] public ulong ExitInfo2;
    [FieldOffset(0x088)] public ulong ExitIntInfo;
    /// <summary>NP_ENABLE and what belongs to it.</summary>
    [FieldOffset(SvmState.NestedControlOffset)] public ulong NestedControl;
    [FieldOffset(0x098)] public ulong AvicApicBar;
    [FieldOffset(0x0A8)] public ulong EventInjection;
    [FieldOffset(SvmState.NestedCr3Offset)] public ulong NestedCr3;
    /// <summary>LBR virtualization, virtualized VMLOAD and VMSAVE.</summary>
    [FieldOffset(0x0B8)] public ulong VirtualExtensions;
    [FieldOffset(0x0C0)] public uint Clean;
    [FieldOffset(0x0C8)] public ulong NextRip;
    /// <summary>How many bytes of the guest's instruction follow, and these.</summary>
    [FieldOffset(0x0D0)] public byte FetchedBytes;
    [FieldOffset(0x0D1)] public fixed byte Instruction[15];
    [FieldOffset(0x0E0)] public ulong AvicBackingPage;
    [FieldOffset(0x0F0)] public ulong AvicLogicalTable;
    [FieldOffset(0x0F8)] public ulong AvicPhysicalTable;

    public const ulong NestedPaging = SvmState.NestedPaging, GuestModeExecuteTrap = 1 << 3;
    public const ulong LbrVirtualization = 1, VirtualLoadSave = 2;
    public const ulong ShadowBit = 1, GuestInterruptMask = 2;
}

/// <summary>VMCB, state save area, as far as it means anything here.</summary>
[StructLayout(LayoutKind.Explicit, Size = 0x298)]
internal struct VmcbSave
{
    [FieldOffset(0x000)] public VmcbSegment Es;
    [FieldOffset(0x010)] public VmcbSegment Cs;
    [FieldOffset(0x020)] public VmcbSegment Ss;
    [FieldOffset(0x030)] public VmcbSegment Ds;
    [FieldOffset(0x040)] public VmcbSegment Fs;
    [FieldOffset(0x050)] public VmcbSegment Gs;
    [FieldOffset(0x060)] public VmcbSegment Gdtr;
    [FieldOffset(0x070)] public VmcbSegment Ldtr;
    [FieldOffset(0x080)] public VmcbSegment Idtr;
    [FieldOffset(0x090)] public VmcbSegment Tr;
    [FieldOffset(0x0CB)] public byte Cpl;
    [FieldOffset(0x0D0)] public ulong Efer;
    [FieldOffset(0x148)] public ulong Cr4;
    [FieldOffset(0x150)] public ulong Cr3;
    [FieldOffset(0x158)] public ulong Cr0;
    [FieldOffset(0x160)] public ulong Dr7;
    [FieldOffset(0x168)] public ulong Dr6;
    [FieldOffset(0x170)] public ulong Rflags;
    [FieldOffset(0x178)] public ulong Rip;
    [FieldOffset(0x1D8)] public ulong Rsp;
    [FieldOffset(0x1F8)] public ulong Rax;
    [FieldOffset(0x200)] public ulong Star;
    [FieldOffset(0x208)] public ulong Lstar;
    [FieldOffset(0x210)] public ulong Cstar;
    [FieldOffset(0x218)] public ulong Sfmask;
    [FieldOffset(0x220)] public ulong KernelGsBase;
    [FieldOffset(0x228)] public ulong SysenterCs;
    [FieldOffset(0x230)] public ulong SysenterEsp;
    [FieldOffset(0x238)] public ulong SysenterEip;
    [FieldOffset(0x240)] public ulong Cr2;
    [FieldOffset(0x268)] public ulong GuestPat;
    [FieldOffset(0x270)] public ulong DebugCtl;
    [FieldOffset(0x278)] public ulong BranchFrom;
    [FieldOffset(0x280)] public ulong BranchTo;
    [FieldOffset(0x288)] public ulong LastExceptionFrom;
    [FieldOffset(0x290)] public ulong LastExceptionTo;
}

/// <summary>A segment register, or a descriptor table register of which base and limit count.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VmcbSegment
{
    public ushort Selector;
    /// <summary>Bits 7:0 are bits 47:40 of the descriptor, bits 11:8 its bits 55:52.</summary>
    public ushort Attributes;
    public uint Limit;
    public ulong Base;

    /// <summary>As the processor holds it. A segment that is not present is unusable.</summary>
    public readonly SegmentRegister Load() => new()
    {
        Selector = Selector,
        Limit = Limit,
        Base = Base,
        Attributes = Attributes & 0xFFu | (Attributes & 0xF00u) << 4 | ((Attributes & 0x80) == 0 ? SegmentRegister.Unusable : 0),
    };

    public static VmcbSegment Of(in SegmentRegister r) => new()
    {
        Selector = r.Selector,
        Limit = r.Limit,
        Base = r.Base,
        Attributes = (ushort)(r.Attributes & 0xFF & (r.IsUnusable ? ~0x80u : ~0u) | r.Attributes >> 4 & 0xF00),
    };
}

/// <summary>Intercepts at offset 00Ch.</summary>
[Flags]
internal enum SvmIntercepts1 : uint
{
    None = 0,
    Intr = 1 << 0, Nmi = 1 << 1, Smi = 1 << 2, Init = 1 << 3, Vintr = 1 << 4, Cr0SelectiveWrite = 1 << 5,
    IdtrRead = 1 << 6, GdtrRead = 1 << 7, LdtrRead = 1 << 8, TrRead = 1 << 9, IdtrWrite = 1 << 10, GdtrWrite = 1 << 11, LdtrWrite = 1 << 12, TrWrite = 1 << 13,
    Rdtsc = 1 << 14, Rdpmc = 1 << 15, Pushf = 1 << 16, Popf = 1 << 17, Cpuid = 1 << 18, Rsm = 1 << 19, Iret = 1 << 20, SoftwareInterrupt = 1 << 21,
    Invd = 1 << 22, Pause = 1 << 23, Hlt = 1 << 24, Invlpg = 1 << 25, Invlpga = 1 << 26, Io = 1 << 27, Msr = 1 << 28, TaskSwitch = 1 << 29,
    FerrFreeze = 1 << 30, Shutdown = 1u << 31,
}

/// <summary>Intercepts at offset 010h; bits 31:16 are writes of CR0 to CR15 after they were made.</summary>
[Flags]
internal enum SvmIntercepts2 : uint
{
    None = 0,
    Vmrun = 1 << 0, Vmmcall = 1 << 1, Vmload = 1 << 2, Vmsave = 1 << 3, Stgi = 1 << 4, Clgi = 1 << 5, Skinit = 1 << 6, Rdtscp = 1 << 7, Icebp = 1 << 8,
    Wbinvd = 1 << 9, Monitor = 1 << 10, Mwait = 1 << 11, MwaitArmed = 1 << 12, Xsetbv = 1 << 13, Rdpru = 1 << 14, EferWriteTrap = 1 << 15,
    CrWriteTraps = 0xFFFFu << 16,
}

/// <summary>Intercepts at offset 014h.</summary>
[Flags]
internal enum SvmIntercepts3 : uint
{
    None = 0,
    Invpcid = 1 << 2,
}

/// <summary>The virtual interrupt's word, at offset 060h.</summary>
internal static class VirtualInterruptBits
{
    public const ulong Tpr = 0xFF, Irq = 1 << 8, Gif = 1 << 9, Nmi = 1 << 11, NmiMask = 1 << 12, PriorityMask = 0xFul << 16, IgnoreTpr = 1 << 20,
        Masking = 1 << 24, GifEnable = 1 << 25, NmiEnable = 1 << 26, X2AvicEnable = 1 << 30, AvicEnable = 1ul << 31;
    public const int PriorityShift = 16, VectorShift = 32;
}

/// <summary>EVENTINJ and EXITINTINFO.</summary>
internal static class SvmEvent
{
    public const ulong Valid = 1ul << 31, ErrorCodeValid = 1 << 11;
    public const int TypeShift = 8, ErrorCodeShift = 32;
    public const uint TypeMask = 7, External = 0, Nmi = 2, Exception = 3, SoftwareInterrupt = 4;
}

/// <summary>TLB_CONTROL.</summary>
internal enum TlbControl : byte
{
    None = 0, FlushAll = 1, FlushAsid = 3, FlushAsidNonGlobal = 7,
}
