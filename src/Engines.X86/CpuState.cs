using System.Diagnostics.CodeAnalysis;

namespace Bunraku.Engines.X86;

/// <summary>A segment register with its descriptor cache.</summary>
/// <param name="Selector">16-bit selector (paragraph in real mode).</param>
/// <param name="Base">Linear base; 64 bits for FS and GS (and TR, LDTR in long mode), else 32.</param>
/// <param name="Limit">Byte-granular limit, already scaled by G.</param>
/// <param name="Attributes">Access rights as in Intel SDM vol. 3C "Guest Register State": type 3:0, S 4, DPL 6:5, P 7, AVL 12, L 13, D/B 14, G 15, unusable
/// 16.</param>
public readonly record struct SegmentState(ushort Selector, ulong Base, uint Limit, uint Attributes);

/// <summary>An event that the processor has accepted and delivers before it executes anything else.</summary>
/// <param name="Kind">
/// External interrupt, NMI or hardware exception; what software asked for begins again with its
/// instruction, unless a hypervisor inside the guest has injected it.
/// </param>
/// <param name="Vector">Entry of the interrupt table.</param>
/// <param name="ErrorCode">What is pushed; null: nothing.</param>
/// <param name="InstructionLength">Injected software interrupts and exceptions: distance from RIP to the address that is pushed, 0 to 15.</param>
public readonly record struct PendingEvent(EventKind Kind, byte Vector, uint? ErrorCode = null, byte InstructionLength = 0);

/// <summary>A write to guest-physical addresses without RAM whose instruction has retired; its exit is still to come.</summary>
/// <param name="Address">Guest-physical address.</param>
/// <param name="Size">1 to 8 bytes, never across an 8-byte boundary.</param>
/// <param name="Data">The value in the low bytes.</param>
public readonly record struct PostedWrite(ulong Address, int Size, ulong Data);

/// <summary>
/// An instruction that has exited for an answer and has it: the fields of its <see cref="X86Exit"/>. The instruction itself begins again with the next entry
/// and finds the answer here, so that the device is not asked twice.
/// </summary>
/// <param name="Rip">RIP of the instruction.</param>
public sealed record HalfDoneInstruction(
    ExitReason Reason, ulong Rip, bool IsWrite, int Size, ulong Address, ulong Data, bool Fault, uint Leaf, uint Subleaf, uint Eax, uint Ebx,
    uint Ecx, uint Edx);

/// <summary>
/// The complete architectural state of one x86 vCPU, independent of any engine. A plain container: caches, counters and what the host needs are not in it.
/// Exact at each instruction boundary, and between an exit and the next entry, once the exit is handled.
/// </summary>
[StateRecord("x86.cpu", version: 5)]
public sealed class CpuState
{
    private const ulong EferLma = 1 << 10;
    private const uint LongCode = 1 << 13;

    /// <summary>No instruction reads more: the largest operand is an XSAVE image, and a read has at least a byte.</summary>
    private const int MostMmioValues = 4096;

    private const int LeastKernelNested = 128, MostKernelNested = 1 << 16;

    /// <summary>More than the instructions between two looks at what waits can write.</summary>
    private const int MostPostedWrites = 1 << 16;

    /// <summary>All zeros.</summary>
    [DynamicDependency(DynamicallyAccessedMemberTypes.PublicParameterlessConstructor, typeof(List<PostedWrite>))] // see RecordReader
    public CpuState()
    {
    }

