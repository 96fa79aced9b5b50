using Bunraku.Engines;
using Bunraku.Hypervisor;

namespace Bunraku.Machine;

/// <summary>
/// The debug console of Bochs and QEMU at port E9h: it takes bytes and reads as E9h, by which firmware finds it. With its lock held.
/// </summary>
/// <param name="output">Receives the bytes, one a call, with its lock held: it must not wait for anything.</param>
internal sealed class DebugConsole(Action<ReadOnlySpan<byte>> output) : IDevice, IStateful<NoState>
{
    public const ushort Port = 0xE9;
    /// <summary>Where SeaBIOS and OVMF look for one for their log.</summary>
    public const ushort FirmwarePort = 0x402;

    /// <inheritdoc/>
    public string Id { get; init; } = "debugcon";

    /// <inheritdoc/>
    public void Reset()
    {
    }

    NoState IStateful<NoState>.Save() => new();

    void IStateful<NoState>.Restore(NoState state)
    {
    }

    public void AttachTo(PortBus ports, ushort port = Port) => ports.Add(port, 1, new ByteRegisters(_ => (byte)Port, (_, value) => output([value])));
}
