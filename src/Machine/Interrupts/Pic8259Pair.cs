using Bunraku.Engines;
using Bunraku.Hypervisor;

namespace Bunraku.Machine.Interrupts;

/// <summary>
/// The PC's two 8259As: the slave's INT is the master's IR2. Ports 20h/21h, A0h/A1h, and the edge/level control registers 4D0h/4D1h.
/// With <see cref="VirtualMachine.InterruptLock"/> held.
/// </summary>
internal sealed class Pic8259Pair : IDevice, IStateful<PicState>
{
    public const int Inputs = 16;
    public const ushort MasterPort = 0x20, SlavePort = 0xA0, EdgeLevelPort = 0x4D0;
    private const int CascadeInput = 2;
    // PIIX data sheet, ELCR1/ELCR2: IRQ 0, 1, 2, 8 and 13 are always edge-triggered.
    private const byte MasterLevelCapable = 0xF8, SlaveLevelCapable = 0xDE;

    private readonly IInterruptLine _intr;
    private readonly Pic8259 _master, _slave;
    private readonly IInterruptLine[] _lines;

    /// <param name="intr">The INTR wire to the processor (or to LINT0 of its local APIC).</param>
    public Pic8259Pair(IInterruptLine intr)
    {
        _intr = intr;
        _master = new Pic8259(MasterLevelCapable, () => _intr.Set(_master!.Output));
        _slave = new Pic8259(SlaveLevelCapable, () => _master.SetLine(CascadeInput, _slave!.Output));
        _lines = [.. Enumerable.Range(0, Inputs).Select(n => (IInterruptLine)new Input(this, n))];
    }

    /// <inheritdoc/>
    public string Id => "pic";

    /// <inheritdoc/>
    public void Reset()
    {
        _slave.Reset();
        _master.Reset();
    }

    PicState IStateful<PicState>.Save() => new(_master.Save(), _slave.Save());

    void IStateful<PicState>.Restore(PicState state)
    {
        _master.Restore(state.Master, Id);
        _slave.Restore(state.Slave, Id);
    }

    /// <summary>INTR is asserted.</summary>
    public bool Output => _master.Output;

    /// <summary>The wire of an ISA interrupt, 0 to 15. Number 2 is the cascade: it leads nowhere.</summary>
    public IInterruptLine Line(int irq) => _lines[irq];

    /// <summary>The level of a wire. Needs no lock where only the caller moves it.</summary>
    public bool IsAsserted(int irq) => irq >= 8 ? _slave.IsAsserted(irq - 8) : _master.IsAsserted(irq);

    /// <param name="lock">Held for the registers; null: the device is alone.</param>
    public void AttachTo(PortBus ports, DeviceLock? @lock = null)
    {
        @lock ??= new DeviceLock("8259A");
        ports.Add(MasterPort, 2, new ByteRegisters(_master.Read, _master.Write), @lock);
        ports.Add(SlavePort, 2, new ByteRegisters(_slave.Read, _slave.Write), @lock);
        ports.Add(EdgeLevelPort, 2, new ByteRegisters(n => Chip(n).EdgeLevelControl, (n, value) => Chip(n).EdgeLevelControl = value), @lock);
    }

    /// <summary>
    /// The processor's two INTA cycles. The vector; with nothing pending any more that of the master's (IRQ 7) or the slave's (IRQ 15) input 7, as the chips
    /// do.
    /// </summary>
    public byte Acknowledge()
    {
        int input = _master.Acknowledge(out bool spurious);
        byte vector;
        if (spurious || (_master.Slaves & (1 << input)) == 0) vector = _master.Vector(input);
        else if (input != CascadeInput || _slave.SlaveId != input) vector = 0xFF; // nobody drives the data bus
        else
        {
            vector = _slave.Vector(_slave.Acknowledge(out _));
            // The slave's INT falls during INTA and rises again for what is left; the master needs that edge.
            _master.SetLine(CascadeInput, false);
            _master.SetLine(CascadeInput, _slave.Output);
        }
        _intr.Set(_master.Output);
        return vector;
    }

    private Pic8259 Chip(int n) => n == 0 ? _master : _slave;

    private sealed class Input(Pic8259Pair owner, int irq) : IInterruptLine
    {
        public void Set(bool asserted)
        {
            if (irq >= 8) owner._slave.SetLine(irq - 8, asserted);
            else if (irq != CascadeInput) owner._master.SetLine(irq, asserted);
        }
    }
}

/// <summary>State of a <see cref="Pic8259Pair"/>.</summary>
[StateRecord("pic8259", version: 1)]
internal sealed record PicState(PicChipState Master, PicChipState Slave);
