namespace Bunraku.Engines.X86;

/// <summary>
/// A place in the history of a vCPU. Retired instructions alone do not name it: an instruction that faults retires nothing, and execution goes on in its handler.
/// </summary>
/// <param name="Retired">Instructions retired, <see cref="EngineCounters.InstructionsRetired"/>.</param>
/// <param name="Exceptions">Exceptions delivered, <see cref="EngineCounters.ExceptionsDelivered"/>.</param>
public readonly record struct Place(ulong Retired, ulong Exceptions)
{
    public static Place Of(IVirtualCpu cpu)
    {
        EngineCounters counters = cpu.Counters;
        return new Place(counters.InstructionsRetired, counters.ExceptionsDelivered);
    }
}

/// <summary>A vCPU that can be run to an exact place, so that it follows another one that has been there.</summary>
public interface IFollowingCpu : IVirtualCpu
{
    /// <summary>Like <see cref="IVirtualCpu.Enter"/>, but ends with <see cref="ExitReason.Kicked"/> at the first look at its dispatcher after <paramref name="retired"/> instructions, counted from power-on. It looks as often as it can.</summary>
    VmExit EnterUntil(ulong retired);

    /// <summary>
    /// Like <see cref="IVirtualCpu.Enter"/>, but ends with <see cref="ExitReason.Kicked"/> at <paramref name="place"/>, where debug traps that were due have been delivered. Exits before it are
    /// returned as they come, except that posted MMIO writes wait until then: another engine may have ended its block later. Kicks and windows are not looked at.
    /// </summary>
    /// <param name="beyond">
    /// Do not stop at the place: what comes there, before an instruction retires or an exception is delivered, is an exit. When there is none,
    /// <see cref="ExitReason.Kicked"/> is returned with the vCPU past the place.
    /// </param>
    VmExit FollowTo(Place place, bool beyond);

    /// <summary>
    /// Executes iterations of the repeated string instruction at RIP until its counter (CX, ECX or RCX) is that part of <paramref name="rcx"/>, as if interrupted there; the instruction does not retire.
    /// False when there is no such instruction, fewer iterations are left, or it came to something else; the state is then of no use for a comparison any more.
    /// </summary>
    bool IterateUntil(ulong rcx);

    /// <summary>If the processor holds an NMI and the guest can take it now, the next entry delivers it: true then.</summary>
    bool TakeHeldNmi();

    /// <summary>
    /// Calls <paramref name="beforeWrite"/> with a page's offset in the backing memory before the vCPU writes to the page for the first time, and at times although it does not; page walks that
    /// set flags count. Null ends it. On the vCPU's thread.
    /// </summary>
    void WatchWrites(Action<ulong>? beforeWrite);

    /// <summary>Every page counts as not written to again.</summary>
    void WatchAnew();
}
