using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>Descriptor cache of one segment register, laid out for execution.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct SegmentRegister
{
    public ulong Base;
    public uint Limit;
    /// <summary>Access rights, format of <see cref="SegmentState.Attributes"/>.</summary>
    public uint Attributes;
    public ushort Selector;

    public const uint Unusable = 1u << 16;

    public readonly int Type => (int)(Attributes & 0xF);
    public readonly bool IsSystem => (Attributes & 0x10) == 0;
    public readonly int Dpl => (int)(Attributes >> 5) & 3;
    public readonly bool Present => (Attributes & 0x80) != 0;
    public readonly bool Long => (Attributes & 0x2000) != 0;
    /// <summary>D/B: 32-bit default size (CS), 32-bit stack (SS), big expand-down limit.</summary>
    public readonly bool Default32 => (Attributes & 0x4000) != 0;
    public readonly bool Granular => (Attributes & 0x8000) != 0;
    public readonly bool IsUnusable => (Attributes & Unusable) != 0;
    public readonly bool IsCode => (Attributes & 0x18) == 0x18;
    /// <summary>Data segment: writable. Code segment: readable.</summary>
    public readonly bool ReadWrite => (Attributes & 2) != 0;
    /// <summary>Data segment: expand-down. Code segment: conforming.</summary>
    public readonly bool ExpandDownOrConforming => (Attributes & 4) != 0;
}

/// <summary>Number of a segment register as ModRM.reg encodes it.</summary>
internal enum Seg { Es, Cs, Ss, Ds, Fs, Gs }

/// <summary>One line of the software TLB. A tag is the linear page number's address OR the TLB context; all ones means empty.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct TlbEntry
{
    public ulong ReadTag, WriteTag, ExecTag;
    /// <summary>Host address minus linear address.</summary>
    public nint Addend;
}

/// <summary>One line of the jump cache: where execution at a linear address goes on.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct JumpEntry
{
    public ulong LinearRip;
    public ulong Key;
    public Insn* First;
}

