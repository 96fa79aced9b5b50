namespace Bunraku.Engines;

/// <summary>
/// A place in the history of a vCPU. Retired instructions alone do not name it: an instruction that faults retires nothing, and execution goes on in its
/// handler.
/// </summary>
/// <param name="Retired">Instructions retired, <see cref="EngineCounters.InstructionsRetired"/>.</param>
/// <param name="Exceptions">Exceptions delivered, <see cref="EngineCounters.ExceptionsDelivered"/>.</param>
public readonly record struct Place(ulong Retired, ulong Exceptions)
{
    /// <summary>Where a vCPU is. On its thread.</summary>
    /// <param name="cpu">Between two exits.</param>
    public static Place Of(IVirtualCpu cpu)
    {
        EngineCounters counters = cpu.Counters;
        return new Place(counters.InstructionsRetired, counters.ExceptionsDelivered);
    }
}

/// <summary>A vCPU that can be run to an exact place: reproducibly, or to where another one has been.</summary>
public interface ISteppedCpu : IVirtualCpu
{
    /// <summary>
    /// Like <see cref="IVirtualCpu.Enter"/>, but ends with <see cref="ExitKind.Kicked"/> at the first look at its dispatcher after <paramref name="retired"/>
    /// instructions. It looks as often as it can.
    /// </summary>
    /// <param name="retired">Counted from power-on.</param>
    VmExit EnterUntil(ulong retired);

    /// <summary>
    /// Like <see cref="IVirtualCpu.Enter"/>, but ends with <see cref="ExitKind.Kicked"/> at <paramref name="place"/>, where traps that were due have been
    /// delivered. Exits before it are returned as they come, except that posted writes to device memory wait until then: another engine may have ended its
    /// block later. Kicks and windows are not looked at.
    /// </summary>
    /// <param name="place">Counted from power-on.</param>
    /// <param name="beyond">
    /// Do not stop at the place: what comes there, before an instruction retires or an exception is delivered, is an exit. When there is none,
    /// <see cref="ExitKind.Kicked"/> is returned with the vCPU past the place.
    /// </param>
    VmExit FollowTo(Place place, bool beyond);
}
