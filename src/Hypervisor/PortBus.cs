namespace Bunraku.Hypervisor;

/// <summary>The 64 Ki I/O ports. Nothing there reads as all ones; writes to nothing are lost. Registration happens before the guest runs.</summary>
public sealed class PortBus
{
    private readonly (IPortDevice Device, ushort Base)?[] _ports = new (IPortDevice, ushort)?[0x10000];

    /// <summary>Puts a device at ports [<paramref name="first"/>, +<paramref name="count"/>).</summary>
    /// <exception cref="InvalidOperationException">A port is taken.</exception>
    public void Add(ushort first, int count, IPortDevice device)
    {
        for (int port = first; port < first + count; port++)
        {
            if (_ports[port] is { } other) throw new InvalidOperationException($"port {port:X4} of {device.GetType().Name} is taken by {other.Device.GetType().Name}");
            _ports[port] = (device, first);
        }
    }

    /// <summary>Reads 1, 2 or 4 bytes. An access that runs beyond its device's ports is split into bytes, as ISA does.</summary>
    public uint Read(ushort port, int size)
    {
        if (_ports[port] is { } p && Whole(port, size, p.Device)) return p.Device.ReadPort((ushort)(port - p.Base), size) & Mask(size);
        if (size == 1) return 0xFF;
        uint value = 0;
        for (int n = 0; n < size; n++) value |= Read((ushort)(port + n), 1) << (8 * n);
        return value;
    }

    /// <inheritdoc cref="Read"/>
    public void Write(ushort port, int size, uint value)
    {
        if (_ports[port] is { } p && Whole(port, size, p.Device))
        {
            p.Device.WritePort((ushort)(port - p.Base), size, value & Mask(size));
            return;
        }
        if (size == 1) return;
        for (int n = 0; n < size; n++) Write((ushort)(port + n), 1, value >> (8 * n));
    }

    private bool Whole(ushort port, int size, IPortDevice device) => _ports[(ushort)(port + size - 1)] is { } last && last.Device == device;

    private static uint Mask(int size) => size == 4 ? uint.MaxValue : (1u << (8 * size)) - 1;
}
