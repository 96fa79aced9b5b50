using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>
/// Pages of the backing memory that an entry of a <see cref="Tlb"/>, or of its first level, may let code write to, and where such entries are: most pages are
/// written to through one linear address, so that taking the right away need not search all entries. In pieces that are made when something is in them. For
/// one thread.
/// </summary>
/// <param name="size">Bytes of the memory.</param>
internal sealed class WrittenPages(ulong size)
{
    private const int PieceShift = 12; // pages: 8 KiB
    /// <summary>Stands for several entries. Else it is the number of one, and one more, so that 0 says that there is none.</summary>
    private const ushort Several = ushort.MaxValue;

    private readonly ushort[]?[] _pieces = new ushort[]?[(int)((size - 1) >> (GuestMemory.PageShift + PieceShift)) + 1];

    /// <summary>An entry lets code write to a page.</summary>
    /// <param name="page">Number of the page.</param>
    /// <param name="entry">Number of the entry, below <see cref="ProcessorState.TlbSize"/>.</param>
    public void Add(ulong page, int entry)
    {
        ushort[] piece = _pieces[page >> PieceShift] ??= new ushort[1 << PieceShift];
        ref ushort where = ref piece[page & ((1 << PieceShift) - 1)];
        var number = (ushort)(entry + 1);
        if (where != number) where = where == 0 ? number : Several;
    }

    /// <summary>The page is in it no more. False: it was not.</summary>
    /// <param name="entry">Number of the only entry, which may be another page's since; -1: any number of them.</param>
    public bool Remove(ulong page, out int entry)
    {
        entry = -1;
        if (_pieces[page >> PieceShift] is not { } piece) return false;
        ref ushort where = ref piece[page & ((1 << PieceShift) - 1)];
        if (where == 0) return false;
        if (where != Several) entry = where - 1;
        where = 0;
        return true;
    }
}