    /// <summary>RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 … R15.</summary>
    public ulong[] Gpr = new ulong[16];
    /// <summary>RIP, which outside 64-bit mode is EIP or IP, and RFLAGS.</summary>
    public ulong Rip, Rflags;
    /// <summary>The control registers, with the task priority as CR8, the XSAVE mask and IA32_EFER.</summary>
    public ulong Cr0, Cr2, Cr3, Cr4, Cr8, Xcr0, Efer;
    /// <summary>Segment registers, local descriptor table and task register.</summary>
    public SegmentState Es, Cs, Ss, Ds, Fs, Gs, Ldtr, Tr;
    /// <summary>Linear addresses of the descriptor and the interrupt table.</summary>
    public ulong GdtrBase, IdtrBase;
    /// <summary>Offset of the last byte of each table.</summary>
    public ushort GdtrLimit, IdtrLimit;
    /// <summary>DR0 to DR3.</summary>
    public ulong[] Dr = new ulong[4];
    /// <summary>Debug status and debug control.</summary>
    public ulong Dr6, Dr7;
    /// <summary>
    /// The four PDPTE registers, which need not be what memory holds now. Null: the engine does not know them; written, they are loaded from memory as MOV to
    /// CR3 does, where paging uses them.
    /// </summary>
    public ulong[]? Pdptes;
    /// <summary>XSAVE image, standard format: legacy area 512 bytes, header 64, AVX at 576, PKRU at its CPUID offset.</summary>
    public byte[] Xsave = new byte[4096];
    /// <summary>Selectors of the last x87 instruction and of its memory operand: the 64-bit XSAVE image has no place for them.</summary>
    public ushort X87Cs, X87Ds;
    /// <summary>FERR# is asserted for the pending x87 exception, and the hypervisor knows.</summary>
    public bool FerrAsserted;
    /// <summary>MSRs held by the processor, by index.</summary>
    public Dictionary<uint, ulong> Msrs = [];
    /// <summary>IA32_APIC_BASE.EN is clear, so that CPUID denies the APIC. The register itself belongs to the APIC.</summary>
    public bool ApicDisabled;
    /// <summary>Blocking by STI or MOV SS is in force for the next instruction.</summary>
    public bool InterruptShadow;
    /// <summary>The blocking is by MOV SS or POP SS, which holds debug exceptions back as well.</summary>
    public bool MovSsShadow;
    /// <summary>NMIs are blocked until the next IRET.</summary>
    public bool NmiBlocked;
    /// <summary>An NMI is held until NMIs are no longer blocked.</summary>
    public bool NmiPending;
    /// <summary>Bits that DR6 gets with the debug trap that waits for delivery; 0: none waits.</summary>
    public ulong PendingDebug;
    /// <summary>An event is under way: the next entry delivers it first.</summary>
    public PendingEvent? Pending;
    /// <summary>
    /// What the processor does. Where the board holds the local APICs, a processor that waits for its start-up IPI says so from its first look at the APIC on.
    /// </summary>
    public CpuActivity Activity;
    /// <summary>The instruction at RIP has its answer; null: it waits for none.</summary>
    public HalfDoneInstruction? HalfDone;
    /// <summary>What the instruction at RIP has already read from addresses without RAM, in the order of its reads; it reads on from there.</summary>
    public List<ulong> MmioValues = [];
    /// <summary>Writes to addresses without RAM, in their order, whose exits come before anything else happens.</summary>
    public List<PostedWrite> PostedWrites = [];
    /// <summary>What the processor has of SVM; null: nothing, or as after a reset.</summary>
    public SvmState? Svm;
    /// <summary>The local APIC, when the engine holds it. Null: it is the board's, and when written stays as it is.</summary>
    public LocalApicState? Apic;

    /// <summary>VMX; null: the processor has none, or the engine cannot tell.</summary>
    public VmxState? Vmx;

    /// <summary>VMX or SVM where the host's kernel keeps it for the guest's hypervisor, in the kernel's own format. Null: it keeps none.</summary>
    public byte[]? KernelNested;

    /// <summary>The processor is in 64-bit mode: IA-32e mode is active and CS is a 64-bit code segment.</summary>
    /// <remarks>Intel SDM vol. 3A, "IA-32e Mode Operation"; CS.L is bit 13 of the attributes.</remarks>
    public bool Is64BitMode => (Efer & EferLma) != 0 && (Cs.Attributes & LongCode) != 0;

    /// <summary>Linear address of the instruction at RIP: in 64-bit mode CS has no base.</summary>
    public ulong InstructionAddress => Is64BitMode ? Rip : (uint)(Cs.Base + Rip);

