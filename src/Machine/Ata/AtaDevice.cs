using System.Buffers.Binary;
using System.Text;
using Bunraku.Engines;

namespace Bunraku.Machine.Ata;

/// <summary>Status and error registers: ACS-3, sections 6.2 "STATUS field" and 6.3 "ERROR field".</summary>
[Flags]
internal enum AtaStatus : byte
{
    /// <summary>ERR; for PACKET: CHECK CONDITION.</summary>
    Error = 1 << 0,
    DataRequest = 1 << 3,
    /// <summary>Seek complete, as devices have shown it for ever.</summary>
    SeekComplete = 1 << 4,
    DeviceFault = 1 << 5,
    Ready = 1 << 6,
    Busy = 1 << 7,
    /// <summary>What an idle device shows.</summary>
    Idle = Ready | SeekComplete,
}

/// <inheritdoc cref="AtaStatus"/>
[Flags]
internal enum AtaError : byte
{
    None = 0,
    /// <summary>ABRT.</summary>
    Aborted = 1 << 2,
    /// <summary>IDNF: an address beyond the end.</summary>
    IdNotFound = 1 << 4,
    /// <summary>UNC: data cannot be read.</summary>
    Uncorrectable = 1 << 6,
}

/// <summary>The registers of a command as the host sent them.</summary>
/// <param name="Lba">48 bits; commands with 28 bits have the upper four in <see cref="Device"/>.</param>
/// <param name="Packet">Of PACKET: the command descriptor block; else empty.</param>
internal readonly record struct AtaCommand(AtaOpcode Opcode, ushort Features, ulong Lba, ushort Count, byte Device, ReadOnlyMemory<byte> Packet);

/// <summary>How a command moves data.</summary>
internal enum AtaProtocol { NoData, PioIn, PioOut, DmaIn, DmaOut }

/// <summary>The registers of a command that has ended.</summary>
/// <param name="Length">Bytes of data that were moved.</param>
internal readonly record struct AtaResult(AtaStatus Status, AtaError Error, ulong Lba, ushort Count, int Length)
{
    public static AtaResult Good(int length = 0, ulong lba = 0, ushort count = 0) => new(AtaStatus.Idle, AtaError.None, lba, count, length);

    public static AtaResult Failed(AtaError error, ulong lba = 0) => new(AtaStatus.Idle | AtaStatus.Error, error, lba, 0, 0);

    public bool IsError => (Status & (AtaStatus.Error | AtaStatus.DeviceFault)) != 0;
}

/// <summary>What is to be done for a command.</summary>
/// <param name="Length">Bytes of data that the host gives, or at most gets; from 0 to <see cref="AtaDevice.LargestTransfer"/>.</param>
/// <param name="Work">Does it, with the data; for commands without an error beforehand.</param>
/// <param name="Waits">It may wait for the host's disk, and touches nothing but that; the others are done at once, with the device's lock held.</param>
internal readonly record struct AtaPlan(AtaProtocol Protocol, int Length, Func<Memory<byte>, AtaResult> Work, bool Waits = false)
{
    public static AtaPlan Refused { get; } = new(AtaProtocol.NoData, 0, _ => AtaResult.Failed(AtaError.Aborted));

    public static AtaPlan Nothing { get; } = new(AtaProtocol.NoData, 0, _ => AtaResult.Good());
}

/// <summary>A device behind a SATA port, without the port. With the lock of what it is behind held, but for <see cref="AtaPlan.Work"/> that waits.</summary>
/// <remarks>INCITS 522, ATA/ATAPI Command Set - 3 (ACS-3).</remarks>
internal abstract class AtaDevice
{
    public const int Sector = 512;

    /// <summary>65536 sectors.</summary>
    public const int LargestTransfer = 32 << 20;

    /// <summary>What a device says that it is, after each reset: count in bits 7:0, then LBA from its low byte on.</summary>
    public abstract uint Signature { get; }

    /// <summary>Commands are queued by the host: READ and WRITE FPDMA QUEUED.</summary>
    public abstract bool IsQueued(AtaOpcode opcode);

    /// <summary>What a command asks for.</summary>
    public abstract AtaPlan Plan(AtaCommand command);

    /// <summary>Settings are as after power-on, which a COMRESET and a software reset do.</summary>
    public abstract void Reset();

    /// <summary>Settings, for saving.</summary>
    public abstract byte[] Save();

    /// <summary>Takes them back.</summary>
    /// <exception cref="StateFormatException">They are not of such a device.</exception>
    public abstract void Restore(byte[] state);

    /// <summary>A string of IDENTIFY: padded with spaces, the bytes of each word exchanged (section 3.4.9).</summary>
    protected static void PutText(Span<byte> identify, int word, int words, string text)
    {
        Span<byte> field = identify.Slice(word * 2, words * 2);
        field.Fill((byte)' ');
        Encoding.ASCII.GetBytes(text.AsSpan(0, Math.Min(text.Length, field.Length)), field);
        for (int n = 0; n < field.Length; n += 2) (field[n], field[n + 1]) = (field[n + 1], field[n]);
    }

    protected static void PutWord(Span<byte> identify, int word, int value) => BinaryPrimitives.WriteUInt16LittleEndian(identify[(word * 2)..], (ushort)value);

    /// <summary>Word 255: a signature and what makes the sum of all bytes 0.</summary>
    protected static void Seal(Span<byte> identify)
    {
        identify[510] = 0xA5;
        byte sum = 0;
        foreach (byte b in identify[..511]) sum += b;
        identify[511] = (byte)-sum;
    }
}
