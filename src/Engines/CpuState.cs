using System.Runtime.CompilerServices;

namespace Bunraku.Engines;

/// <summary>A segment register with its descriptor cache.</summary>
/// <param name="Selector">16-bit selector (paragraph in real mode).</param>
/// <param name="Base">Linear base; 64 bits for FS and GS (and TR, LDTR in long mode), else 32.</param>
/// <param name="Limit">Byte-granular limit, already scaled by G.</param>
/// <param name="Attributes">Access rights as in Intel SDM vol. 3C "Guest Register State": type 3:0, S 4, DPL 6:5, P 7, AVL 12, L 13, D/B 14, G 15, unusable 16.</param>
public readonly record struct SegmentState(ushort Selector, ulong Base, uint Limit, uint Attributes);

/// <summary>What kind of event waits for delivery.</summary>
public enum PendingEventKind { ExternalInterrupt, Nmi, Exception }

/// <summary>An event that the processor has accepted and delivers before it executes anything else.</summary>
public readonly record struct PendingEvent(PendingEventKind Kind, byte Vector, uint? ErrorCode = null);

/// <summary>The complete architectural state of one x86 vCPU, independent of any engine. A plain container.</summary>
public sealed class CpuState
{
    /// <summary>RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 … R15.</summary>
    public readonly ulong[] Gpr = new ulong[16];
    public ulong Rip, Rflags;
    public ulong Cr0, Cr2, Cr3, Cr4, Cr8, Xcr0, Efer;
    public SegmentState Es, Cs, Ss, Ds, Fs, Gs, Ldtr, Tr;
    public ulong GdtrBase, IdtrBase;
    public ushort GdtrLimit, IdtrLimit;
    /// <summary>DR0 to DR3.</summary>
    public readonly ulong[] Dr = new ulong[4];
    public ulong Dr6, Dr7;
    /// <summary>XSAVE image, standard format: legacy area 512 bytes, header 64, AVX at 576, PKRU at its CPUID offset.</summary>
    public readonly byte[] Xsave = new byte[4096];
    /// <summary>MSRs held by the processor, by index.</summary>
    public readonly Dictionary<uint, ulong> Msrs = [];
    /// <summary>Blocking by STI or MOV SS is in force for the next instruction.</summary>
    public bool InterruptShadow;
    /// <summary>NMIs are blocked until the next IRET.</summary>
    public bool NmiBlocked;
    /// <summary>An NMI is held until NMIs are no longer blocked.</summary>
    public bool NmiPending;
    /// <summary>An event is under way: the next entry delivers it first.</summary>
    public PendingEvent? Pending;
    /// <summary>The processor waits in HLT. Only engines that hold the local APIC know it; for the others it is the hypervisor's state.</summary>
    public bool Halted;
    /// <summary>The local APIC, when the engine holds it. Null: it is the board's, and when written stays as it is.</summary>
    public LocalApicState? Apic;
}
