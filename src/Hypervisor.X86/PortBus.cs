namespace Bunraku.Hypervisor.X86;

/// <summary>
/// The 64 Ki I/O ports. Nothing there reads as all ones; writes to nothing are lost. Thread-safe: look-ups take no lock, and ranges come, move and go
/// while the guest runs. An access holds the device's lock.
/// </summary>
public sealed class PortBus
{
    private const ulong LastPort = 0xFFFF;

    private readonly AddressMap<IPortDevice> _map = new(LastPort, null);

    /// <summary>Puts a device at ports [<paramref name="first"/>, +<paramref name="count"/>).</summary>
    /// <param name="lock">Held for each access; null: the device's lock if it is on the bus already, or one of its own.</param>
    /// <param name="priority">Where ranges overlap the highest answers, among equals the first that was added.</param>
    public IBusMapping Add(ushort first, int count, IPortDevice device, DeviceLock? @lock = null, int priority = 0)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(count);
        return _map.Add(first, (ulong)count, device, @lock, priority);
    }

    /// <summary>Two devices of equal priority at one port, in words; null: there are none.</summary>
    public string? FindConflict() =>
        _map.FindConflict() is { } c ? $"port {c.Address:X4} of {c.Hidden.GetType().Name} is taken by {c.Answers.GetType().Name}" : null;

    /// <summary>Reads 1, 2 or 4 bytes. An access that runs beyond its device's ports is split into bytes, as ISA does.</summary>
    public uint Read(ushort port, int size)
    {
        while (_map.Find(port, out ulong last) is { } found && last - port >= (ulong)(size - 1))
        {
            lock (found.Lock)
            {
                if (!found.Gone) return found.Device.ReadPort((ushort)(port - found.First), size) & Mask(size);
            }
        }
        if (size == 1) return 0xFF;
        uint value = 0;
        for (int n = 0; n < size; n++) value |= Read((ushort)(port + n), 1) << (8 * n);
        return value;
    }

    /// <inheritdoc cref="Read"/>
    public void Write(ushort port, int size, uint value)
    {
        while (_map.Find(port, out ulong last) is { } found && last - port >= (ulong)(size - 1))
        {
            lock (found.Lock)
            {
                if (found.Gone) continue;
                found.Device.WritePort((ushort)(port - found.First), size, value & Mask(size));
                return;
            }
        }
        if (size == 1) return;
        for (int n = 0; n < size; n++) Write((ushort)(port + n), 1, value >> (8 * n));
    }

    private static uint Mask(int size) => size == 4 ? uint.MaxValue : (1u << (8 * size)) - 1;
}
