namespace Bunraku.Engines;

/// <summary>What an engine says about running on this host.</summary>
/// <param name="Available">It can run here.</param>
/// <param name="Detail">One line: what it offers, or what is missing and the remedy.</param>
/// <param name="Hardware">Guest code runs directly on hardware virtualization.</param>
/// <param name="Chosen">Good enough to be chosen when the user does not name an engine; if not, <paramref name="Detail"/> says why.</param>
/// <param name="Warning">One line for who names the engine all the same: what to expect of it.</param>
public sealed record EngineProbe(bool Available, string Detail, bool Hardware = false, bool Chosen = true, string? Warning = null);

/// <summary>
/// A technique for running guests, as the user selects it with <c>--engine</c>. Stateless and thread-safe. What it needs to make a VM, a model of the
/// processor, belongs to its architecture.
/// </summary>
public interface IEngine
{
    /// <summary>The word on the command line.</summary>
    string Name { get; }

    /// <summary>
    /// Page tables of the host translate for guests. Their RAM is private memory then, whose huge pages the host gives without being asked page by page;
    /// software that asks at its own TLB's fills has more use of memory that can be seen at two addresses.
    /// </summary>
    bool UsesHostPaging => false;

    /// <summary>
    /// vCPUs ask for each page (<see cref="GuestMemory.PagePointer(ulong)"/>) before its first use, so that its contents can be looked at then
    /// (<see cref="GuestMemory.CheckBeforeUse"/>).
    /// </summary>
    bool AsksForPages => false;

    /// <summary>How many vCPUs one VM can have at most.</summary>
    int MaxCpus => 1;

    /// <summary>Why a debugger cannot stop the engine's vCPUs, in one line; null: it can (<see cref="IVirtualCpu.SetDebugControls"/>).</summary>
    string? WhyNoDebugger => $"the engine '{Name}' cannot be debugged yet";

    /// <summary>Looks at the host; never throws.</summary>
    EngineProbe Probe();
}

/// <summary>The engine's part of one VM.</summary>
public interface IEngineVm : IDisposable
{
    /// <summary>The log of pages that guests write to; null when the engine keeps none.</summary>
    IDirtyPageLog? DirtyPages => null;

    /// <summary>vCPUs obey <see cref="GuestMemory.Rights"/>.</summary>
    bool HonoursPageRights => false;

    /// <summary>Rights may be taken away at any moment while vCPUs run, by any thread, as a log of written pages does.</summary>
    bool LosesRightsAnyTime => HonoursPageRights;

    /// <summary>Virtual time stopped, no vCPU runs: clocks and timers that the engine keeps for the guest stand still until <see cref="ResumeTime"/>.</summary>
    void SuspendTime()
    {
    }

    /// <summary>Virtual time goes on. Before any vCPU runs.</summary>
    void ResumeTime()
    {
    }

    /// <summary>Creates vCPU number <paramref name="index"/>; each index once.</summary>
    /// <param name="index">From 0.</param>
    IVirtualCpu CreateCpu(int index);
}

/// <summary>Says which pages of guest memory were written by vCPUs; writes of devices are in <see cref="GuestMemory.DeviceWrites"/>.</summary>
public interface IDirtyPageLog
{
    /// <summary>Switches the log on or off. While no vCPU runs.</summary>
    /// <param name="on">Off: what was logged is forgotten.</param>
    void Enable(bool on);

    /// <summary>Pages written since the last call, one bit each, the region's first page in bit 0 of the first word. The log must be on. Any thread.</summary>
    /// <param name="region">Number of the region in <see cref="GuestMemory.Regions"/>.</param>
    ulong[] Take(int region);
}
