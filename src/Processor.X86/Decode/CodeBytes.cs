using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>
/// Feeds the decoder from memory that other processors may write to. Bytes of a naturally aligned quadword come from one access, so that code which is replaced
/// by one store into such a quadword is decoded as it was or as it is.
/// </summary>
/// <remarks>
/// AMD APM vol. 2, "Cross-Modifying Code", asynchronous modification. Invariant: reads only aligned quadwords that touch [pointer, pointer + length) given to
/// <see cref="Set"/>, which stays valid while decoding.
/// </remarks>
internal sealed unsafe class CodeBytes : CodeReader
{
    public const int MaxInstructionLength = 15;

    // One instruction more than a block has: a decoder may look ahead.
    private readonly byte[] _taken = new byte[(BlockDecoder.MaxInstructions + 1) * MaxInstructionLength];
    private byte* _next, _end;
    private int _count, _position;
    private ulong _word; // what is left of the quadword at hand

    public void Set(byte* pointer, int length)
    {
        _next = pointer;
        _end = pointer + length;
        _count = _position = 0;
        int skipped = (int)pointer & 7;
        _word = length > 0 ? Volatile.Read(ref *(ulong*)(pointer - skipped)) >> (8 * skipped) : 0;
    }

    /// <summary>Bytes that the decoder has read.</summary>
    public int Position => _position;

    /// <summary>What was read from position <paramref name="start"/> on.</summary>
    public ReadOnlySpan<byte> Taken(int start) => _taken.AsSpan(start, _position - start);

    /// <summary>The decoder goes on at an earlier position, with the bytes that were taken there.</summary>
    public void Rewind(int position) => _position = position;

    public override int ReadByte()
    {
        if (_position < _count) return _taken[_position++];
        if (_next >= _end || _count == _taken.Length) return -1;
        if (((int)_next & 7) == 0) _word = Volatile.Read(ref *(ulong*)_next);
        var value = (byte)_word;
        _word >>= 8;
        _next++;
        _taken[_count++] = value;
        _position = _count;
        return value;
    }

    /// <summary>Of the first <paramref name="length"/> bytes that were taken: tells whether code that is read again is still the same.</summary>
    public ulong Checksum(int length)
    {
        ulong sum = (ulong)length;
        foreach (byte b in _taken.AsSpan(0, Math.Min(length, _taken.Length))) sum = (sum ^ b) * 0x0000_0100_0000_01B3;
        return sum;
    }

    /// <summary>Copies bytes as the decoder reads them.</summary>
    public static void Copy(byte* from, byte* to, int length)
    {
        ulong word = 0;
        for (int n = 0; n < length; n++)
        {
            int within = (int)(from + n) & 7;
            if (n == 0 || within == 0) word = Volatile.Read(ref *(ulong*)(from + n - within)) >> (8 * within);
            to[n] = (byte)word;
            word >>= 8;
        }
    }
}
