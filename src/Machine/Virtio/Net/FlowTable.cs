using System.Buffers.Binary;
using Bunraku.Network;

namespace Bunraku.Machine.Virtio.Net;

/// <summary>
/// Which queue a connection's frames come in by: the one that pairs with the queue by which the driver sent last. Virtual I/O Device (VIRTIO) Version 1.3,
/// section 5.1.6.5.6.1 "Automatic receive steering". Connections share places: the table is a hint, and nothing but speed hangs on it.
/// </summary>
internal sealed class FlowTable
{
    private const int Places = 256;

    private readonly byte[] _pairs = new byte[Places];

    public void Sent(ReadOnlySpan<byte> frame, int pair) => _pairs[Place(frame)] = (byte)pair;

    /// <summary>The pair of queues for a frame, below <paramref name="pairs"/>.</summary>
    public int For(ReadOnlySpan<byte> frame, int pairs) => _pairs[Place(frame)] % pairs;

    /// <summary>The same for both directions.</summary>
    private static int Place(ReadOnlySpan<byte> frame)
    {
        (ushort type, int at) = Frame.Packet(frame);
        (int addresses, int length, int protocol, int ports) = type switch
        {
            Frame.Ip4 when frame.Length >= at + 20 => (at + 12, 4, frame[at + 9], at + (frame[at] & 15) * 4),
            Frame.Ip6 when frame.Length >= at + 40 => (at + 8, 16, frame[at + 6], at + 40),
            _ => (0, 0, 0, 0),
        };
        uint sum = 0;
        for (int n = 0; n < 2 * length; n += 4) sum ^= BinaryPrimitives.ReadUInt32BigEndian(frame[(addresses + n)..]);
        const int tcp = 6, udp = 17;
        if (protocol is tcp or udp && ports + 4 <= frame.Length)
        {
            uint both = BinaryPrimitives.ReadUInt32BigEndian(frame[ports..]);
            sum ^= both >> 16 ^ both & 0xFFFF;
        }
        return (int)(sum * 0x9E37_79B1 >> 24); // Fibonacci hashing to Places
    }
}
