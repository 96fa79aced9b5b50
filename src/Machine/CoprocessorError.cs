using Bunraku.Engines;
using Bunraku.Hypervisor;

namespace Bunraku.Machine;

/// <summary>
/// Ports F0h and F1h of the AT: a write takes back the interrupt that FERR# of the x87 raised (PIIX data sheet, "Coprocessor Error Register"). With its lock
/// held.
/// </summary>
internal sealed class CoprocessorError(IInterruptLine line) : IPortDevice, IDevice, IStateful<NoState>
{
    public const int Irq = 13;
    private const ushort FirstPort = 0xF0;

    /// <inheritdoc/>
    public string Id => "coprocessor";

    /// <inheritdoc/>
    public void Reset() => line.Set(false);

    NoState IStateful<NoState>.Save() => new();

    void IStateful<NoState>.Restore(NoState state)
    {
    }

    public void AttachTo(PortBus bus) => bus.Add(FirstPort, 2, this);

    public uint ReadPort(ushort offset, int size) => uint.MaxValue;

    public void WritePort(ushort offset, int size, uint value) => line.Set(false);
}
