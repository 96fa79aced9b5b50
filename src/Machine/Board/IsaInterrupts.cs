using Bunraku.Hypervisor;
using Bunraku.Machine.Interrupts;

namespace Bunraku.Machine.Board;

/// <summary>The ISA interrupt wires: each leads to an 8259A input and to the I/O APIC input of the same number, the timer's to input 2.</summary>
internal sealed class IsaInterrupts
{
    /// <summary>I/O APIC input of ISA IRQ 0; its own input 0 belongs to the 8259A's output.</summary>
    public const int TimerInput = 2;

    private const int Count = 16, TimerIrq = 0, CascadeIrq = 2;
    private readonly IInterruptLine?[] _lines = new IInterruptLine?[Count];

    /// <param name="lock">That of the interrupt controllers. The wires take it.</param>
    public IsaInterrupts(Pic8259Pair pic, IoApic ioApic, DeviceLock @lock)
    {
        for (int irq = 0; irq < Count; irq++)
            if (irq != CascadeIrq) _lines[irq] = new Wire(pic, ioApic, irq, @lock);
    }

    /// <summary>The wire of an ISA interrupt, 0 to 15 but 2 (the cascade).</summary>
    public IInterruptLine this[int irq] => _lines[irq] ?? throw new ArgumentOutOfRangeException(nameof(irq), "IRQ 2 is the cascade");

    private sealed class Wire(Pic8259Pair pic, IoApic ioApic, int irq, DeviceLock @lock) : IInterruptLine
    {
        private readonly int _pin = irq == TimerIrq ? TimerInput : irq;
        private readonly IInterruptLine _pic = pic.Line(irq), _ioApic = ioApic.GetLine(irq == TimerIrq ? TimerInput : irq);

        public void Set(bool asserted)
        {
            // Most accesses to a device do not move its wire, and need not wait for the interrupt controllers.
            if (pic.IsAsserted(irq) == asserted && ioApic.IsSettled(_pin, asserted)) return;
            lock (@lock)
            {
                _pic.Set(asserted);
                _ioApic.Set(asserted);
            }
        }
    }
}
