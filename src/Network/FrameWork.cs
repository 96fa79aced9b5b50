using System.Buffers.Binary;

namespace Bunraku.Network;

/// <summary>Facts about Ethernet frames.</summary>
public static class Frame
{
    /// <summary>Two addresses and a type: IEEE 802.3, clause 3.</summary>
    public const int HeaderLength = 14;

    /// <summary>Bytes of a VLAN tag behind the addresses: IEEE 802.1Q, clause 9.</summary>
    public const int VlanLength = 4;

    /// <summary>Bytes of the largest frame: an IP packet of 65535 bytes behind a header with a VLAN tag.</summary>
    public const int Largest = 65535 + HeaderLength + VlanLength;

    /// <summary>EtherTypes.</summary>
    public const ushort Ip4 = 0x0800, Ip6 = 0x86DD, Vlan = 0x8100;

    /// <summary>Where the packet begins and of what type it is, behind a VLAN tag if there is one.</summary>
    public static (ushort Type, int Offset) Packet(ReadOnlySpan<byte> frame)
    {
        ushort type = BinaryPrimitives.ReadUInt16BigEndian(frame[12..]);
        return type == Vlan && frame.Length >= HeaderLength + VlanLength
            ? (BinaryPrimitives.ReadUInt16BigEndian(frame[16..]), HeaderLength + VlanLength) : (type, HeaderLength);
    }
}

/// <summary>
/// What is still to be done to a frame, or was found out about it: struct virtio_net_hdr, Virtual I/O Device (VIRTIO) Version 1.3, section 5.1.6, which is
/// Linux's of include/uapi/linux/virtio_net.h as well.
/// </summary>
/// <param name="Flags">See <see cref="FrameFlags"/>.</param>
/// <param name="Segmentation">Into what it is to be cut.</param>
/// <param name="HeaderLength">Bytes of all headers: a hint.</param>
/// <param name="SegmentSize">Bytes behind the headers of each segment.</param>
/// <param name="ChecksumStart">Where the checksum begins to count.</param>
/// <param name="ChecksumOffset">Where it is to stand, from there.</param>
public readonly record struct FrameWork(
    FrameFlags Flags, Segmentation Segmentation, ushort HeaderLength, ushort SegmentSize, ushort ChecksumStart, ushort ChecksumOffset)
{
    /// <summary>Bytes, with the number of buffers that comes last.</summary>
    public const int Length = 12;

    /// <summary>As it stands in memory; the number of buffers is not looked at.</summary>
    public static FrameWork Read(ReadOnlySpan<byte> header) => new((FrameFlags)header[0], (Segmentation)header[1],
        BinaryPrimitives.ReadUInt16LittleEndian(header[2..]), BinaryPrimitives.ReadUInt16LittleEndian(header[4..]),
        BinaryPrimitives.ReadUInt16LittleEndian(header[6..]), BinaryPrimitives.ReadUInt16LittleEndian(header[8..]));

    /// <summary>Writes it.</summary>
    /// <param name="buffers">How many of the driver's buffers the frame is in.</param>
    public void Write(Span<byte> header, ushort buffers)
    {
        (header[0], header[1]) = ((byte)Flags, (byte)Segmentation);
        BinaryPrimitives.WriteUInt16LittleEndian(header[2..], HeaderLength);
        BinaryPrimitives.WriteUInt16LittleEndian(header[4..], SegmentSize);
        BinaryPrimitives.WriteUInt16LittleEndian(header[6..], ChecksumStart);
        BinaryPrimitives.WriteUInt16LittleEndian(header[8..], ChecksumOffset);
        BinaryPrimitives.WriteUInt16LittleEndian(header[10..], buffers);
    }
}

/// <summary>Flags of <see cref="FrameWork"/>.</summary>
[Flags]
public enum FrameFlags : byte
{
    /// <summary>The checksum is partial: it is to be completed.</summary>
    NeedsChecksum = 1,
    /// <summary>The checksum was found right.</summary>
    ChecksumValid = 2,
}

/// <summary>How a frame is to be cut into segments.</summary>
public enum Segmentation : byte
{
    /// <summary>Not at all.</summary>
    None = 0,
    /// <summary>TCP over IPv4.</summary>
    Tcp4 = 1,
    /// <summary>TCP over IPv6.</summary>
    Tcp6 = 4,
    /// <summary>Added to the others: with congestion notification (RFC 3168).</summary>
    Ecn = 0x80,
}
