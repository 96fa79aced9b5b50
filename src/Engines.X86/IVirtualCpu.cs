namespace Bunraku.Engines.X86;

/// <summary>
/// A virtual processor: runs guest code until something needs the hypervisor.
/// All members except <see cref="Kick"/> are for the one thread that runs the vCPU.
/// </summary>
public interface IVirtualCpu : IDisposable
{
    /// <summary>0-based number of the vCPU in its VM.</summary>
    int Index { get; }

    /// <summary>
    /// Completes the previous exit and runs the guest until the next one. The returned object is reused by the next call.
    /// </summary>
    VmExit Enter();

    /// <summary>
    /// Makes the running or next <see cref="Enter"/> return soon with <see cref="ExitReason.Kicked"/>. Any thread, never blocks.
    /// Several kicks may collapse into one exit; none is lost. After disposal it does nothing: whoever wakes a vCPU need not know that the VM has ended.
    /// </summary>
    void Kick();

    /// <summary>What exits. Takes effect at the next <see cref="Enter"/>.</summary>
    ExecutionControls Controls { get; set; }

    /// <summary>True when an external interrupt injected now would be delivered at the next entry (IF set, no shadow, no half-done instruction).</summary>
    bool InterruptWindowOpen { get; }

    /// <summary>True when an NMI injected now would be delivered at the next entry, or be held by the processor until the guest can take it.</summary>
    bool NmiWindowOpen { get; }

    /// <summary>An NMI is being delivered or handled: until IRET the processor holds one more. An engine that holds it itself says false.</summary>
    bool NmiBlocked => false;

    /// <summary>Delivers an external interrupt at the next entry. Requires <see cref="InterruptWindowOpen"/>.</summary>
    void InjectInterrupt(byte vector);

    /// <summary>
    /// An external interrupt waits that the next entry can take. The software processor acknowledges it when it takes it, at the beginning of that <see cref="Enter"/>: until then it stays
    /// where it is, and may go away or be overtaken. An engine whose processor must be told the vector acknowledges at once. Requires <see cref="InterruptWindowOpen"/>. An offer is
    /// good for one entry.
    /// </summary>
    /// <returns>False: it has gone away already, and HLT goes on.</returns>
    bool OfferInterrupt(IInterruptAcknowledge source)
    {
        byte? taken = source.Acknowledge(out bool more);
        if (taken is { } vector) InjectInterrupt(vector);
        if (Controls.InterruptWindowExiting != more) Controls = Controls with { InterruptWindowExiting = more };
        return taken != null;
    }

    /// <summary>Delivers an NMI at the next entry. Requires <see cref="NmiWindowOpen"/>.</summary>
    void InjectNmi();

    /// <summary>
    /// Tells what CR8 is, before each entry: the task priority belongs to the local APIC, which has other doors to it. Engines that exit on every access to
    /// CR8 need not know.
    /// </summary>
    void SetTaskPriority(ulong cr8)
    {
    }

    /// <summary>
    /// The guest's TSC minus <see cref="VirtualClock.Tsc"/>, modulo 2^64. The vCPU exits soon after the guest has changed it. 0 where guests read a counter that is not the clock's.
    /// </summary>
    ulong TscOffset => 0;

    /// <summary>Forgets all translations of linear addresses before the next entry. Nothing to do for engines of whose vCPUs nobody else does this.</summary>
    void FlushTlb()
    {
    }

    /// <summary>Delivers an exception at the next entry.</summary>
    void InjectException(byte vector, uint? errorCode);

    /// <summary>
    /// What the vCPU does between events. HLT makes it <see cref="CpuActivity.Halted"/> before it exits, <see cref="Enter"/> makes it <see cref="CpuActivity.Active"/>; the hypervisor sets it for
    /// the rest. From other threads approximate. An engine that holds the local APICs keeps it to itself: it is in <see cref="CpuState.Activity"/>, and here always active.
    /// </summary>
    CpuActivity Activity { get; set; }

    /// <summary>
    /// Copies the architectural state out, complete. Allowed between exits; an answer that the last exit waits for must have been given. An instruction that has such an answer is half done
    /// (<see cref="CpuState.HalfDone"/>, <see cref="CpuState.MmioValues"/>). An engine that cannot tell what it has of those, KVM, leaves them out: who moves a guest away from it kicks and enters
    /// until <see cref="ExitReason.Kicked"/> before.
    /// </summary>
    void ReadState(CpuState state);

    /// <summary>Replaces the architectural state, a half-done instruction included. Allowed between exits.</summary>
    /// <exception cref="StateFormatException">The engine cannot continue a half-done instruction, and there is one.</exception>
    void WriteState(CpuState state);

    /// <summary>Power-on state (RESET) for this CPU model: CS:IP = F000:FFF0, real mode.</summary>
    void Reset();

