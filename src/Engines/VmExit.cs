using System.Runtime.CompilerServices;

namespace Bunraku.Engines;

/// <summary>What an exit asks of the hypervisor, whatever the architecture.</summary>
public enum ExitKind : byte
{
    /// <summary>The vCPU was asked to stop (<see cref="IVirtualCpu.Kick"/>); nothing to emulate.</summary>
    Kicked,
    /// <summary>
    /// A read or write of a guest-physical address with no RAM behind it: <see cref="VmExit.Address"/>, <see cref="VmExit.Size"/> (1 to 8 bytes, never across
    /// an 8-byte boundary),
    /// <see cref="VmExit.IsWrite"/> and <see cref="VmExit.Data"/>.
    /// </summary>
    Access,
    /// <summary>The vCPU waits for an event; <see cref="IVirtualCpu.Activity"/> says so.</summary>
    Halt,
    /// <summary>
    /// An access to RAM for which <see cref="GuestMemory.Rights"/> lack a right, before it has any effect: <see cref="VmExit.Address"/> and
    /// <see cref="VmExit.Violation"/>. The next entry tries it again.
    /// </summary>
    Refused,
    /// <summary>The processor is in a state that only a reset ends.</summary>
    Shutdown,
    /// <summary>The engine cannot go on; <see cref="VmExit.Message"/> says why.</summary>
    InternalError,
    /// <summary>
    /// Something came that the vCPU's debugger waits for (<see cref="IVirtualCpu.SetDebugControls"/>): <see cref="VmExit.DebugCause"/> and, but for steps,
    /// <see cref="VmExit.Address"/>.
    /// </summary>
    Debug,
    /// <summary>Something that only the architecture's own handlers understand: ports, system registers, calls of the guest.</summary>
    Architectural,
}

/// <summary>What a refused access to guest-physical memory was.</summary>
/// <param name="Wanted">The rights that the access needed.</param>
/// <param name="LinearAddress">The virtual address that was being translated or accessed.</param>
/// <param name="IsTableAccess">The access was to an entry of a page table, and not to what the virtual address names.</param>
/// <remarks>Intel SDM vol. 3C, "Exit Qualification for EPT Violations"; an Arm stage 2 abort says the same.</remarks>
public readonly record struct PageViolation(PageRights Wanted, ulong LinearAddress, bool IsTableAccess);

/// <summary>
/// One exit, filled by the engine and, for reads, completed by the hypervisor: it stores the value in <see cref="Data"/> and calls
/// <see cref="IVirtualCpu.Enter"/> again, which finishes the
/// instruction. An architecture derives its own exit, with its reasons and what they need. Each vCPU owns one instance and uses it again; it is valid until the
/// next
/// <see cref="IVirtualCpu.Enter"/>, and only on the vCPU's thread.
/// </summary>
public abstract class VmExit
{
    /// <summary>What is to be done.</summary>
    public ExitKind Kind { get; private set; }

    /// <summary>Number of the reason in the architecture's own list; exits are counted by it.</summary>
    public byte ReasonNumber { get; private set; }

    /// <summary>Direction of an access: true when the guest writes.</summary>
    public bool IsWrite;

    /// <summary>Width of an access in bytes.</summary>
    public int Size;

    /// <summary>Guest-physical address of an access; the architecture's exits give it other meanings.</summary>
    public ulong Address;

    /// <summary>Value that the guest writes, or that the hypervisor stores here for a read; bytes beyond <see cref="Size"/> do not count.</summary>
    public ulong Data;

    /// <summary><see cref="ExitKind.Refused"/>: what was refused.</summary>
    public PageViolation Violation;

    /// <summary><see cref="ExitKind.Debug"/>: what came.</summary>
    public DebugCause DebugCause;

    /// <summary><see cref="ExitKind.InternalError"/>: one line for a person.</summary>
    public string? Message;

    /// <summary>The exit says nothing about the guest: it comes where the engine happens to look.</summary>
    public virtual bool IsAsynchronous => Kind is ExitKind.Kicked or ExitKind.Debug;

    /// <summary>Sets the reason. For the architecture's exit.</summary>
    /// <param name="kind">What is to be done.</param>
    /// <param name="reason">See <see cref="ReasonNumber"/>.</param>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    protected void Set(ExitKind kind, byte reason)
    {
        Kind = kind;
        ReasonNumber = reason;
    }
}
