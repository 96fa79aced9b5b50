using System.IO.Compression;
using ZstdSharp;

namespace Bunraku.Storage.Qcow2;

/// <summary>Compressed clusters: docs/interop/qcow2.txt, "Compressed Clusters Descriptor".</summary>
internal static class Compression
{
    /// <summary>Unpacks one cluster. Behind the compressed bytes may stand those of others.</summary>
    /// <exception cref="InvalidDataException">They are not what they should be, or less than a cluster.</exception>
    public static void Unpack(CompressionType type, byte[] packed, int length, Span<byte> cluster)
    {
        try
        {
            using var input = new MemoryStream(packed, 0, length, writable: false);
            using Stream stream = type == CompressionType.Zlib ? new DeflateStream(input, CompressionMode.Decompress) : new DecompressionStream(input);
            stream.ReadExactly(cluster);
        }
        catch (Exception e) when (e is EndOfStreamException or ZstdException)
        {
            throw new InvalidDataException(e.Message, e);
        }
    }

    /// <summary>Packs one cluster by zstd; null: it does not become smaller.</summary>
    public static byte[]? Pack(byte[] cluster)
    {
        using var compressor = new Compressor();
        Span<byte> packed = compressor.Wrap(cluster);
        return packed.Length < cluster.Length ? packed.ToArray() : null;
    }
}
