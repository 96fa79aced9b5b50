namespace Bunraku.Processor.X86;

/// <summary>
/// Remembers which blocks there were, beyond the moment when their code is given up: those that come again are translated as soon as they are decoded, and do
/// not have to be entered many times first. A hint: it may say yes about a block that it never saw.
/// </summary>
internal sealed class HotBlocks
{
    private const int Bits = 22; // 512 KiB
    /// <summary>Fuller than this it would say yes too often, and begins anew.</summary>
    private const int Most = 1 << (Bits - 2);

    private readonly ulong[] _bits = new ulong[1 << (Bits - 6)];
    private int _count;

    /// <param name="start">Offset of the block's first byte in the backing memory.</param>
    public void Add(ulong start, uint mode)
    {
        if (_count == Most)
        {
            Array.Clear(_bits);
            _count = 0;
        }
        (int word, ulong bit) = Place(start, mode);
        if ((_bits[word] & bit) != 0) return;
        _bits[word] |= bit;
        _count++;
    }

    /// <inheritdoc cref="Add"/>
    public bool Contains(ulong start, uint mode)
    {
        (int word, ulong bit) = Place(start, mode);
        return (_bits[word] & bit) != 0;
    }

    private static (int Word, ulong Bit) Place(ulong start, uint mode)
    {
        ulong hash = (start ^ (ulong)mode << 40) * 0x9E37_79B9_7F4A_7C15 >> (64 - Bits);
        return ((int)(hash >> 6), 1ul << (int)(hash & 63));
    }
}
