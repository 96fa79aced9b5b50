using System.Runtime.CompilerServices;

namespace Bunraku.Engines.X86;

/// <summary>Why <see cref="IX86Cpu.Enter"/> returned: the basic exit reasons that the hypervisor acts on.</summary>
/// <remarks>Names follow Intel SDM vol. 3C, appendix "VMX Basic Exit Reasons", where one exists.</remarks>
public enum ExitReason : byte
{
    /// <summary>The vCPU was asked to stop (<see cref="IVirtualCpu.Kick"/>); nothing to emulate.</summary>
    Kicked,
    /// <summary>IN, OUT, INS, OUTS: <see cref="VmExit.Address"/> is the port, 1, 2 or 4 bytes.</summary>
    Io,
    /// <summary>Access to a guest-physical address with no RAM behind it, 1 to 8 bytes, never across an 8-byte boundary.</summary>
    Mmio,
    /// <summary>CPUID, when execution controls ask for it: leaf and subleaf in <see cref="X86Exit.Leaf"/>, <see cref="X86Exit.Subleaf"/>.</summary>
    Cpuid,
    /// <summary>RDMSR or WRMSR of an MSR that the processor itself does not hold.</summary>
    Msr,
    /// <summary>HLT retired. The vCPU waits for an event.</summary>
    Hlt,
    /// <summary>PAUSE, when execution controls ask for it.</summary>
    Pause,
    /// <summary>MWAIT or MONITOR.</summary>
    Mwait,
    /// <summary>
    /// VMCALL or VMMCALL, when execution controls ask for it: arguments in <see cref="X86Exit.Call"/>; <see cref="VmExit.Data"/> goes to RAX.
    /// </summary>
    Hypercall,
    /// <summary>MOV to or from a control register, CLTS, LMSW, that execution controls intercept. CR8 always exits as it belongs to the local APIC.</summary>
    CrAccess,
    /// <summary>MOV to or from a debug register.</summary>
    DrAccess,
    /// <summary>LGDT, LIDT, SGDT, SIDT, LLDT, LTR, SLDT, STR.</summary>
    DescriptorTable,
    /// <summary>RDTSC or RDTSCP: the time stamp in <see cref="VmExit.Data"/>.</summary>
    Rdtsc,
    /// <summary>RDPMC.</summary>
    Rdpmc,
    /// <summary>INVLPG, INVPCID: <see cref="VmExit.Address"/> is the operand's offset in its segment.</summary>
    Invlpg,
    /// <summary>WBINVD, INVD.</summary>
    Wbinvd,
    /// <summary>
    /// An exception selected by the exception bitmap, before delivery. Also one that came up while an event was delivered (<see cref="X86Exit.Vectoring"/>):
    /// the bitmap is asked before it becomes a double fault, then for the double fault, and before shutdown (Intel SDM vol. 3C, "Other Causes of VM Exits").
    /// </summary>
    Exception,
    /// <summary>
    /// FERR# was asserted: an unmasked x87 exception waits and CR0.NE is clear (Intel SDM vol. 1, "MS-DOS Compatibility Sub-mode"). Nothing to complete.
    /// </summary>
    FloatingPointError,
    /// <summary>
    /// A guest-physical access for which <see cref="GuestMemory.Rights"/> lack a right, before it has any effect: the address is <see cref="VmExit.Address"/>,
    /// what was wanted is in
    /// <see cref="VmExit.Violation"/>. The next entry tries the instruction, or the delivery of the event, again.
    /// </summary>
    EptViolation,
    /// <summary>The guest can take an external interrupt now.</summary>
    InterruptWindow,
    /// <summary>The guest can take an NMI now.</summary>
    NmiWindow,
    /// <summary>
    /// EOI of a level-triggered interrupt of a routed pin: its vector in <see cref="VmExit.Address"/>. Only from engines that hold the local APICs.
    /// </summary>
    VirtualizedEoi,
    /// <summary>A fault while delivering a double fault. The processor is in shutdown.</summary>
    TripleFault,
    /// <summary>The engine cannot go on; <see cref="VmExit.Message"/> says why.</summary>
    InternalError,
    /// <summary>A debugger's breakpoint, watchpoint or step: <see cref="VmExit.DebugCause"/>, <see cref="VmExit.Address"/> is linear.</summary>
    Debug,
}

