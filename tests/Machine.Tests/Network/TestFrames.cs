using System.Buffers.Binary;
using System.Net;

namespace Bunraku.Machine.Tests.Network;

/// <summary>Frames as a guest sends them, and the checks of a receiver, written from RFC 791, 8200, 9293 and 1071.</summary>
internal static class TestFrames
{
    public static readonly byte[] Guest = [0x52, 0x54, 0, 1, 2, 3], Gateway = [0x52, 0x55, 10, 0, 2, 2], Everybody = [255, 255, 255, 255, 255, 255];

    public static byte[] Ethernet(byte[] to, ushort type, byte[] payload) =>
        [.. to, .. Guest, (byte)(type >> 8), (byte)type, .. payload];

    /// <summary>A TCP packet without options. Its checksum is right, or of the pseudo header alone, as a driver leaves it.</summary>
    public static byte[] Tcp(IPAddress from, IPAddress to, ushort fromPort, ushort toPort, byte flags, byte[] data, bool partial = false)
    {
        byte[] tcp = new byte[20 + data.Length];
        BinaryPrimitives.WriteUInt16BigEndian(tcp, fromPort);
        BinaryPrimitives.WriteUInt16BigEndian(tcp.AsSpan(2), toPort);
        BinaryPrimitives.WriteUInt32BigEndian(tcp.AsSpan(4), 0xFFFF_FF00);
        (tcp[12], tcp[13]) = (0x50, flags);
        BinaryPrimitives.WriteUInt16BigEndian(tcp.AsSpan(14), 0x2000);
        data.CopyTo(tcp, 20);
        byte[] pseudo = Pseudo(from, to, tcp.Length);
        ushort sum = partial ? (ushort)~Checksum(pseudo) : Checksum([.. pseudo, .. tcp]);
        BinaryPrimitives.WriteUInt16BigEndian(tcp.AsSpan(16), sum);
        return Ethernet(Gateway, (ushort)(from.GetAddressBytes().Length == 4 ? 0x0800 : 0x86DD), Ip(from, to, tcp));
    }

    private static byte[] Pseudo(IPAddress from, IPAddress to, int length) => from.GetAddressBytes().Length == 4
        ? [.. from.GetAddressBytes(), .. to.GetAddressBytes(), 0, 6, (byte)(length >> 8), (byte)length]
        : [.. from.GetAddressBytes(), .. to.GetAddressBytes(), 0, 0, (byte)(length >> 8), (byte)length, 0, 0, 0, 6];

    private static byte[] Ip(IPAddress from, IPAddress to, byte[] tcp)
    {
        if (from.GetAddressBytes().Length == 16)
            return [0x60, 0, 0, 0, (byte)(tcp.Length >> 8), (byte)tcp.Length, 6, 64, .. from.GetAddressBytes(), .. to.GetAddressBytes(), .. tcp];
        int length = 20 + tcp.Length;
        byte[] header = [0x45, 0, (byte)(length >> 8), (byte)length, 0x12, 0x34, 0x40, 0, 64, 6, 0, 0, .. from.GetAddressBytes(), .. to.GetAddressBytes()];
        BinaryPrimitives.WriteUInt16BigEndian(header.AsSpan(10), Checksum(header));
        return [.. header, .. tcp];
    }

    /// <summary>RFC 1071, section 4.1, word by word.</summary>
    public static ushort Checksum(ReadOnlySpan<byte> bytes)
    {
        uint sum = 0;
        for (int n = 0; n < bytes.Length; n++) sum += (uint)bytes[n] << (n % 2 == 0 ? 8 : 0);
        while (sum > 0xFFFF) sum = (sum & 0xFFFF) + (sum >> 16);
        return (ushort)~sum;
    }

    /// <summary>What a receiver sees of a TCP frame whose checksums and lengths are right; fails where they are not.</summary>
    public static (uint Sequence, byte Flags, byte[] Data, ushort Identification) Open(ReadOnlySpan<byte> frame)
    {
        bool is4 = BinaryPrimitives.ReadUInt16BigEndian(frame[12..]) == 0x0800;
        ReadOnlySpan<byte> ip = frame[14..];
        int header = is4 ? 20 : 40, address = is4 ? 4 : 16;
        ReadOnlySpan<byte> addresses = ip.Slice(is4 ? 12 : 8, 2 * address), tcp = ip[header..];
        if (is4)
        {
            Assert.Equal(ip.Length, BinaryPrimitives.ReadUInt16BigEndian(ip[2..]));
            Assert.Equal(0, Checksum(ip[..20]));
        }
        else
        {
            Assert.Equal(ip.Length - 40, BinaryPrimitives.ReadUInt16BigEndian(ip[4..]));
        }
        Assert.Equal(0, Checksum([.. Pseudo(new IPAddress(addresses[..address]), new IPAddress(addresses[address..]), tcp.Length), .. tcp]));
        return (BinaryPrimitives.ReadUInt32BigEndian(tcp[4..]), tcp[13], tcp[((tcp[12] >> 4) * 4)..].ToArray(),
            is4 ? BinaryPrimitives.ReadUInt16BigEndian(ip[4..]) : (ushort)0);
    }
}
