namespace Bunraku.Engines.X86;

/// <summary>An engine for x86 guests. Stateless and thread-safe.</summary>
public interface IX86Engine : IEngine
{
    /// <summary>
    /// Instructions and exceptions that <see cref="ExecutionControls"/> can make exit. An engine refuses other controls with
    /// <see cref="NotSupportedException"/>.
    /// </summary>
    ExecutionControls Intercepts => new((InterceptedInstructions)uint.MaxValue, uint.MaxValue, true, true);

    /// <summary>Makes the engine's part of one VM.</summary>
    /// <param name="memory">Outlives the VM.</param>
    /// <param name="model">The processor that the guest is to see.</param>
    /// <param name="clock">Virtual time; the guest's TSC derives from it.</param>
    /// <exception cref="EngineException">The engine cannot run on this host, or not this model; the message says why.</exception>
    IX86Vm CreateVm(GuestMemory memory, CpuModel model, VirtualClock clock);
}

/// <summary>The engine's part of one x86 VM.</summary>
public interface IX86Vm : IEngineVm
{
    /// <summary>The CPU model that guests really get, when the host cannot give all of the wanted one; null when it is the wanted one.</summary>
    CpuModel? NarrowedModel => null;

    /// <summary>
    /// Asks the engine to hold the local APICs of this VM itself. Before the first vCPU. Null when it cannot: then they are the board's, as without asking.
    /// </summary>
    IEngineApics? HoldLocalApics() => null;

    /// <summary>Ways around exits; null when the engine has none.</summary>
    IEngineShortcuts? Shortcuts => null;

    /// <inheritdoc cref="IEngineVm.CreateCpu"/>
    new IX86Cpu CreateCpu(int index);

    IVirtualCpu IEngineVm.CreateCpu(int index) => CreateCpu(index);

    /// <summary>
    /// The A20M# pin of all vCPUs: while <paramref name="pass"/> is false, bit 20 of every physical address is zero (Intel SDM vol. 3B, "8086 Emulation", on
    /// address wraparound). Any thread; a vCPU sees it at its next entry at the latest.
    /// </summary>
    /// <param name="pass">Bit 20 is as software made it.</param>
    /// <returns>False: the engine has no such pin and addresses keep their bit.</returns>
    bool SetA20(bool pass) => pass;
}
