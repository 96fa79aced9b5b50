namespace Bunraku.Engines;

/// <summary>
/// A virtual processor of any architecture: runs guest code until something needs the hypervisor. All members but <see cref="Kick"/> are for the one thread
/// that runs the vCPU. Its state is a record that only its architecture understands (<see cref="IStateful"/>); it may be saved and restored between exits.
/// </summary>
public interface IVirtualCpu : IStateful, IDisposable
{
    /// <summary>0-based number of the vCPU in its VM.</summary>
    int Index { get; }

    /// <inheritdoc/>
    string IStateful.Id => $"cpu{Index}";

    /// <summary>Completes the previous exit and runs the guest until the next one. The returned object is used again by the next call.</summary>
    VmExit Enter();

    /// <summary>
    /// Makes the running or next <see cref="Enter"/> return soon with <see cref="ExitKind.Kicked"/>. Any thread, never blocks. Several kicks may become one
    /// exit; none is lost. After disposal it does nothing: whoever wakes a vCPU need not know that the VM has ended.
    /// </summary>
    void Kick();

    /// <summary>
    /// What the vCPU does between events. A halt makes it <see cref="CpuActivity.Halted"/> before it exits, <see cref="Enter"/> makes it
    /// <see cref="CpuActivity.Active"/>; the hypervisor sets it for
    /// the rest. From other threads approximate. An engine that keeps it to itself says always active here.
    /// </summary>
    CpuActivity Activity { get; set; }

    /// <summary>The state after power-on. Between exits.</summary>
    void Reset();

    /// <summary>Counters of this vCPU, which only grow. Any thread; from others than the vCPU's they are approximate.</summary>
    EngineCounters Counters { get; }

    /// <summary>What the vCPU's thread does at this moment; null: the engine does not know. Any thread.</summary>
    CpuWork? Work => null;

    /// <summary>Caches and further counts; null: the engine has none. Any thread; from others than the vCPU's they are approximate.</summary>
    ExecutionReport? Execution => null;

    /// <summary>
    /// What processes of the host that run guest code for this vCPU got of the host's processors so far, and how long they were ready to run and waited for
    /// one, in nanoseconds. What the vCPU's own thread waits while it and they take turns is taken off, so that the second may be below 0. Any thread, also
    /// after disposal.
    /// </summary>
    (long Run, long Wait) HelperTime => default;

    /// <summary>
    /// What exits for a debugger, from the next <see cref="Enter"/> on; resets and restored states leave it as it is. Between exits. Where nothing is asked
    /// for, nothing costs anything.
    /// </summary>
    /// <param name="controls">Null: there is no debugger.</param>
    /// <exception cref="NotSupportedException">The engine cannot (<see cref="IEngine.WhyNoDebugger"/>).</exception>
    void SetDebugControls(DebugControls? controls) => throw new NotSupportedException("the engine's vCPUs cannot be debugged");

    /// <summary>From now on somebody is told where host code lies that is made for this vCPU; what there is already is told at once. Before it runs.</summary>
    /// <param name="observer">Lives longer than the vCPU.</param>
    /// <returns>False: the engine makes none.</returns>
    bool ObserveCode(IHostCodeObserver observer) => false;

    /// <summary>
    /// From now on somebody is told, once and on the vCPU's thread, that the guest would run faster if its memory were shared, so that a page can be seen at a
    /// second address. Before it runs.
    /// </summary>
    void ObserveMemoryWish(Action wish)
    {
    }
}

/// <summary>What a vCPU does between events.</summary>
public enum CpuActivity
{
    /// <summary>It executes instructions.</summary>
    Active,
    /// <summary>It waits for an event (x86: HLT; Arm: WFI).</summary>
    Halted,
    /// <summary>Only a reset ends this (x86: shutdown after a triple fault).</summary>
    Shutdown,
    /// <summary>It waits for another processor to start it (x86: wait-for-SIPI; Arm: off until CPU_ON).</summary>
    WaitForStartUp,
}

/// <summary>What an engine counts about one vCPU, since power-on. What an engine cannot count is 0.</summary>
/// <param name="InstructionsRetired">Instructions that have come to their end.</param>
/// <param name="BlocksDecoded">Pieces of code that were decoded.</param>
/// <param name="BlocksInvalidated">Decoded pieces that were given up because somebody wrote to their code.</param>
/// <param name="TlbMisses">Translations that the TLB did not have.</param>
/// <param name="TlbFlushes">How often translations were given up.</param>
/// <param name="ExceptionsDelivered">Exceptions that the guest got.</param>
/// <param name="InterruptsDelivered">External interrupts and NMIs that the guest got.</param>
/// <param name="FirstUserTimestamp"><see cref="System.Diagnostics.Stopwatch.GetTimestamp"/> when the vCPU entered the lowest privilege level for the first
/// time; 0 before.</param>
/// <param name="BlocksTranslated">Pieces of code that were translated to the host's.</param>
/// <param name="CodeFlushes">How often all decoded and translated code was given up.</param>
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
