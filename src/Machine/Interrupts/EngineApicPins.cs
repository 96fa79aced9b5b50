using Bunraku.Engines;
using Bunraku.Hypervisor;

namespace Bunraku.Machine.Interrupts;

/// <summary>
/// What is left to the board of a local APIC that the engine holds: its two pins. LINT0 is the 8259A's ExtINT, which the engine takes when the guest's LVT
/// lets it through; LINT1 is NMI. With <see cref="VirtualMachine.InterruptLock"/> held.
/// </summary>
internal sealed class EngineApicPins : IInterruptSource, IDevice, IStateful<EngineApicPinsState>
{
    private readonly Action _wake;
    private readonly Func<byte> _acknowledgePic;
    private readonly Func<LocalApicState> _read;
    private bool _lint0, _lint1, _lint1Rose, _nmiPending;

    /// <param name="index">Number of the vCPU.</param>
    /// <param name="wake">Tells the vCPU that an event came.</param>
    /// <param name="acknowledgePic">The interrupt acknowledge cycle of the 8259A pair: returns the vector.</param>
    /// <param name="read">The local APIC's registers; called on the vCPU's thread.</param>
    public EngineApicPins(int index, Action wake, Func<byte> acknowledgePic, Func<LocalApicState> read)
    {
        Id = $"cpu{index}.pins";
        _read = read;
        _wake = wake;
        _acknowledgePic = acknowledgePic;
        Lint0 = new Pin(SetLint0);
        Lint1 = new Pin(SetLint1);
    }

    /// <inheritdoc/>
    public string Id { get; }

    /// <summary>The APIC itself is the engine's, and reset with its vCPU.</summary>
    public void Reset() => _lint1Rose = _nmiPending = false;

    EngineApicPinsState IStateful<EngineApicPinsState>.Save() => new(_lint0, _lint1, _lint1Rose, _nmiPending);

    void IStateful<EngineApicPinsState>.Restore(EngineApicPinsState state) =>
        (_lint0, _lint1, _lint1Rose, _nmiPending) = (state.Lint0, state.Lint1, state.Lint1Rose, state.NmiPending);

    /// <summary>The INTR output of the 8259A pair.</summary>
    public IInterruptLine Lint0 { get; }

    /// <summary>The machine's NMI.</summary>
    public IInterruptLine Lint1 { get; }

    public bool InterruptPending => _lint0;

    public byte? AcknowledgeInterrupt() => _lint0 ? _acknowledgePic() : null;

    /// <summary>Whether LINT1 leads to an NMI only the vCPU's own thread can see: it looks when it asks here.</summary>
    public bool NmiPending
    {
        get
        {
            if (_lint1Rose)
            {
                _lint1Rose = false;
                _nmiPending |= PassesNmi(_read());
            }
            return _nmiPending;
        }
    }

    /// <remarks>Intel SDM vol. 3A, "Local Vector Table"; with the APIC disabled LINT1 is the processor's NMI pin.</remarks>
    private static bool PassesNmi(LocalApicState apic)
    {
        const ulong enabled = 1 << 11;
        return (apic.Base & enabled) == 0 || new LvtEntry(apic[LocalApicOffset.LvtLint1]) is { Mode: DeliveryMode.Nmi, IsMasked: false };
    }

    public bool TakeNmi()
    {
        bool pending = NmiPending;
        _nmiPending = false;
        return pending;
    }

    /// <summary>The engine holds what comes while an NMI is handled.</summary>
    public void CollapseNmis()
    {
    }

    // INIT and SIPI are the engine's own affair, as is the task priority.
    public bool TakeInit() => false;

    public bool WaitsForStartUp => false;

    public byte? TakeStartUp() => null;

    public ulong Cr8
    {
        get => 0;
        set { }
    }

    private void SetLint0(bool asserted)
    {
        bool edge = asserted && !_lint0;
        _lint0 = asserted;
        if (edge) _wake();
    }

    private void SetLint1(bool asserted)
    {
        bool edge = asserted && !_lint1;
        _lint1 = asserted;
        if (!edge) return;
        _lint1Rose = true;
        _wake();
    }

    private sealed class Pin(Action<bool> set) : IInterruptLine
    {
        public void Set(bool asserted) => set(asserted);
    }
}

/// <summary>State of <see cref="EngineApicPins"/>.</summary>
[StateRecord("lapic.pins", version: 1)]
internal sealed record EngineApicPinsState(bool Lint0, bool Lint1, bool Lint1Rose, bool NmiPending);
