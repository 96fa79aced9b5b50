using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>A set of pages of the backing memory, in pieces that are made when something is in them. For one thread.</summary>
/// <param name="size">Bytes of the memory.</param>
internal sealed class PageSet(ulong size)
{
    private const int PieceShift = 15; // pages: 4 KiB of bits

    private readonly ulong[]?[] _pieces = new ulong[]?[(int)((size - 1) >> (GuestMemory.PageShift + PieceShift)) + 1];

    public void Add(ulong page) => Piece(page)[(page & ((1 << PieceShift) - 1)) >> 6] |= 1ul << (int)page;

    private ulong[] Piece(ulong page) => _pieces[page >> PieceShift] ??= new ulong[1 << (PieceShift - 6)];

    /// <summary>False: it was not in it.</summary>
    public bool Remove(ulong page)
    {
        if (_pieces[page >> PieceShift] is not { } piece) return false;
        ref ulong word = ref piece[(page & ((1 << PieceShift) - 1)) >> 6];
        ulong bit = 1ul << (int)page;
        bool was = (word & bit) != 0;
        word &= ~bit;
        return was;
    }
}
