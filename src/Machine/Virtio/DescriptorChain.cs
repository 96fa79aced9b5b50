using Bunraku.Hypervisor;

namespace Bunraku.Machine.Virtio;

/// <summary>A piece of a buffer: guest-physical address and length in bytes.</summary>
public readonly record struct BufferPiece(ulong Address, uint Length);

/// <summary>A buffer that the driver made available: pieces that the device reads, then pieces that it writes.</summary>
public sealed class DescriptorChain
{
    private readonly List<BufferPiece> _readable = [], _writable = [];

    /// <summary>What the driver knows it by.</summary>
    internal ushort Id { get; init; }

    /// <summary>Entries of the ring that it takes: those of a packed ring are given back as many at a time.</summary>
    internal int Entries { get; set; }

    /// <summary>In which life of the queue it was made available; see <see cref="Virtqueue.Use(DescriptorChain, uint)"/>.</summary>
    internal int Generation { get; init; }

    /// <summary>What the device reads.</summary>
    public IReadOnlyList<BufferPiece> Readable => _readable;

    /// <summary>What the device writes.</summary>
    public IReadOnlyList<BufferPiece> Writable => _writable;

    /// <summary>Bytes that the device can read.</summary>
    public ulong ReadableLength { get; private set; }

    /// <summary>Bytes that the device can write.</summary>
    public ulong WritableLength { get; private set; }

    /// <summary>False: a piece to be read comes behind one to be written, which no driver may do (section 2.7.4.2).</summary>
    internal bool TryAdd(BufferPiece piece, bool writable)
    {
        if (writable)
        {
            _writable.Add(piece);
            WritableLength += piece.Length;
            return true;
        }
        if (_writable.Count > 0) return false;
        _readable.Add(piece);
        ReadableLength += piece.Length;
        return true;
    }

    /// <summary>Copies what the device reads, from <paramref name="offset"/> on. False when there is less, or it is not RAM.</summary>
    public bool TryRead(DmaSpace dma, ulong offset, Span<byte> destination)
    {
        foreach (BufferPiece piece in _readable)
        {
            if (destination.IsEmpty) return true;
            if (Skip(piece, ref offset) is not { } rest) continue;
            int length = (int)Math.Min(rest.Length, (uint)destination.Length);
            if (!dma.Read(rest.Address, destination[..length])) return false;
            destination = destination[length..];
        }
        return destination.IsEmpty;
    }

    /// <summary>Writes into the buffer from <paramref name="offset"/> on. False when it has less room, or is not RAM; then a part may be written.</summary>
    public bool TryWrite(DmaSpace dma, ulong offset, ReadOnlySpan<byte> source)
    {
        foreach (BufferPiece piece in _writable)
        {
            if (source.IsEmpty) return true;
            if (Skip(piece, ref offset) is not { } rest) continue;
            int length = (int)Math.Min(rest.Length, (uint)source.Length);
            if (!dma.Write(rest.Address, source[..length])) return false;
            source = source[length..];
        }
        return source.IsEmpty;
    }

    /// <summary>What of a piece lies behind the offset, which becomes the offset in the next one; null: nothing.</summary>
    private static BufferPiece? Skip(BufferPiece piece, ref ulong offset)
    {
        if (offset >= piece.Length)
        {
            offset -= piece.Length;
            return null;
        }
        BufferPiece rest = new(piece.Address + offset, piece.Length - (uint)offset);
        offset = 0;
        return rest;
    }
}