    /// <summary>Makes this state equal to another one, and independent of it.</summary>
    public void CopyFrom(CpuState other)
    {
        other.Gpr.CopyTo(Gpr, 0);
        other.Dr.CopyTo(Dr, 0);
        other.Xsave.CopyTo(Xsave, 0);
        (Rip, Rflags, Cr0, Cr2, Cr3, Cr4, Cr8, Xcr0, Efer) = (other.Rip, other.Rflags, other.Cr0, other.Cr2, other.Cr3, other.Cr4, other.Cr8,
            other.Xcr0, other.Efer);
        (Es, Cs, Ss, Ds, Fs, Gs, Ldtr, Tr) = (other.Es, other.Cs, other.Ss, other.Ds, other.Fs, other.Gs, other.Ldtr, other.Tr);
        (GdtrBase, IdtrBase, GdtrLimit, IdtrLimit, Dr6, Dr7) = (other.GdtrBase, other.IdtrBase, other.GdtrLimit, other.IdtrLimit, other.Dr6, other.Dr7);
        Pdptes = (ulong[]?)other.Pdptes?.Clone();
        (X87Cs, X87Ds, FerrAsserted, ApicDisabled) = (other.X87Cs, other.X87Ds, other.FerrAsserted, other.ApicDisabled);
        Msrs.Clear();
        foreach ((uint index, ulong value) in other.Msrs) Msrs[index] = value;
        (InterruptShadow, MovSsShadow, NmiBlocked, NmiPending) = (other.InterruptShadow, other.MovSsShadow, other.NmiBlocked, other.NmiPending);
        (PendingDebug, Pending, Activity, HalfDone) = (other.PendingDebug, other.Pending, other.Activity, other.HalfDone);
        MmioValues = [.. other.MmioValues];
        PostedWrites = [.. other.PostedWrites];
        Svm = other.Svm?.Clone();
        Apic = other.Apic?.Clone();
        Vmx = other.Vmx?.Clone();
        KernelNested = (byte[]?)other.KernelNested?.Clone();
    }

    /// <summary>Checks what a state from outside must be before anything indexes with it.</summary>
    /// <exception cref="StateFormatException">An array has a wrong length, or a number lies outside its range.</exception>
    public void Check(string id)
    {
        StateCheck.Length(Gpr, 16, id);
        StateCheck.Length(Dr, 4, id);
        StateCheck.Length(Xsave, 4096, id);
        if (Pdptes is not null) StateCheck.Length(Pdptes, 4, id);
        if (Apic is not null) StateCheck.Length(Apic.Registers, LocalApicState.Size, id);
        if (Svm is not null)
        {
            StateCheck.Length(Svm.Control, SvmState.ControlSize, id);
            StateCheck.Length(Svm.HostPdptes, 4, id);
        }
        StateCheck.Defined(Activity, id);
        Vmx?.Check(id);
        if (KernelNested is not null) StateCheck.Range(KernelNested.Length, LeastKernelNested, MostKernelNested, id);
        foreach (PostedWrite write in PostedWrites)
        {
            StateCheck.Range(write.Size, 1, 8, id);
            StateCheck.Range((int)(write.Address & 7) + write.Size, 1, 8, id); // devices rely on it
        }
        StateCheck.Range(MmioValues.Count, 0, MostMmioValues, id);
        StateCheck.Range(PostedWrites.Count, 0, MostPostedWrites, id);
        if (Pending is { } pending)
        {
            StateCheck.Defined(pending.Kind, id);
            StateCheck.Range((int)pending.InstructionLength, 0, 15, id);
        }
        if (Pending is { Kind: EventKind.HardwareException } exception) StateCheck.Range((int)exception.Vector, 0, 31, id);
        if (HalfDone is not { } half) return;
        StateCheck.Defined(half.Reason, id);
        StateCheck.Range(half.Size, 0, sizeof(ulong), id);
    }
}
