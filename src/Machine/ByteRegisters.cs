using Bunraku.Hypervisor;

namespace Bunraku.Machine;

/// <summary>
/// A window of byte-wide registers on the port bus. A wider access is carried out as byte cycles at ascending ports, as the ISA bus controller does
/// for 8-bit devices. A device with registers in several places has one window for each. Called with its lock held.
/// </summary>
/// <param name="read">Reads the register at an offset from the window's first port.</param>
/// <param name="write">Writes the register at an offset from the window's first port.</param>
internal sealed class ByteRegisters(Func<int, byte> read, Action<int, byte> write) : IPortDevice
{
    public uint ReadPort(ushort offset, int size)
    {
        uint value = 0;
        for (int n = 0; n < size; n++) value |= (uint)read(offset + n) << (8 * n);
        return value;
    }

    public void WritePort(ushort offset, int size, uint value)
    {
        for (int n = 0; n < size; n++) write(offset + n, (byte)(value >> (8 * n)));
    }
}
