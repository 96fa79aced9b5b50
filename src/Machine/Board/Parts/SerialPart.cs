using Bunraku.Hypervisor;
using Bunraku.Machine.Serial;

namespace Bunraku.Machine.Board.Parts;

/// <summary>COM1 or COM2.</summary>
/// <param name="number">1 or 2.</param>
/// <param name="output">Receives what the guest transmits, with the port's lock held: it must not wait for anything.</param>
public sealed class SerialPart(int number, Action<ReadOnlySpan<byte>> output) : IBoardPart
{
    private readonly (ushort Port, int Irq) _place = number switch
    {
        1 => (Uart16550A.Com1, 4),
        2 => (Uart16550A.Com2, 3),
        _ => throw new ArgumentOutOfRangeException(nameof(number), number, "serial ports are 1 and 2"),
    };

    /// <summary>The port, once the part is attached.</summary>
    public Uart16550A Port { get; private set; } = null!;

    /// <inheritdoc/>
    public void AttachTo(IBoard board)
    {
        var @lock = new DeviceLock($"COM{number}");
        Port = new Uart16550A(board.IsaInterrupt(_place.Irq), output, board.CreateTime(@lock), @lock) { Id = $"com{number}", SetUpByFirmware = true };
        Port.AttachTo(board.Machine.Ports, _place.Port);
        board.Machine.Add(Port, @lock);
        Describe(board.Acpi);
    }

    internal void Describe(Acpi.AcpiDescription acpi) =>
        acpi.AddIsaDevice($"COM{number}", "PNP0501", r => r.Ports(_place.Port, Uart16550A.Ports).Irq(_place.Irq), uid: (ulong)number);
}
