using Bunraku.Hypervisor;
using Bunraku.Machine.Interrupts;

namespace Bunraku.Machine.Board;

/// <summary>The ISA interrupt wires: each leads to an 8259A input and to the I/O APIC input of the same number, the timer's to input 2.</summary>
public sealed class IsaInterrupts
{
    /// <summary>I/O APIC input of ISA IRQ 0; its own input 0 belongs to the 8259A's output.</summary>
    public const int TimerInput = 2;

    private const int Count = 16, TimerIrq = 0, CascadeIrq = 2;
    private readonly IInterruptLine?[] _lines = new IInterruptLine?[Count];

    public IsaInterrupts(Pic8259Pair pic, IoApic ioApic)
    {
        for (int irq = 0; irq < Count; irq++)
            if (irq != CascadeIrq) _lines[irq] = new Wire(pic.Line(irq), ioApic.GetLine(irq == TimerIrq ? TimerInput : irq));
    }

    /// <summary>The wire of an ISA interrupt, 0 to 15 but 2 (the cascade).</summary>
    public IInterruptLine this[int irq] => _lines[irq] ?? throw new ArgumentOutOfRangeException(nameof(irq), "IRQ 2 is the cascade");

    private sealed class Wire(IInterruptLine pic, IInterruptLine ioApic) : IInterruptLine
    {
        public void Set(bool asserted)
        {
            pic.Set(asserted);
            ioApic.Set(asserted);
        }
    }
}
