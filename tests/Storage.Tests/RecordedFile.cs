namespace Bunraku.Storage.Tests;

/// <summary>A file in memory that remembers what was done to it, so that each state can be made that a power failure could have left.</summary>
internal sealed class RecordedFile : IImageFile
{
    private const int Sector = 512;
    private readonly List<Change> _log = [];
    private byte[] _bytes;

    /// <param name="start">What is on the disk already.</param>
    public RecordedFile(byte[] start) => (_bytes, Start) = (start, start);

    /// <param name="Bytes">Null: a flush.</param>
    private readonly record struct Change(ulong Position, byte[]? Bytes);

    public byte[] Start { get; }

    /// <summary>Changes and flushes so far.</summary>
    public int Count => _log.Count;

    public string Name => "recorded";

    public ulong Length => (ulong)_bytes.Length;

    public byte[] Bytes => _bytes;

    public int Read(ulong position, Span<byte> destination)
    {
        destination.Clear();
        if (position >= Length) return 0;
        int length = (int)Math.Min((ulong)destination.Length, Length - position);
        _bytes.AsSpan((int)position, length).CopyTo(destination);
        return length;
    }

    public void Write(ulong position, ReadOnlySpan<byte> source)
    {
        _log.Add(new Change(position, source.ToArray()));
        Apply(ref _bytes, position, source);
    }

    public void Flush() => _log.Add(new Change(0, null));

    public void Zero(ulong position, ulong length, bool unmap) => Discard(position, length);

    public void Discard(ulong position, ulong length)
    {
        length = Math.Min(length, position < Length ? Length - position : 0);
        if (length > 0) Write(position, new byte[length]);
    }

    public void Resize(ulong length) => throw new NotSupportedException("no image here does that");

    public ulong Hole(ulong position) => 0;

    public void Dispose()
    {
    }

    private static void Apply(ref byte[] bytes, ulong position, ReadOnlySpan<byte> source)
    {
        if (position + (ulong)source.Length > (ulong)bytes.Length) Array.Resize(ref bytes, (int)position + source.Length);
        source.CopyTo(bytes.AsSpan((int)position));
    }

    /// <summary>The file when the power failed behind so many changes: all up to the last flush, and of what came since each sector or not.</summary>
    /// <param name="survives">Says of each sector of each change since.</param>
    public byte[] After(int count, Func<bool> survives)
    {
        byte[] bytes = [.. Start];
        int flushed = count == 0 ? -1 : _log.FindLastIndex(count - 1, c => c.Bytes is null);
        for (int n = 0; n < count; n++)
        {
            if (_log[n].Bytes is not { } change) continue;
            for (int at = 0; at < change.Length;)
            {
                int length = Math.Min(Sector - (int)((_log[n].Position + (ulong)at) % Sector), change.Length - at);
                if (n < flushed || survives()) Apply(ref bytes, _log[n].Position + (ulong)at, change.AsSpan(at, length));
                at += length;
            }
        }
        return bytes;
    }
}
