using System.Numerics;

namespace Bunraku.Engines;

/// <summary>One cache of decoded or translated code: a vCPU of a software engine. Told of what others do to the pages that it read code from.</summary>
public interface ICodeObserver
{
    /// <summary>
    /// Somebody else wrote to a page that this observer watches, and it does not watch it any more: everything that it decoded there must go before it
    /// executes what its vCPU could know to be changed, which is at the latest when it next looks for signals from other threads. Any thread, must not wait.
    /// </summary>
    /// <param name="page">Offset of the page in the backing memory.</param>
    void CodeWritten(ulong page);

    /// <summary>
    /// Another observer watches a page from now on: this one must give up every way of writing to it without asking <see cref="CodePages.HoldsCode"/>, and
    /// then report it. Any thread, must not wait.
    /// </summary>
    /// <param name="page">Offset of the page in the backing memory.</param>
    void RevokeWrites(ulong page, Revocation revocation);
}

/// <summary>Counts the observers that have not given up their write access to a page yet. Thread-safe.</summary>
public sealed class Revocation
{
    private int _outstanding;

    /// <summary>One more observer will report; called inside <see cref="ICodeObserver.RevokeWrites"/> only.</summary>
    public void Expect() => Interlocked.Increment(ref _outstanding);

    /// <summary>The observer has given its access up; what it wrote before is visible to who sees <see cref="IsComplete"/>.</summary>
    public void Report() => Interlocked.Decrement(ref _outstanding);

    /// <summary>All have reported.</summary>
    public bool IsComplete => Volatile.Read(ref _outstanding) == 0;
}

/// <summary>
/// Which observers have read code from which page of guest memory, so that a write by anybody reaches all of them. Thread-safe.
/// </summary>
/// <remarks>
/// The guarantee (Intel SDM vol. 3A, "Handling Self- and Cross-Modifying Code"): a vCPU that sees a store of another one which came after a store to code,
/// and then executes a serialising instruction, executes the new code. The protocol:
/// <list type="number">
/// <item>A reader sets its bit (a full fence) before it reads code from the page.</item>
/// <item>A writer that asks looks at the bits behind a full fence after its store. Either the reader reads the new bytes, or the writer sees the bit, takes it
/// away and tells the reader. So a reader hears once of a page, however often it is written until the reader comes back to it.</item>
/// <item>A writer that does not ask (an entry of its software TLB lets it store directly) is asked to give that up, and reports. Until all have reported, the
/// reader must read the code again each time that it executes it. From then on the page is settled: no observer can write to it without asking, for as long
/// as any bit is set.</item>
/// </list>
/// </remarks>
public sealed class CodePages
{
    /// <summary>How many observers there can be at a time.</summary>
    public const int MostObservers = 63;
    private const ulong Settled = 1ul << MostObservers;

    /// <summary>log2 of the pages of one piece of the table: 4 KiB for 2 MiB of guest memory.</summary>
    private const int PieceShift = 9;
    private const ulong InPiece = (1ul << PieceShift) - 1;

    /// <summary>
    /// In pieces, made when a page of theirs is first watched and kept: a table of the whole memory takes longer to make and to look through than all else of a
    /// large machine. Bit n of a page's word: observer n watches the page; <see cref="Settled"/> only together with another bit.
    /// </summary>
    private readonly ulong[]?[] _pieces;
    private readonly Lock _observersLock = new();
    private volatile ICodeObserver?[] _observers = [];

    internal CodePages(ulong size) => _pieces = new ulong[]?[((size >> GuestMemory.PageShift) + InPiece) >> PieceShift];

    /// <summary>The word of a page that was watched at some time, or one of zeros that nobody writes to.</summary>
    private ref ulong PageOf(ulong offset)
    {
        ulong page = offset >> GuestMemory.PageShift;
        return ref (Volatile.Read(ref _pieces[page >> PieceShift]) ?? s_unwatched)[page & InPiece];
    }

    private static readonly ulong[] s_unwatched = new ulong[1 << PieceShift];

    private ref ulong MakePage(ulong offset)
    {
        ulong page = offset >> GuestMemory.PageShift;
        ref ulong[]? piece = ref _pieces[page >> PieceShift];
        if (Volatile.Read(ref piece) is null) Interlocked.CompareExchange(ref piece, new ulong[1 << PieceShift], null);
        return ref piece![page & InPiece];
    }