/// <summary>
/// All state of one vCPU that executing code touches, in native memory that never moves. The interpreter reaches it through a
/// pointer, emitted code by offsets taken from this struct; nobody else types an offset.
/// </summary>
/// <remarks>Invariant: allocated 64-byte aligned, zeroed, and freed only when no code can run on it.</remarks>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct ProcessorState
{
    // 16 GPRs in encoding order; a 32-bit write zero-extends, 8/16-bit writes merge.
    public ulong Rax, Rcx, Rdx, Rbx, Rsp, Rbp, Rsi, Rdi, R8, R9, R10, R11, R12, R13, R14, R15;

    /// <summary>Always zero: the base or index of a memory operand that has none.</summary>
    public ulong Zero;
    /// <summary>RIP (offset in CS) of the current block's first instruction. Instructions know their own offset from it.</summary>
    public ulong BlockRip;
    /// <summary>Linear address prepared by a segmentation micro-operation for the instruction that follows it.</summary>
    public ulong PreparedAddress;

    /// <summary>RIP where execution goes on. Valid between blocks only; inside, it is <see cref="BlockRip"/> + <see cref="Insn.Offset"/>.</summary>
    public ulong Rip;
    /// <summary>The instruction being executed; for faults.</summary>
    public Insn* Current;
    /// <summary>The control transfer whose link the dispatcher may fill, or null.</summary>
    public Insn* LinkFrom;
    /// <summary>Instructions retired since reset.</summary>
    public ulong Retired;
    /// <summary>Non-zero: leave the chained blocks at the next control transfer. Set by any thread; see <see cref="Attention"/>.</summary>
    public int AttentionFlags;
    /// <summary>
    /// Non-zero: an interrupt window is wanted and waits for RFLAGS.IF, so that whoever sets IF goes back to the dispatcher; everything else need not. Directly
    /// behind
    /// <see cref="AttentionFlags"/>, so that emitted code looks at both at once.
    /// </summary>
    public int WindowAttention;

    /// <summary>Lazy ZF: set when this is zero.</summary>
    public ulong FlagZ;
    /// <summary>Lazy SF (bit 63) and PF (even parity of bits 7:0).</summary>
    public ulong FlagSp;
    /// <summary>Lazy CF (bit 63), OF (bit 63 XOR bit 62), AF (bit 3): the operation's carry-out vector aligned to bit 63, with its own bit 3.</summary>
    public ulong FlagCarries;
    /// <summary>RFLAGS without CF, PF, AF, ZF, SF, OF; DF, IF, TF, IOPL, NT, RF, VM, AC, VIF, VIP, ID and the fixed bit 1.</summary>
    public uint FlagsOther;
    /// <summary>+1 or -1 by DF, for string instructions.</summary>
    public int Direction;

    /// <summary>Low 12 bits of every TLB tag now: address space, privilege and permissions in force.</summary>
    public ulong TlbContext;
    /// <summary>Key under which blocks decode alike: see <see cref="ModeKey"/>. Also the low half of jump-cache keys.</summary>
    public uint Mode;
    /// <summary>Jump-cache generation.</summary>
    public uint JumpEpoch;

    public uint Mxcsr;
    public uint Pkru;
    /// <summary>MXCSR under which a thunk runs, and afterwards what it left.</summary>
    public uint ThunkMxcsr;
    /// <summary>Host RFLAGS that a thunk left.</summary>
    public uint ThunkFlags;
    /// <summary>Byte image in FXSAVE64 format, 64-byte aligned: x87 and MMX state (its XMM part is scratch, its MXCSR the host's default).</summary>
    public fixed byte Fxsave[512];
    /// <summary>XSAVE header that makes an XSAVE area of the image; for translated code.</summary>
    public fixed byte XsaveHeader[64];
    /// <summary>16 vector registers of 32 bytes, 32-byte aligned: XMM in the low half, YMM whole.</summary>
    public fixed byte Simd[16 * 32];
    /// <summary>Memory operand of a thunk that cannot work on guest memory directly, 64-byte aligned.</summary>
    public fixed byte Staging[64];
    /// <summary>Bits 5:0: SIMD floating-point exceptions whose detection makes a thunk leave its destination alone.</summary>
    public uint ThunkUnmasked;
    /// <summary>Selectors of the last x87 instruction and of its memory operand.</summary>
    public ushort X87Cs, X87Ds;
    /// <summary>Non-zero: FERR# is asserted for the pending x87 exception, and the hypervisor knows.</summary>
    public byte FerrAsserted;

    public SegmentRegister Es, Cs, Ss, Ds, Fs, Gs, Ldtr, Tr;
    public ulong GdtrBase, IdtrBase;
    public uint GdtrLimit, IdtrLimit;

    public ulong Cr0, Cr2, Cr3, Cr4, Efer, Xcr0;
    /// <summary>PAE page-directory-pointer-table entries, loaded by MOV to CR3 (SDM vol. 3A "PDPTE Registers").</summary>
    public ulong Pdpte0, Pdpte1, Pdpte2, Pdpte3;
    /// <summary>IA32_KERNEL_GS_BASE.</summary>
    public ulong KernelGsBase;
    /// <summary>Guest TSC minus the clock's TSC, modulo 2^64.</summary>
    public ulong TscOffset;
    /// <summary>IA32_TSC_AUX.</summary>
    public ulong TscAux;
    /// <summary>IA32_XSS.</summary>
    public ulong Xss;
    public ulong Dr0, Dr1, Dr2, Dr3, Dr6, Dr7;
    /// <summary>Current privilege level, 0 to 3.</summary>
    public int Cpl;

    public const int TlbBits = 14, TlbSize = 1 << TlbBits;
    public fixed byte TlbBytes[TlbSize * 32];
    public const int JumpBits = 14, JumpSize = 1 << JumpBits;
    public fixed byte JumpBytes[JumpSize * 24];

    /// <summary>What translated code uses beside the interpreter.</summary>
    public TranslatorState Translator;

    /// <summary>
    /// While <see cref="Retired"/> is this, interrupts wait for the next instruction to retire (blocking by STI or MOV SS); all ones: they do not.
    /// </summary>
    public ulong ShadowAt;

    /// <summary>What the vCPU's thread does, for whoever takes samples of it: set by it alone, read by any thread.</summary>
    public CpuWork Work;

    /// <summary>Pointer to GPR number <paramref name="n"/> (0 to 15).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong* Gpr(ProcessorState* s, int n) => &s->Rax + n;

    /// <summary>Pointer to segment register <paramref name="n"/>.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static SegmentRegister* Segment(ProcessorState* s, Seg n) => &s->Es + (int)n;

    /// <summary>SIMD register number <paramref name="n"/> (0 to 15), 32 bytes.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static byte* SimdRegister(ProcessorState* s, int n) => s->Simd + n * 32;
}

/// <summary>Bits of <see cref="ProcessorState.AttentionFlags"/>.</summary>
[Flags]
internal enum Attention
{
    None = 0,
    /// <summary>Somebody wants Enter to return.</summary>
    Kick = 1,
    /// <summary>An event or a window is to be looked at before the next block.</summary>
    Event = 2,
    /// <summary>Blocks go back to the dispatcher, which has nothing to look at.</summary>
    BlockEnd = 4,
}
