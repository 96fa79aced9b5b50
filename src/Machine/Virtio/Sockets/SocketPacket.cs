using System.Buffers.Binary;

namespace Bunraku.Machine.Virtio.Sockets;

/// <summary>What a packet is for: Virtual I/O Device (VIRTIO) Version 1.3, section 5.10.6 "Device Operation".</summary>
internal enum SocketOperation : ushort { Request = 1, Response = 2, Reset = 3, Shutdown = 4, Data = 5, CreditUpdate = 6, CreditRequest = 7 }

/// <summary>What the sender of <see cref="SocketOperation.Shutdown"/> will not do any more: section 5.10.6.5 "Stream Sockets".</summary>
[Flags]
internal enum SocketShutdownFlags : uint { Receive = 1, Send = 2, Both = Receive | Send }

/// <summary>Header of a packet: section 5.10.6, struct virtio_vsock_hdr.</summary>
/// <param name="Size">Bytes that follow.</param>
/// <param name="BufferSize">Bytes that the sender has room for, in all.</param>
/// <param name="Forwarded">Bytes that have left the sender's buffer, in all, modulo 2^32.</param>
internal readonly record struct SocketPacket(
    ulong SourceCid, ulong DestinationCid, uint SourcePort, uint DestinationPort, uint Size, ushort Type, SocketOperation Operation, uint Flags,
    uint BufferSize, uint Forwarded)
{
    /// <summary>Bytes of a header.</summary>
    public const int Length = 44;

    /// <summary>The only type that there is without the feature for another one.</summary>
    public const ushort Stream = 1;

    public static SocketPacket Read(ReadOnlySpan<byte> from) => new(
        BinaryPrimitives.ReadUInt64LittleEndian(from), BinaryPrimitives.ReadUInt64LittleEndian(from[8..]),
        BinaryPrimitives.ReadUInt32LittleEndian(from[16..]), BinaryPrimitives.ReadUInt32LittleEndian(from[20..]),
        BinaryPrimitives.ReadUInt32LittleEndian(from[24..]), BinaryPrimitives.ReadUInt16LittleEndian(from[28..]),
        (SocketOperation)BinaryPrimitives.ReadUInt16LittleEndian(from[30..]), BinaryPrimitives.ReadUInt32LittleEndian(from[32..]),
        BinaryPrimitives.ReadUInt32LittleEndian(from[36..]), BinaryPrimitives.ReadUInt32LittleEndian(from[40..]));

    public void Write(Span<byte> to)
    {
        BinaryPrimitives.WriteUInt64LittleEndian(to, SourceCid);
        BinaryPrimitives.WriteUInt64LittleEndian(to[8..], DestinationCid);
        BinaryPrimitives.WriteUInt32LittleEndian(to[16..], SourcePort);
        BinaryPrimitives.WriteUInt32LittleEndian(to[20..], DestinationPort);
        BinaryPrimitives.WriteUInt32LittleEndian(to[24..], Size);
        BinaryPrimitives.WriteUInt16LittleEndian(to[28..], Type);
        BinaryPrimitives.WriteUInt16LittleEndian(to[30..], (ushort)Operation);
        BinaryPrimitives.WriteUInt32LittleEndian(to[32..], Flags);
        BinaryPrimitives.WriteUInt32LittleEndian(to[36..], BufferSize);
        BinaryPrimitives.WriteUInt32LittleEndian(to[40..], Forwarded);
    }
}
