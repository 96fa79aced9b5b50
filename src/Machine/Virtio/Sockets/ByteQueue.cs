namespace Bunraku.Machine.Virtio.Sockets;

/// <summary>Bytes that wait, in their order. It takes memory when there are any, and bounds nothing by itself.</summary>
internal sealed class ByteQueue
{
    private const int Smallest = 4096;

    private byte[] _bytes = [];
    private int _start;

    /// <summary>How many wait.</summary>
    public int Count { get; private set; }

    /// <summary>Those that wait.</summary>
    public ReadOnlySpan<byte> Waiting => _bytes.AsSpan(_start, Count);

    /// <summary>Room for so many more behind them; <see cref="Added"/> tells how many came.</summary>
    public Span<byte> Room(int length)
    {
        if (_start + Count + length > _bytes.Length)
        {
            byte[] to = Count + length <= _bytes.Length ? _bytes : new byte[Math.Max(Smallest, (int)uint.Min(1u << 30, (uint)(Count + length) * 2))];
            Waiting.CopyTo(to);
            (_bytes, _start) = (to, 0);
        }
        return _bytes.AsSpan(_start + Count, length);
    }

    public void Added(int count) => Count += count;

    public void Taken(int count)
    {
        Count -= count;
        _start = Count == 0 ? 0 : _start + count;
    }

    /// <summary>Gives the memory back as well.</summary>
    public void Clear() => (_bytes, _start, Count) = ([], 0, 0);
}
