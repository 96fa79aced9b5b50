using Bunraku.Engines;
using Bunraku.Hypervisor;

namespace Bunraku.Machine;

/// <summary>
/// QEMU's isa-debug-exit (hw/misc/debugexit.c) at its customary place: a write of any width to its ports, F4h to F7h, ends the VM with process status
/// value × 2 + 1. Reads give 0. With its lock held.
/// </summary>
/// <param name="stop">Ends the VM (<see cref="VirtualMachine.Stop"/>).</param>
internal sealed class DebugExit(Action<StopCause> stop) : IPortDevice, IDevice, IStateful<NoState>
{
    public const ushort FirstPort = 0xF4;
    public const int Ports = 4;
    public const string Name = "debugexit";

    /// <inheritdoc/>
    public string Id { get; init; } = Name;

    /// <inheritdoc/>
    public void Reset()
    {
    }

    NoState IStateful<NoState>.Save() => new();

    void IStateful<NoState>.Restore(NoState state)
    {
    }

    public void AttachTo(PortBus ports, ushort firstPort = FirstPort, int count = Ports) => ports.Add(firstPort, count, this);

    public uint ReadPort(ushort offset, int size) => 0;

    public void WritePort(ushort offset, int size, uint value) =>
        stop(new StopCause(StopReason.DebugExit, unchecked((int)(value << 1 | 1))));
}