    /// <summary>Registers an observer. Not while guests run.</summary>
    /// <returns>The observer's number, 0 to 62.</returns>
    public int Add(ICodeObserver observer)
    {
        lock (_observersLock)
        {
            int n = Array.IndexOf(_observers, null);
            ICodeObserver?[] observers = _observers;
            if (n < 0)
            {
                n = observers.Length;
                if (n == MostObservers) throw new InvalidOperationException($"more than {MostObservers} processors cache code of one memory");
                observers = [.. observers, null];
            }
            else
            {
                observers = [.. observers];
            }
            observers[n] = observer;
            _observers = observers;
            return n;
        }
    }

    /// <summary>Forgets an observer, whose vCPU does not run any more.</summary>
    public void Remove(int observer)
    {
        lock (_observersLock)
        {
            _observers = [.. _observers.Select((o, n) => n == observer ? null : o)];
            ForEachWatched(page => Unwatch(page, observer));
        }
    }

    /// <summary>Some observer watches the page of this offset in the backing memory.</summary>
    public bool HoldsCode(ulong offset) => Volatile.Read(ref PageOf(offset)) != 0;

    /// <summary>
    /// The observer is about to read code from a page. Null: what it reads may be kept. Otherwise it may be kept only when it was read after the revocation
    /// was complete and <see cref="Settle"/> was called.
    /// </summary>
    public Revocation? Watch(ulong page, int observer)
    {
        ulong old = Interlocked.Or(ref MakePage(page), 1ul << observer);
        if ((old & Settled) != 0) return null;
        Revocation? revocation = null;
        ICodeObserver?[] observers = _observers;
        for (int n = 0; n < observers.Length; n++)
        {
            if (n == observer || observers[n] is not { } other) continue;
            revocation ??= new Revocation();
            other.RevokeWrites(page, revocation);
        }
        if (revocation is { IsComplete: false }) return revocation;
        Settle(page, observer);
        return null;
    }

    /// <summary>The observer's revocation for this page is complete.</summary>
    public void Settle(ulong page, int observer)
    {
        ref ulong bits = ref PageOf(page);
        // A bit that was taken away meanwhile says that others may write directly again.
        for (ulong old = Volatile.Read(ref bits); (old & 1ul << observer) != 0;)
        {
            ulong seen = Interlocked.CompareExchange(ref bits, old | Settled, old);
            if (seen == old) return;
            old = seen;
        }
    }

    /// <summary>The observer has no code of this page any more.</summary>
    public void Unwatch(ulong page, int observer)
    {
        ref ulong bits = ref PageOf(page);
        for (ulong old = Volatile.Read(ref bits); (old & 1ul << observer) != 0;)
        {
            ulong left = old & ~(1ul << observer);
            ulong seen = Interlocked.CompareExchange(ref bits, left == Settled ? 0 : left, old);
            if (seen == old) return;
            old = seen;
        }
    }

    /// <summary>An observer wrote to this page, behind a full fence: tells the others that watch it.</summary>
    public void WrittenBy(ulong page, int observer)
    {
        ref ulong bits = ref PageOf(page);
        ulong own = 1ul << observer | Settled;
        for (ulong old = Volatile.Read(ref bits); (old & ~own) != 0;)
        {
            ulong left = old & own;
            ulong seen = Interlocked.CompareExchange(ref bits, left == Settled ? 0 : left, old);
            if (seen == old)
            {
                Tell(page, old & ~own);
                return;
            }
            old = seen;
        }
    }

    /// <summary>Somebody who is no observer wrote to this page (DMA), behind a full fence: tells all that watch it.</summary>
    public void Written(ulong page)
    {
        ref ulong bits = ref PageOf(page);
        if (Volatile.Read(ref bits) != 0) Tell(page, Interlocked.Exchange(ref bits, 0) & ~Settled);
    }

    /// <summary>Any page with code may have been written.</summary>
    public void AllWritten() => ForEachWatched(Written);

    /// <param name="action">Takes the page's offset in the backing memory.</param>
    private void ForEachWatched(Action<ulong> action)
    {
        for (int piece = 0; piece < _pieces.Length; piece++)
        {
            if (Volatile.Read(ref _pieces[piece]) is not { } pages) continue;
            for (int page = 0; page < pages.Length; page++)
            {
                if (Volatile.Read(ref pages[page]) != 0) action(((ulong)piece << PieceShift | (uint)page) << GuestMemory.PageShift);
            }
        }
    }

    private void Tell(ulong page, ulong who)
    {
        page &= ~(GuestMemory.PageSize - 1);
        ICodeObserver?[] observers = _observers;
        for (; who != 0; who &= who - 1) observers[BitOperations.TrailingZeroCount(who)]?.CodeWritten(page);
    }
}
