using Bunraku.Engines;
using Bunraku.Hypervisor;

namespace Bunraku.Machine.Interrupts;

/// <summary>
/// Carries messages between the interrupt controllers of one machine: I/O APICs, devices with MSI and the local APICs themselves. Also finds the
/// local APIC of a vCPU for accesses to IA32_APIC_BASE, IA32_TSC_DEADLINE and the x2APIC registers. With <see cref="VirtualMachine.InterruptLock"/> held.
/// </summary>
/// <param name="engine">Local APICs that the engine holds; null: they are ours.</param>
internal sealed partial class ApicBus(IEngineApics? engine = null) : IMsrDevice, IDevice, IStateful<ApicBusState>
{
    private LocalApic[] _localApics = [];
    private IoApic[] _ioApics = [];
    private int _lastLowestPriority;

    /// <summary>All local APICs, by vCPU number.</summary>
    public IReadOnlyList<LocalApic> LocalApics => _localApics;

    /// <inheritdoc/>
    public string Id => "apicbus";

    /// <inheritdoc/>
    public void Reset() => _lastLowestPriority = 0;

    ApicBusState IStateful<ApicBusState>.Save() => new(_lastLowestPriority);

    void IStateful<ApicBusState>.Restore(ApicBusState state) =>
        _lastLowestPriority = StateCheck.Range(state.LastLowestPriority, 0, Math.Max(_localApics.Length - 1, 0), Id);

    internal void Add(LocalApic apic)
    {
        if (apic.Index != _localApics.Length) throw new InvalidOperationException($"local APIC {apic.Index} is added out of order");
        _localApics = [.. _localApics, apic];
    }

    internal void Add(IoApic apic) => _ioApics = [.. _ioApics, apic];

    /// <summary>Delivers a message. True when a local APIC accepted it.</summary>
    public bool Deliver(in InterruptMessage message)
    {
        // ExtINT from an I/O APIC pin has no way into the engine's; the 8259A reaches them through LINT0.
        if (engine != null) return message.Mode != DeliveryMode.ExtInt && engine.Deliver(message.ToMsi());
        if (message.Mode == DeliveryMode.LowestPriority) return DeliverLowestPriority(message);
        bool accepted = false;
        foreach (LocalApic apic in _localApics)
            if (apic.IsDestination(message)) accepted |= apic.Receive(message);
        return accepted;
    }

    /// <summary>A device's write to FEExxxxxh.</summary>
    public void DeliverMsi(ulong address, uint data) => Deliver(InterruptMessage.FromMsi(address, data));

    /// <summary>What a pin of the first I/O APIC sends while it is level-triggered; else null.</summary>
    internal void SetRoute(IoApic apic, int pin, InterruptMessage? message)
    {
        if (engine != null && _ioApics is [{ } first, ..] && first == apic) engine.SetRoute(pin, message?.ToMsi());
    }

    /// <summary>Sends to all local APICs but <paramref name="except"/> (null: to all).</summary>
    internal void DeliverToAll(in InterruptMessage message, LocalApic? except)
    {
        foreach (LocalApic apic in _localApics)
            if (apic != except) apic.Receive(message);
    }

    /// <summary>Tells the I/O APICs that a level-triggered interrupt was serviced.</summary>
    public void BroadcastEoi(byte vector)
    {
        foreach (IoApic apic in _ioApics) apic.EndOfInterrupt(vector);
    }

    /// <summary>A local APIC accepts interrupts again: level-triggered ones that nobody took are sent once more.</summary>
    internal void RetryPending()
    {
        foreach (IoApic apic in _ioApics) apic.ServiceAll();
    }

    /// <summary>The destination with the lowest processor priority takes it; among equals the turn goes round.</summary>
    private bool DeliverLowestPriority(in InterruptMessage message)
    {
        LocalApic? best = null;
        for (int n = 1; n <= _localApics.Length; n++)
        {
            LocalApic apic = _localApics[(_lastLowestPriority + n) % _localApics.Length];
            if (apic.IsDestination(message) && apic.AcceptsInterrupts && (best == null || apic.ProcessorPriority < best.ProcessorPriority)) best = apic;
        }
        if (best == null) return false;
        _lastLowestPriority = best.Index;
        return best.Receive(message);
    }

    public bool TryReadMsr(int cpu, uint index, out ulong value)
    {
        value = 0;
        return (uint)cpu < (uint)_localApics.Length && _localApics[cpu].TryReadMsr(index, out value);
    }

    public bool TryWriteMsr(int cpu, uint index, ulong value) => (uint)cpu < (uint)_localApics.Length && _localApics[cpu].TryWriteMsr(index, value);
}

/// <summary>State of an <see cref="ApicBus"/>: who took the last lowest-priority interrupt.</summary>
[StateRecord("apicbus", version: 1)]
internal sealed record ApicBusState(int LastLowestPriority);
