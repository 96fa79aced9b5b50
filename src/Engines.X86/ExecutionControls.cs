namespace Bunraku.Engines.X86;

/// <summary>Instructions that exit when the hypervisor asks for it.</summary>
/// <remarks>Intel SDM vol. 3C, "Processor-Based VM-Execution Controls"; HLT, port and unhandled MSR accesses are not listed since they always exit.</remarks>
[Flags]
public enum InterceptedInstructions : uint
{
    /// <summary>No instruction.</summary>
    None = 0,
    /// <summary>CPUID.</summary>
    Cpuid = 1 << 0,
    /// <summary>PAUSE.</summary>
    Pause = 1 << 1,
    /// <summary>RDTSC and RDTSCP.</summary>
    Rdtsc = 1 << 2,
    /// <summary>INVLPG and INVPCID.</summary>
    Invlpg = 1 << 3,
    /// <summary>WBINVD and INVD.</summary>
    Wbinvd = 1 << 4,
    /// <summary>LGDT, LIDT, SGDT, SIDT, LLDT, LTR, SLDT, STR.</summary>
    DescriptorTable = 1 << 5,
    /// <summary>MOV to and from debug registers.</summary>
    MovDr = 1 << 6,
    /// <summary>MOV to CR0, CLTS, LMSW.</summary>
    Cr0 = 1 << 7,
    /// <summary>MOV to CR3.</summary>
    Cr3Load = 1 << 8,
    /// <summary>MOV from CR3.</summary>
    Cr3Store = 1 << 9,
    /// <summary>MOV to CR4.</summary>
    Cr4 = 1 << 10,
    /// <summary>MWAIT and MONITOR.</summary>
    Mwait = 1 << 11,
    /// <summary>RDPMC.</summary>
    Rdpmc = 1 << 12,
    /// <summary>VMCALL and VMMCALL, which raise #UD otherwise: there is nobody to call.</summary>
    Hypercall = 1 << 13,
}

/// <summary>What makes a vCPU exit besides what always does. Immutable; assign a new one to <see cref="IX86Cpu.Controls"/>.</summary>
/// <param name="Instructions">Instructions that exit before they have any effect.</param>
/// <param name="ExceptionBitmap">Bit n set: exception vector n exits instead of being delivered.</param>
/// <param name="InterruptWindowExiting">Exit as soon as an external interrupt could be delivered.</param>
/// <param name="NmiWindowExiting">Exit as soon as an NMI could be delivered.</param>
public sealed record ExecutionControls(
    InterceptedInstructions Instructions = InterceptedInstructions.Mwait,
    uint ExceptionBitmap = 0,
    bool InterruptWindowExiting = false,
    bool NmiWindowExiting = false);
