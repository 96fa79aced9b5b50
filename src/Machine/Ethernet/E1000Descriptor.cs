using System.Buffers.Binary;

namespace Bunraku.Machine.Ethernet;

/// <summary>A transmit descriptor: the manual's section 3.3. The three kinds have length and command in the same place.</summary>
internal readonly struct E1000Descriptor(ReadOnlySpan<byte> bytes)
{
    public const int Length = 16, StatusAt = 12;

    /// <summary>Sections 3.3.3.1, 3.3.6.1 and 3.3.7.1 "Command Field": bits 24 to 31 of the third doubleword.</summary>
    [Flags]
    private enum Flag : byte { EndOfPacket = 1, Checksum = 4, Segment = 4, ReportStatus = 8, Extended = 0x20, Vlan = 0x40 }

    // Of a context's command: section 3.3.6.1.
    private const byte ContextIp4 = 2;
    private const byte Done = 1;

    private readonly ulong _first = BinaryPrimitives.ReadUInt64LittleEndian(bytes);
    private readonly uint _third = BinaryPrimitives.ReadUInt32LittleEndian(bytes[8..]), _fourth = BinaryPrimitives.ReadUInt32LittleEndian(bytes[12..]);

    private Flag Command => (Flag)(byte)(_third >> 24);

    public bool IsExtended => Command.HasFlag(Flag.Extended);
    public bool IsContext => IsExtended && (_third >> 20 & 15) == 0;
    public bool IsData => !IsExtended || (_third >> 20 & 15) == 1;
    public bool Ends => !IsContext && Command.HasFlag(Flag.EndOfPacket);
    public bool Reports => Command.HasFlag(Flag.ReportStatus);

    public ulong Address => _first;
    public int Size => (int)(IsExtended ? _third & 0xF_FFFF : _third & 0xFFFF);
    public bool HasVlan => Command.HasFlag(Flag.Vlan);
    public ushort Vlan => (ushort)(_fourth >> 16);

    // A legacy descriptor's checksum: section 3.3.3.
    public bool InsertsChecksum => !IsExtended && Command.HasFlag(Flag.Checksum);
    public byte ChecksumPlace => (byte)(_third >> 16);
    public byte ChecksumStart => (byte)(_fourth >> 8);

    // A data descriptor's: section 3.3.7.2 "POPTS". A context's flag stands in the same place.
    public bool IsSegmented => IsExtended && Command.HasFlag(Flag.Segment);
    public bool WantsIpChecksum => (_fourth >> 8 & 1) != 0;
    public bool WantsTcpChecksum => (_fourth >> 8 & 2) != 0;

    /// <summary>A context: section 3.3.6.</summary>
    public E1000Context Context => new(
        (byte)_first, (byte)(_first >> 8), (ushort)(_first >> 16), (byte)(_first >> 32), (byte)(_first >> 40), (ushort)(_first >> 48),
        ((byte)Command & ContextIp4) != 0, (byte)(_fourth >> 8), (ushort)(_fourth >> 16));

    /// <summary>The status field of one that was done.</summary>
    public byte DoneStatus => (byte)(_fourth & 0xF0 | Done);
}

/// <summary>What a context descriptor says about the packets behind it. Offsets are from the frame's beginning; an end of 0 is the frame's.</summary>
internal readonly record struct E1000Context(
    byte IpStart, byte IpPlace, ushort IpEnd, byte TcpStart, byte TcpPlace, ushort TcpEnd, bool IsIp4, byte HeaderLength, ushort SegmentSize);
