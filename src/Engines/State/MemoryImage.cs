namespace Bunraku.Engines;

/// <summary>What a guest's RAM is to hold.</summary>
public interface IMemoryContent
{
    /// <summary>Makes the RAM what it was. Nobody uses it meanwhile; code that vCPUs have decoded is forgotten.</summary>
    /// <param name="memory">Of the same size.</param>
    /// <exception cref="StateFormatException">The machine has another amount of RAM, or the content cannot be had.</exception>
    void CopyTo(GuestMemory memory);
}

/// <summary>A copy of a guest's RAM, of what takes host memory: the rest is zero. Immutable.</summary>
public sealed class MemoryImage : IMemoryContent
{
    private const int Piece = 1 << 20;

    private readonly List<(ulong Offset, byte[] Bytes)> _pieces = []; // in the order of their offsets, none in another

    private MemoryImage(ulong size) => Size = size;

    /// <summary>Bytes of RAM.</summary>
    public ulong Size { get; }

    /// <summary>Copies the RAM. Nobody writes to it meanwhile.</summary>
    public static unsafe MemoryImage Of(GuestMemory memory)
    {
        var image = new MemoryImage(memory.Size);
        foreach ((ulong offset, ulong length) in memory.Backing.Allocated())
        {
            for (ulong at = offset, end = offset + length; at < end;)
            {
                int count = (int)Math.Min(Piece, end - at);
                image._pieces.Add((at, new ReadOnlySpan<byte>(memory.Backing.Pointer + at, count).ToArray()));
                at += (ulong)count;
            }
        }
        return image;
    }

    /// <summary>
    /// Makes the RAM what it was. Nobody uses it meanwhile; code that vCPUs have decoded is forgotten. Pages that change are written as a device writes: who
    /// watches them is told (<see cref="PageRightsTable.DeviceWriteRefused"/>), and they are in the log (<see cref="GuestMemory.DeviceWrites"/>).
    /// </summary>
    /// <param name="memory">Of the same size.</param>
    /// <exception cref="StateFormatException">The machine has another amount of RAM.</exception>
    public unsafe void CopyTo(GuestMemory memory)
    {
        if (memory.Size != Size) throw new StateFormatException($"the saved machine has {Size} bytes of RAM, this one {memory.Size}");
        byte[] window = new byte[Piece];
        ulong done = 0; // all below is as it was
        IEnumerable<ulong> theirs = memory.Backing.Allocated().SelectMany(r => Windows(r.Offset, r.Length));
        IEnumerable<ulong> ours = _pieces.SelectMany(p => Windows(p.Offset, (ulong)p.Bytes.Length));
        foreach (ulong at in theirs.Concat(ours).Order())
        {
            if (at < done) continue;
            int count = (int)Math.Min(Piece, Size - at);
            Gather(at, window);
            for (int page = 0; page < count; page += (int)GuestMemory.PageSize)
            {
                ReadOnlySpan<byte> wanted = window.AsSpan(page, (int)GuestMemory.PageSize);
                ulong offset = at + (ulong)page;
                if (!wanted.SequenceEqual(new ReadOnlySpan<byte>(memory.Backing.Pointer + offset, wanted.Length)))
                    memory.WriteBacking(offset, wanted);
            }
            done = at + Piece;
        }
        memory.Code.AllWritten(); // an engine may have written where nobody was told
    }

    /// <summary>Beginnings of the pieces that a range touches.</summary>
    private static IEnumerable<ulong> Windows(ulong offset, ulong length)
    {
        for (ulong at = offset / Piece * Piece; at < offset + length; at += Piece) yield return at;
    }

    /// <summary>Offset in the RAM of the first byte that differs, or null when all are equal.</summary>
    public ulong? FirstDifference(MemoryImage other)
    {
        if (Size != other.Size) return Math.Min(Size, other.Size);
        byte[] mine = new byte[Piece], theirs = new byte[Piece];
        for (ulong at = 0; at < Size; at += Piece)
        {
            int count = (int)Math.Min(Piece, Size - at);
            Gather(at, mine);
            other.Gather(at, theirs);
            int same = mine.AsSpan(0, count).CommonPrefixLength(theirs.AsSpan(0, count));
            if (same < count) return at + (ulong)same;
        }
        return null;
    }

    /// <summary>Copies bytes out; what lies behind the end is zero.</summary>
    /// <param name="offset">In the RAM.</param>
    public byte[] Read(ulong offset, int count)
    {
        byte[] bytes = new byte[count];
        Gather(offset, bytes);
        return bytes;
    }

    private void Gather(ulong start, Span<byte> window)
    {
        window.Clear();
        for (int n = FirstBehind(start); n < _pieces.Count && _pieces[n].Offset < start + (ulong)window.Length; n++)
        {
            (ulong offset, byte[] bytes) = _pieces[n];
            ulong from = Math.Max(offset, start), to = Math.Min(offset + (ulong)bytes.Length, start + (ulong)window.Length);
            bytes.AsSpan((int)(from - offset), (int)(to - from)).CopyTo(window[(int)(from - start)..]);
        }
    }

    /// <summary>Number of the first piece that ends behind an offset.</summary>
    private int FirstBehind(ulong start)
    {
        int low = 0, high = _pieces.Count;
        while (low < high)
        {
            int middle = (low + high) / 2;
            if (_pieces[middle].Offset + (ulong)_pieces[middle].Bytes.Length > start) high = middle;
            else low = middle + 1;
        }
        return low;
    }
}
