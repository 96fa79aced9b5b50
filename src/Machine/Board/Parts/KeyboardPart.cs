using Bunraku.Hypervisor;
using Bunraku.Machine.Acpi;
using Bunraku.Machine.Input;

namespace Bunraku.Machine.Board.Parts;

/// <summary>Keyboard controller with keyboard and mouse, and system control port A, which share the A20 gate.</summary>
internal sealed class KeyboardPart : IBoardPart
{
    private const int KeyboardIrq = 1, MouseIrq = 12;

    public I8042 Controller { get; private set; } = null!;

    public void AttachTo(IBoard board)
    {
        var @lock = new DeviceLock("keyboard controller");
        var a20 = new A20Gate(board.Machine.SetA20);
        Controller = new I8042(board.IsaInterrupt(KeyboardIrq), board.IsaInterrupt(MouseIrq), a20, board.Reset, @lock);
        Controller.AttachTo(board.Machine.Ports);
        board.Machine.Add(Controller, @lock);
        var port92 = new Port92(a20, board.Reset);
        port92.AttachTo(board.Machine.Ports, @lock);
        board.Machine.Add(port92, @lock);
        board.Machine.Add(a20, @lock);
        Describe(board.Acpi);
    }

    internal static void Describe(AcpiDescription acpi)
    {
        acpi.AddIsaDevice("KBD", "PNP0303", r => r.Ports(0x60, 1).Ports(0x64, 1).Irq(KeyboardIrq));
        acpi.AddIsaDevice("MOU", "PNP0F13", r => r.Irq(MouseIrq));
        acpi.Reserve(r => r.Ports(Port92.Port, 1));
        acpi.HasKeyboardController = true;
    }
}
