using System.Buffers.Binary;

namespace Bunraku.Machine.Pci;

/// <summary>Offsets in a type 0 configuration header: PCI Local Bus Specification 3.0, section 6.1, figure 6-1.</summary>
public static class PciRegister
{
    /// <summary>Offsets in bytes. <see cref="FirstFree"/> is where capabilities may begin.</summary>
    public const int VendorId = 0x00, DeviceId = 0x02, Command = 0x04, Status = 0x06, Revision = 0x08, ClassCode = 0x09, CacheLineSize = 0x0C,
        LatencyTimer = 0x0D, HeaderType = 0x0E, FirstBar = 0x10, SubsystemVendorId = 0x2C, SubsystemId = 0x2E, RomAddress = 0x30, Capabilities = 0x34,
        InterruptLine = 0x3C, InterruptPin = 0x3D, FirstFree = 0x40;
}

/// <summary>The command register: section 6.2.2, table 6-1.</summary>
[Flags]
public enum PciCommand : ushort
{
    /// <summary>The function answers on its ports.</summary>
    IoSpace = 1 << 0,
    /// <summary>The function answers in its memory.</summary>
    MemorySpace = 1 << 1,
    /// <summary>The function may access memory by itself.</summary>
    BusMaster = 1 << 2,
    /// <summary>The function acts on parity errors.</summary>
    ParityErrorResponse = 1 << 6,
    /// <summary>The function may drive SERR#.</summary>
    SerrEnable = 1 << 8,
    /// <summary>The function must not assert INTx#.</summary>
    InterruptDisable = 1 << 10,
}

/// <summary>The status register: section 6.2.3.</summary>
[Flags]
internal enum PciStatus : ushort
{
    /// <summary>The function wants its pin asserted, whether or not <see cref="PciCommand.InterruptDisable"/> lets it.</summary>
    Interrupt = 1 << 3,
    /// <summary>There is a list of capabilities.</summary>
    CapabilityList = 1 << 4,
}

/// <summary>
/// The 256 bytes of a function's configuration space: for each bit whether the guest can write it, clear it by writing one, or only read it.
/// </summary>
public sealed class PciConfigSpace
{
    /// <summary>Bytes of the configuration space.</summary>
    public const int Size = 256;

    private readonly byte[] _bytes = new byte[Size];
    private readonly byte[] _writable = new byte[Size];
    private readonly byte[] _writeOneToClear = new byte[Size];
    private readonly byte[] _changing = new byte[Size];

    /// <summary>The function's own access, past the masks.</summary>
    public Span<byte> Bytes => _bytes;

    /// <summary>The word at an offset as it is, whatever the guest may see of it.</summary>
    public ushort Word(int offset) => BinaryPrimitives.ReadUInt16LittleEndian(_bytes.AsSpan(offset));
    /// <summary>The doubleword at an offset as it is.</summary>
    public uint Long(int offset) => BinaryPrimitives.ReadUInt32LittleEndian(_bytes.AsSpan(offset));
    /// <summary>Sets a word; what the guest can write of it stays as it was said.</summary>
    public void SetWord(int offset, ushort value) => BinaryPrimitives.WriteUInt16LittleEndian(_bytes.AsSpan(offset), value);
    /// <summary>Sets a doubleword; what the guest can write of it stays as it was said.</summary>
    public void SetLong(int offset, uint value) => BinaryPrimitives.WriteUInt32LittleEndian(_bytes.AsSpan(offset), value);

    /// <summary>Bits that the guest can write; all others are read-only until named here.</summary>
    public void AllowWrites(int offset, uint mask, int size = 4) => Put(_writable, offset, mask, size);

    /// <summary>Bits that a guest's write of one clears.</summary>
    public void ClearOnOne(int offset, uint mask, int size = 4) => Put(_writeOneToClear, offset, mask, size);

    /// <summary>Bits that the function itself changes, and that are 0 after a reset.</summary>
    public void ChangesByItself(int offset, uint mask, int size = 4) => Put(_changing, offset, mask, size);

    /// <summary>A guest's read. <paramref name="offset"/> + <paramref name="size"/> is at most 256.</summary>
    public uint Read(int offset, int size)
    {
        uint value = 0;
        for (int n = 0; n < size; n++) value |= (uint)_bytes[offset + n] << (8 * n);
        return value;
    }

    /// <summary>A guest's write; same range as <see cref="Read"/>.</summary>
    public void Write(int offset, int size, uint value)
    {
        for (int n = 0; n < size; n++)
        {
            byte b = (byte)(value >> (8 * n));
            ref byte place = ref _bytes[offset + n];
            place = (byte)((place & ~_writable[offset + n]) | (b & _writable[offset + n]));
            place &= (byte)~(b & _writeOneToClear[offset + n]);
        }
    }

    /// <summary>What can change becomes 0.</summary>
    internal void Reset()
    {
        for (int n = 0; n < Size; n++) _bytes[n] &= (byte)~(_writable[n] | _writeOneToClear[n] | _changing[n]);
    }

    /// <summary>Takes all bytes over. False, with nothing changed, when one that never changes is another.</summary>
    internal bool TryRestore(ReadOnlySpan<byte> bytes)
    {
        for (int n = 0; n < Size; n++)
        {
            if (((bytes[n] ^ _bytes[n]) & ~(_writable[n] | _writeOneToClear[n] | _changing[n])) != 0) return false;
        }
        bytes.CopyTo(_bytes);
        return true;
    }

    private static void Put(byte[] masks, int offset, uint mask, int size)
    {
        for (int n = 0; n < size; n++) masks[offset + n] = (byte)(mask >> (8 * n));
    }
}
