namespace Bunraku.Engines.X86;

/// <summary>An x86 vCPU. All members except <see cref="IVirtualCpu.Kick"/> are for the one thread that runs it.</summary>
public interface IX86Cpu : IVirtualCpu, IStateful<CpuState>
{
    /// <inheritdoc cref="IVirtualCpu.Enter"/>
    new X86Exit Enter();

    VmExit IVirtualCpu.Enter() => Enter();

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
    /// An external interrupt waits that the next entry can take. The software processor acknowledges it when it takes it, at the beginning of that
    /// <see cref="Enter"/>: until then it stays
    /// where it is, and may go away or be overtaken. An engine whose processor must be told the vector acknowledges at once. Requires
    /// <see cref="InterruptWindowOpen"/>. An offer is
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
    /// INIT has come, between exits. Of a guest inside the guest it is its hypervisor's affair. While it is blocked the vCPU exits with
    /// <see cref="ExitReason.Kicked"/> when that ends, and is to be asked again.
    /// </summary>
    InitResponse TakeInit() => InitResponse.Initialize;

    /// <summary>A start-up IPI has come for a processor that waits for it.</summary>
    /// <returns>True: a guest inside the guest waits, and the IPI is its hypervisor's affair.</returns>
    bool TakeStartUp(byte vector) => false;

    /// <summary>
    /// Tells what CR8 is, before each entry: the task priority belongs to the local APIC, which has other doors to it. Engines that exit on every access to
    /// CR8 need not know.
    /// </summary>
    void SetTaskPriority(ulong cr8)
    {
    }

    /// <summary>
    /// The guest's TSC minus <see cref="VirtualClock.Counter"/>, modulo 2^64. The vCPU exits soon after the guest has changed it. 0 where guests read a counter
    /// that is not the clock's.
    /// </summary>
    ulong TscOffset => 0;

    /// <summary>Forgets all translations of linear addresses before the next entry. Nothing to do for engines of whose vCPUs nobody else does this.</summary>
    void FlushTlb()
    {
    }

    /// <summary>Delivers an exception at the next entry.</summary>
    void InjectException(byte vector, uint? errorCode);

    /// <summary>From now on somebody is told of guests inside the guest. Before the vCPU runs.</summary>
    /// <param name="observer">Lives longer than the vCPU.</param>
    /// <returns>False: the vCPU has no hardware for them, or the engine does not see it.</returns>
    bool ObserveNested(INestedObserver observer) => false;

    /// <summary>What the TLB holds, in no order; null: the engine cannot tell. Between exits.</summary>
    IReadOnlyList<TlbMapping>? ReadTlb() => null;

    /// <summary>What shadows of the guest's page tables hold, one for each address space that has one; null: the engine has none. Between exits.</summary>
    IReadOnlyList<ShadowTable>? ReadShadows() => null;

    /// <summary>
    /// Copies the architectural state out, complete. Allowed between exits; an answer that the last exit waits for must have been given. An instruction that
    /// has such an answer is half done (<see cref="CpuState.HalfDone"/>, <see cref="CpuState.MmioValues"/>). An engine that cannot tell what it has of those,
    /// KVM, leaves them out: who moves a guest away from it kicks and enters until <see cref="ExitReason.Kicked"/> before.
    /// </summary>
    void ReadState(CpuState state);

    /// <summary>Replaces the architectural state, a half-done instruction included. Allowed between exits.</summary>
    /// <exception cref="StateFormatException">The engine cannot continue a half-done instruction, and there is one.</exception>
    void WriteState(CpuState state);

    /// <inheritdoc/>
    CpuState IStateful<CpuState>.Save()
    {
        var state = new CpuState();
        ReadState(state);
        return state;
    }

    /// <inheritdoc/>
    void IStateful<CpuState>.Restore(CpuState state)
    {
        state.Check(Id);
        WriteState(state);
    }
}

/// <summary>Where a processor acknowledges an external interrupt that it takes.</summary>
public interface IInterruptAcknowledge
{
    /// <summary>The interrupt goes into service. On the vCPU's thread, which holds no lock of an engine; it may take the interrupt controllers' lock.</summary>
    /// <param name="more">Another one waits: the vCPU exits with <see cref="ExitReason.InterruptWindow"/> as soon as it could take it.</param>
    /// <returns>Its vector; null when it went away.</returns>
    byte? Acknowledge(out bool more);

    /// <summary>The processor itself writes to the EOI register: the interrupt in service is dealt with. On the vCPU's thread, as above.</summary>
    /// <param name="more">As above.</param>
    void EndOfInterrupt(out bool more);
}

/// <summary>What becomes of an INIT.</summary>
public enum InitResponse
{
    /// <summary>The processor is to be initialized.</summary>
    Initialize,
    /// <summary>A hypervisor inside the guest has it.</summary>
    Taken,
    /// <summary>It waits.</summary>
    Blocked,
}
