using Bunraku.Engines;
using Bunraku.Hypervisor;

namespace Bunraku.Machine;

/// <summary>
/// The DMA page registers at ports 80h to 8Fh, plain storage without a DMA controller. The first of them is the POST code port, which guests also
/// write for a delay. With its lock held.
/// </summary>
internal sealed class PostCode : IDevice, IStateful<PostCodeState>
{
    /// <summary>The port of the code itself, which software also writes to pass a microsecond.</summary>
    public const ushort Port = 0x80;

    private readonly byte[] _registers = new byte[16];

    /// <summary>The last byte written to port 80h.</summary>
    public byte Last => _registers[0];

    /// <inheritdoc/>
    public string Id => "postcode";

    /// <inheritdoc/>
    public void Reset() => Array.Clear(_registers);

    PostCodeState IStateful<PostCodeState>.Save() => new([.. _registers]);

    void IStateful<PostCodeState>.Restore(PostCodeState state) => StateCheck.Length(state.Registers, _registers.Length, Id).CopyTo(_registers, 0);

    public void AttachTo(PortBus ports)
    {
        ports.Add(Port, _registers.Length, new ByteRegisters(n => _registers[n], (n, value) => _registers[n] = value));
    }
}

/// <summary>State of a <see cref="PostCode"/>: its registers.</summary>
[StateRecord("postcode", version: 1)]
internal sealed record PostCodeState(byte[] Registers);
