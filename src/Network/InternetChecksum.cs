using System.Buffers.Binary;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Bunraku.Network;

/// <summary>The checksum of IP, TCP and UDP: RFC 1071, "Computing the Internet Checksum".</summary>
public static class InternetChecksum
{
    /// <summary>Sum of the bytes' 16-bit words, as the host reads them; an odd byte counts as if a zero followed. It can be added to another one.</summary>
    /// <param name="bytes">From an even offset of what is summed.</param>
    public static ulong Sum(ReadOnlySpan<byte> bytes)
    {
        // One's complement sums may be formed of wider words and folded at the end: section 2 of the RFC. Two sums, so that neither waits for the other.
        ulong first = 0, second = 0;
        ref byte start = ref MemoryMarshal.GetReference(bytes);
        int at = 0;
        for (; at + 16 <= bytes.Length; at += 16)
        {
            ulong a = Unsafe.ReadUnaligned<ulong>(ref Unsafe.Add(ref start, at)), b = Unsafe.ReadUnaligned<ulong>(ref Unsafe.Add(ref start, at + 8));
            first += (uint)a + (a >> 32);
            second += (uint)b + (b >> 32);
        }
        for (; at + 2 <= bytes.Length; at += 2) first += Unsafe.ReadUnaligned<ushort>(ref Unsafe.Add(ref start, at));
        if (at < bytes.Length) first += Unsafe.Add(ref start, at);
        return first + second;
    }

    /// <summary>The checksum that belongs to a sum, in the order in which it is stored.</summary>
    public static ushort Fold(ulong sum)
    {
        while (sum >> 16 != 0) sum = (sum & 0xFFFF) + (sum >> 16);
        return (ushort)~sum;
    }

    /// <summary>Sum of what TCP and UDP count beside their own bytes: addresses, protocol, length (RFC 9293 section 3.1, RFC 8200 section 8.1).</summary>
    /// <param name="addresses">Source and destination, of 4 or 16 bytes each.</param>
    /// <param name="protocol">Its number.</param>
    /// <param name="length">Bytes from the TCP or UDP header on.</param>
    public static ulong PseudoHeader(ReadOnlySpan<byte> addresses, byte protocol, int length) =>
        Sum(addresses) + BinaryPrimitives.ReverseEndianness((ushort)protocol)
        + BinaryPrimitives.ReverseEndianness((ushort)(length >> 16)) + BinaryPrimitives.ReverseEndianness((ushort)length);

    /// <summary>Completes a partial checksum. False: it would lie outside the frame.</summary>
    public static bool TryComplete(in FrameWork work, Span<byte> frame)
    {
        int start = work.ChecksumStart, place = start + work.ChecksumOffset;
        if (place + 2 > frame.Length) return false;
        ushort sum = Fold(Sum(frame[start..]));
        // Zero says of UDP that there is none: RFC 768. For others both zeros mean the same.
        MemoryMarshal.Write(frame[place..], sum == 0 ? (ushort)0xFFFF : sum);
        return true;
    }
}