/// <summary>What a guest calls its hypervisor with: RAX, RBX, RCX, RDX and RSI as they are, and from where.</summary>
/// <param name="PrivilegeLevel">CPL, 0 to 3.</param>
/// <param name="Is64Bit">Called from 64-bit code; else only the lower halves count.</param>
public readonly record struct HypercallArguments(ulong Number, ulong A0, ulong A1, ulong A2, ulong A3, int PrivilegeLevel, bool Is64Bit);

/// <summary>What kind of event was being delivered. Intel SDM vol. 3C, "Information for VM Exits During Event Delivery": the interruption types.</summary>
public enum EventKind : byte
{
    /// <summary>An interrupt of the local APIC or the 8259A.</summary>
    ExternalInterrupt,
    /// <summary>NMI.</summary>
    Nmi,
    /// <summary>Fault, trap or abort of the processor.</summary>
    HardwareException,
    /// <summary>INT n.</summary>
    SoftwareInterrupt,
    /// <summary>INT1.</summary>
    PrivilegedSoftwareException,
    /// <summary>INT3, INTO.</summary>
    SoftwareException,
}

/// <summary>An event during whose delivery something made the vCPU exit ("IDT-vectoring information").</summary>
/// <param name="ErrorCode">What would have been pushed, or null.</param>
/// <param name="InstructionLength">Bytes of the instruction that asked for a software interrupt or exception, 1 to 15; 0 for other events.</param>
public readonly record struct VectoredEvent(EventKind Kind, byte Vector, uint? ErrorCode, byte InstructionLength = 0);

/// <summary>
/// An exit of an x86 vCPU. For a read the hypervisor stores the value in <see cref="VmExit.Data"/> (or the CPUID results). Instructions that exit only because
/// <see cref="ExecutionControls.Instructions"/> asks for it have their own result or operand filled in and are executed by the next entry with what the
/// hypervisor left there, so that handling may be to do nothing.
/// </summary>
/// <remarks>
/// <see cref="VmExit.Address"/> is a port (Io), a guest-physical address (Mmio, EptViolation), an MSR index (Msr), a register number (CrAccess, DrAccess), an
/// offset (Invlpg) or a vector (Exception, VirtualizedEoi).
/// </remarks>
public sealed class X86Exit : VmExit
{
    /// <summary>Msr and intercepted instructions: set by the hypervisor to raise #GP(0) in the guest instead of completing.</summary>
    public bool Fault;

    /// <summary>Cpuid: EAX and ECX of the guest.</summary>
    public uint Leaf, Subleaf;

    /// <summary>Cpuid results, filled in by the engine; the hypervisor may change them.</summary>
    public uint Eax, Ebx, Ecx, Edx;

    /// <summary>Hypercall: its arguments.</summary>
    public HypercallArguments Call;

    /// <summary>Exception: its error code if it has one.</summary>
    public uint ErrorCode;

    /// <summary>
    /// Exception, EptViolation: the event during whose delivery it came up; null when an instruction did it. The event was not delivered. After an EptViolation
    /// the next entry delivers it, or executes the instruction that asked for it, again.
    /// </summary>
    public VectoredEvent? Vectoring;

    /// <summary>Why the vCPU exited.</summary>
    public ExitReason Reason
    {
        get => (ExitReason)ReasonNumber;
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        set => Set(KindOf(value), (byte)value);
    }

    /// <inheritdoc/>
    public override bool IsAsynchronous => Reason is ExitReason.Kicked or ExitReason.InterruptWindow or ExitReason.NmiWindow or ExitReason.Debug;

    /// <summary>What a reason asks of the hypervisor.</summary>
    /// <param name="reason">Any.</param>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ExitKind KindOf(ExitReason reason) => reason switch
    {
        ExitReason.Kicked => ExitKind.Kicked,
        ExitReason.Mmio => ExitKind.Access,
        ExitReason.Hlt => ExitKind.Halt,
        ExitReason.EptViolation => ExitKind.Refused,
        ExitReason.TripleFault => ExitKind.Shutdown,
        ExitReason.InternalError => ExitKind.InternalError,
        ExitReason.Debug => ExitKind.Debug,
        _ => ExitKind.Architectural,
    };
}
