using System.Buffers.Binary;

namespace Bunraku.Machine.Tests;

/// <summary>Takes the ELF kernel out of a bzImage whose payload is compressed with LZ4 in the "legacy" frame format, as Debian's cloud kernel is.</summary>
internal static class LinuxPayload
{
    public static byte[] Extract(ReadOnlySpan<byte> image)
    {
        int code = (image[0x1F1] + 1) * 512;
        int offset = code + BinaryPrimitives.ReadInt32LittleEndian(image[0x248..]), length = BinaryPrimitives.ReadInt32LittleEndian(image[0x24C..]);
        ReadOnlySpan<byte> payload = image.Slice(offset, length - 4); // the last four bytes are the unpacked size
        Assert.Equal(0x184C_2102u, BinaryPrimitives.ReadUInt32LittleEndian(payload));
        byte[] output = new byte[BinaryPrimitives.ReadInt32LittleEndian(image[(offset + length - 4)..])];
        int at = 4, to = 0;
        while (at + 4 <= payload.Length)
        {
            int size = BinaryPrimitives.ReadInt32LittleEndian(payload[at..]);
            UnpackBlock(payload.Slice(at + 4, size), output, ref to);
            at += 4 + size;
        }
        Assert.Equal(output.Length, to);
        return output;
    }

    private static void UnpackBlock(ReadOnlySpan<byte> block, byte[] output, ref int to)
    {
        int at = 0;
        while (at < block.Length)
        {
            int token = block[at++], literals = Length(block, token >> 4, ref at);
            block.Slice(at, literals).CopyTo(output.AsSpan(to));
            at += literals;
            to += literals;
            if (at >= block.Length) return; // the last sequence is literals only
            int distance = BinaryPrimitives.ReadUInt16LittleEndian(block[at..]);
            at += 2;
            for (int n = Length(block, token & 15, ref at) + 4; n > 0; n--, to++) output[to] = output[to - distance];
        }
    }

    private static int Length(ReadOnlySpan<byte> block, int length, ref int at)
    {
        if (length < 15) return length;
        byte more;
        do length += more = block[at++];
        while (more == 255);
        return length;
    }
}
