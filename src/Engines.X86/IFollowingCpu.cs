namespace Bunraku.Engines.X86;

/// <summary>An x86 vCPU that can be run to an exact place, so that it follows another one that has been there.</summary>
public interface IFollowingCpu : IX86Cpu, ISteppedCpu
{
    /// <inheritdoc cref="ISteppedCpu.EnterUntil"/>
    new X86Exit EnterUntil(ulong retired);

    VmExit ISteppedCpu.EnterUntil(ulong retired) => EnterUntil(retired);

    /// <inheritdoc cref="ISteppedCpu.FollowTo"/>
    new X86Exit FollowTo(Place place, bool beyond);

    VmExit ISteppedCpu.FollowTo(Place place, bool beyond) => FollowTo(place, beyond);

    /// <summary>
    /// Executes iterations of the repeated string instruction at RIP until its counter (CX, ECX or RCX) is that part of <paramref name="rcx"/>, as if
    /// interrupted there; the instruction does not retire.
    /// </summary>
    /// <param name="rcx">RCX afterwards.</param>
    /// <returns>False when there is no such instruction, fewer iterations are left, or it came to something else; the state is then of no use for a comparison
    /// any more.</returns>
    bool IterateUntil(ulong rcx);

    /// <summary>If the processor holds an NMI and the guest can take it now, the next entry delivers it: true then.</summary>
    bool TakeHeldNmi();

    /// <summary>
    /// Calls <paramref name="beforeWrite"/> with a page's offset in the backing memory before the vCPU writes to the page for the first time, and at times
    /// although it does not; page walks that set flags count. On the vCPU's thread.
    /// </summary>
    /// <param name="beforeWrite">Null ends it.</param>
    void WatchWrites(Action<ulong>? beforeWrite);

    /// <summary>Every page counts as not written to again.</summary>
    void WatchAnew();
}
