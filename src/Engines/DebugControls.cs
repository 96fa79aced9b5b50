namespace Bunraku.Engines;

/// <summary>Why a vCPU exited for its debugger.</summary>
public enum DebugCause : byte
{
    /// <summary>The instruction at <see cref="VmExit.Address"/>, a virtual address, has a breakpoint and comes next.</summary>
    Breakpoint,
    /// <summary>An instruction, which has retired, has accessed the watched range that begins at <see cref="VmExit.Address"/>.</summary>
    Watchpoint,
    /// <summary>The step is done.</summary>
    Step,
}

/// <summary>A range of virtual addresses whose accesses exit once their instruction has retired.</summary>
/// <param name="Address">First byte.</param>
/// <param name="Length">Bytes, at least 1; the end does not go round.</param>
/// <param name="Reads">Reads exit.</param>
/// <param name="Writes">Writes exit; a processor cannot tell whether they change anything.</param>
public readonly record struct Watchpoint(ulong Address, ulong Length, bool Reads, bool Writes);

/// <summary>
/// What a debugger outside of the guest asks of one vCPU. The guest sees none of it: its memory, its debug registers and its debug exceptions are its own.
/// Immutable.
/// </summary>
/// <param name="Breakpoints">Virtual addresses of instructions, in whichever address space the vCPU is, that exit before they have any effect.</param>
/// <param name="Watchpoints">
/// Ranges of data. Accesses that the processor makes by itself, to page tables and descriptors, do not count, nor do fetches of instructions.
/// </param>
/// <param name="Step">
/// Exit once after the next instruction, or one piece of a repeated one, or as soon as an event was delivered. An exit of the kind
/// <see cref="ExitKind.Debug"/> ends it.
/// </param>
public sealed record DebugControls(IReadOnlyCollection<ulong> Breakpoints, IReadOnlyCollection<Watchpoint> Watchpoints, bool Step);
