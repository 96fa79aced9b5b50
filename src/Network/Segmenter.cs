using System.Buffers.Binary;
using System.Runtime.InteropServices;

namespace Bunraku.Network;

/// <summary>Cuts a large TCP frame into segments with checksums: what a network card does for a driver (TCP segmentation offload).</summary>
public static class Segmenter
{
    private const int TcpHeader = 20;
    private const byte Fin = 1, Push = 8, Reduced = 0x80; // Reduced: CWR, which the first segment alone has (RFC 3168 section 6.1.2)

    /// <summary>Takes a segment.</summary>
    public delegate void Take(ReadOnlySpan<byte> frame);

    /// <summary>Makes the segments. False: the frame is no TCP packet that can be cut.</summary>
    /// <param name="work">As the driver gave it.</param>
    /// <param name="frame">Of up to <see cref="Frame.Largest"/> bytes.</param>
    public static bool TryCut(in FrameWork work, ReadOnlySpan<byte> frame, Take take)
    {
        (ushort type, int packet) = Frame.Packet(frame);
        bool is6 = (work.Segmentation & ~Segmentation.Ecn) == Segmentation.Tcp6;
        int tcp = work.ChecksumStart, addressLength = is6 ? 16 : 4, addresses = packet + (is6 ? 8 : 12);
        if (type != (is6 ? Frame.Ip6 : Frame.Ip4) || work.SegmentSize == 0 || tcp < packet + (is6 ? 40 : 20) || tcp + TcpHeader > frame.Length) return false;
        int headers = tcp + (frame[tcp + 12] >> 4) * 4, payload = frame.Length - headers;
        if (headers < tcp + TcpHeader || payload <= 0) return false;
        if (!is6 && packet + (frame[packet] & 15) * 4 != tcp) return false;

        // At the smallest size a frame would be 65,000 segments: a card has a least one too.
        int size = Math.Max((int)work.SegmentSize, SmallestSegment);
        uint sequence = BinaryPrimitives.ReadUInt32BigEndian(frame[(tcp + 4)..]);
        ushort identification = BinaryPrimitives.ReadUInt16BigEndian(frame[(packet + 4)..]);
        byte flags = frame[tcp + 13];
        byte[] segment = new byte[headers + Math.Min(size, payload)];
        for (int at = 0, n = 0; at < payload; at += size, n++)
        {
            int length = Math.Min(size, payload - at);
            Span<byte> s = segment.AsSpan(0, headers + length);
            frame[..headers].CopyTo(s);
            frame.Slice(headers + at, length).CopyTo(s[headers..]);
            BinaryPrimitives.WriteUInt32BigEndian(s[(tcp + 4)..], sequence + (uint)at);
            bool last = at + length == payload;
            s[tcp + 13] = (byte)(flags & ~((last ? 0 : Fin | Push) | (n == 0 ? 0 : Reduced)));
            if (is6)
            {
                BinaryPrimitives.WriteUInt16BigEndian(s[(packet + 4)..], (ushort)(s.Length - packet - 40));
            }
            else
            {
                BinaryPrimitives.WriteUInt16BigEndian(s[(packet + 2)..], (ushort)(s.Length - packet));
                BinaryPrimitives.WriteUInt16BigEndian(s[(packet + 4)..], (ushort)(identification + n));
                s.Slice(packet + 10, 2).Clear();
                MemoryMarshal.Write(s[(packet + 10)..], InternetChecksum.Fold(InternetChecksum.Sum(s[packet..tcp])));
            }
            s.Slice(tcp + 16, 2).Clear();
            const byte protocol = 6;
            ulong sum = InternetChecksum.PseudoHeader(s.Slice(addresses, 2 * addressLength), protocol, s.Length - tcp) + InternetChecksum.Sum(s[tcp..]);
            MemoryMarshal.Write(s[(tcp + 16)..], InternetChecksum.Fold(sum));
            take(s);
        }
        return true;
    }

    private const int SmallestSegment = 256;
}