    /// <summary>Monotonic counters of this vCPU. May be read from any thread; then they are approximate.</summary>
    EngineCounters Counters { get; }
}

/// <summary>Where a processor acknowledges an external interrupt that it takes.</summary>
public interface IInterruptAcknowledge
{
    /// <summary>The interrupt goes into service. On the vCPU's thread, which holds no lock of an engine; it may take the interrupt controllers' lock.</summary>
    /// <param name="more">Another one waits: the vCPU exits with <see cref="ExitReason.InterruptWindow"/> as soon as it could take it.</param>
    /// <returns>Its vector; null when it went away.</returns>
    byte? Acknowledge(out bool more);
}

/// <summary>What an engine counts about one vCPU.</summary>
/// <param name="CodeFlushes">How often all decoded and translated code was given up.</param>
/// <param name="FirstUserTimestamp"><see cref="System.Diagnostics.Stopwatch.GetTimestamp"/> when the vCPU entered privilege level 3 for the first time; 0 before.</param>
public readonly record struct EngineCounters(
    ulong InstructionsRetired,
    ulong BlocksDecoded,
    ulong BlocksInvalidated,
    ulong TlbMisses,
    ulong TlbFlushes,
    ulong ExceptionsDelivered,
    ulong InterruptsDelivered,
    long FirstUserTimestamp = 0,
    ulong BlocksTranslated = 0,
    ulong CodeFlushes = 0);

/// <summary>What an engine says about running on this host.</summary>
/// <param name="Available">It can run here.</param>
/// <param name="Detail">One line: what it offers, or what is missing and the remedy.</param>
/// <param name="Hardware">Guest code runs directly on hardware virtualization.</param>
/// <param name="Chosen">Good enough to be chosen when the user does not name an engine; if not, <paramref name="Detail"/> says why.</param>
/// <param name="Warning">One line for who names the engine all the same: what to expect of it.</param>
public sealed record EngineProbe(bool Available, string Detail, bool Hardware = false, bool Chosen = true, string? Warning = null);

/// <summary>A technique for running guests, as the user selects it with <c>--engine</c>. Stateless and thread-safe.</summary>
public interface IEngine
{
    /// <summary>The word on the command line.</summary>
    string Name { get; }

    /// <summary>Instructions and exceptions that <see cref="ExecutionControls"/> can make exit. An engine refuses other controls with <see cref="NotSupportedException"/>.</summary>
    ExecutionControls Intercepts => new((InterceptedInstructions)uint.MaxValue, uint.MaxValue, true, true);

    /// <summary>
    /// Page tables of the host translate for guests. Their RAM is private memory then, whose huge pages the host gives without being asked page by page;
    /// software that asks at its own TLB's fills has more use of memory that can be seen at two addresses.
    /// </summary>
    bool UsesHostPaging => false;

    /// <summary>How many vCPUs one VM can have at most.</summary>
    int MaxCpus => 1;

    /// <summary>Looks at the host; never throws.</summary>
    EngineProbe Probe();

    /// <summary>The engine's part of one VM over <paramref name="memory"/>, which outlives it.</summary>
    IEngineVm CreateVm(GuestMemory memory, CpuModel model, VirtualClock clock);
}

/// <summary>The engine's part of one VM.</summary>
public interface IEngineVm : IDisposable
{
    /// <summary>The CPU model that guests really get, when the host cannot give all of the wanted one; null when it is the wanted one.</summary>
    CpuModel? NarrowedModel => null;

    /// <summary>
    /// Asks the engine to hold the local APICs of this VM itself. Before the first vCPU. Null when it cannot: then they are the board's, as without asking.
    /// </summary>
    IEngineApics? HoldLocalApics() => null;

    /// <summary>Ways around exits; null when the engine has none.</summary>
    IEngineShortcuts? Shortcuts => null;

    /// <summary>The log of pages that guests write to; null when the engine keeps none.</summary>
    IDirtyPageLog? DirtyPages => null;

    /// <summary>vCPUs obey <see cref="GuestMemory.Rights"/>.</summary>
    bool HonoursPageRights => false;

    /// <summary>Virtual time stopped, no vCPU runs: clocks and timers that the engine keeps for the guest stand still until <see cref="ResumeTime"/>.</summary>
    void SuspendTime()
    {
    }

    /// <summary>Virtual time goes on. Before any vCPU runs.</summary>
    void ResumeTime()
    {
    }

    /// <summary>Creates vCPU number <paramref name="index"/>; each index once.</summary>
    IVirtualCpu CreateCpu(int index);

    /// <summary>
    /// The A20M# pin of all vCPUs: while <paramref name="pass"/> is false, bit 20 of every physical address is zero (Intel SDM vol. 3B, "8086 Emulation", on address wraparound). Any thread; a vCPU
    /// sees it at its next entry at the latest. False: the engine has no such pin and addresses keep their bit.
    /// </summary>
    bool SetA20(bool pass) => pass;
}
