using Bunraku.Engines;
using Bunraku.Hypervisor;

namespace Bunraku.Machine;

/// <summary>System control port A of the PS/2: bit 0 resets the processor when it goes from 0 to 1, bit 1 is the fast A20 gate. With its lock held.</summary>
/// <param name="reset">The guest resets the machine.</param>
internal sealed class Port92(A20Gate a20, Action reset) : IDevice, IStateful<Port92State>
{
    public const ushort Port = 0x92;
    private const byte FastReset = 1 << 0, FastA20 = 1 << 1;
    private byte _value;

    /// <inheritdoc/>
    public string Id => "port92";

    /// <inheritdoc/>
    public void Reset() => _value = 0;

    Port92State IStateful<Port92State>.Save() => new(_value);

    void IStateful<Port92State>.Restore(Port92State state) => _value = state.Value;

    /// <param name="lock">Held for the register; whoever else uses the A20 gate has the same.</param>
    public void AttachTo(PortBus ports, DeviceLock? @lock = null) => ports.Add(Port, 1, new ByteRegisters(_ => _value, (_, value) => Write(value)), @lock);

    private void Write(byte value)
    {
        bool pulse = (value & ~_value & FastReset) != 0;
        _value = (byte)(value & (FastReset | FastA20));
        a20.SetPort92((value & FastA20) != 0);
        if (pulse) reset();
    }
}

/// <summary>State of a <see cref="Port92"/>: its register.</summary>
[StateRecord("port92", version: 1)]
internal sealed record Port92State(byte Value);
