namespace Bunraku.Engines.X86;

/// <summary>Instructions that exit when the hypervisor asks for it.</summary>
/// <remarks>Intel SDM vol. 3C, "Processor-Based VM-Execution Controls"; HLT, port and unhandled MSR accesses are not listed since they always exit.</remarks>
[Flags]
public enum InterceptedInstructions : uint
{
    None = 0,
    Cpuid = 1 << 0,
    Pause = 1 << 1,
    Rdtsc = 1 << 2,
    Invlpg = 1 << 3,
    Wbinvd = 1 << 4,
    DescriptorTable = 1 << 5,
    MovDr = 1 << 6,
    Cr0 = 1 << 7,
    Cr3Load = 1 << 8,
    Cr3Store = 1 << 9,
    Cr4 = 1 << 10,
    Mwait = 1 << 11,
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
