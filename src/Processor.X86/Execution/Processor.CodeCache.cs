using System.Collections.Concurrent;
using System.Runtime.InteropServices;
using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>
/// The cache of decoded blocks. Code pages are write-protected in the software TLB; a write to a line (64 bytes) that holds decoded code turns the
/// blocks there into stubs that lead back to the dispatcher, so that no link has to be found and undone, and a block may change itself.
/// </summary>
public sealed unsafe partial class Processor : ICodeObserver
{
    private const int BucketBits = 17;

    /// <summary>What is known about one guest page that holds decoded code.</summary>
    private sealed class CodePage
    {
        /// <summary>Somebody may still write to the page unnoticed: code that was read from it must not be kept.</summary>
        public Revocation? Revocation;
        public ulong Lines; // bit n: bytes [64n, 64n+63] hold decoded code
        public Block* First; // blocks that begin here
        public Block* FirstCrossing; // blocks that reach in from the page before
    }

    private readonly Dictionary<ulong, CodePage> _codePages = []; // by offset in the backing memory
    private readonly Block** _buckets = (Block**)NativeMemory.AllocZeroed(1 << BucketBits, (nuint)sizeof(Block*));
    private readonly BlockArena _arena = new();
    private readonly ConcurrentQueue<ulong> _foreignWrites = new(); // pages, by offset in the backing memory
    private readonly int _observer; // this vCPU's number in Memory.Code
    private Block* _oneShot; // the last block that was decoded from a page with a revocation

    internal ulong BlocksDecoded, BlocksInvalidated, BlocksTranslated, CodeFlushes;

    /// <summary>
    /// A page that this or another vCPU has decoded code of. This one's own pages are asked for too: the mark of a page goes when another vCPU has written to it, which
    /// this one hears of a moment later.
    /// </summary>
    private bool IsCodePage(byte* host)
    {
        ulong page = BackingOffset(host) & ~0xFFFul;
        return Memory.Code.HoldsCode(page) || (Group.Count > 1 && _codePages.ContainsKey(page));
    }

    private ulong BackingOffset(byte* host) => (ulong)(host - Memory.Backing.Pointer);

    private Block* FindBlock(ulong start, uint mode)
    {
        for (Block* b = _buckets[Bucket(start, mode)]; b != null; b = b->NextInBucket)
            if (b->Start == start && b->Mode == mode) return b;
        return null;
    }

    private static int Bucket(ulong start, uint mode)
    {
        ulong h = (start ^ ((ulong)mode << 40)) * 0x9E37_79B9_7F4A_7C15;
        return (int)(h >> (64 - BucketBits));
    }

    /// <summary>Enters a block into the hash table and its pages, whose writes are watched from now on.</summary>
    private void Register(Block* b)
    {
        ref Block* bucket = ref _buckets[Bucket(b->Start, b->Mode)];
        b->NextInBucket = bucket;
        bucket = b;
        b->Valid = true;
        BlocksDecoded++;

        ulong page = b->Start & ~0xFFFul;
        CodePage first = _codePages[page];
        b->NextInPage = first.First;
        first.First = b;
        int begin = (int)(b->Start & 0xFFF), end = Math.Min(begin + b->Length, 0x1000);
        first.Lines |= LinesOf(begin, end);
        if (!b->Crosses) return;
        CodePage second = _codePages[b->SecondPage];
        b->NextInSecondPage = second.FirstCrossing;
        second.FirstCrossing = b;
        second.Lines |= LinesOf(0, begin + b->Length - 0x1000);
    }

    /// <summary>Code is about to be read from a page, whose writes are watched from now on. False: what is read must not be kept.</summary>
    private bool WatchCode(ulong page)
    {
        if (!_codePages.TryGetValue(page, out CodePage? known))
        {
            _codePages[page] = known = new CodePage();
            RevokeWrites(Memory.Backing.Pointer + page);
            known.Revocation = Memory.Code.Watch(page, _observer);
        }
        else if (known.Revocation is { IsComplete: true })
        {
            known.Revocation = null;
            Memory.Code.Settle(page, _observer);
        }
        return known.Revocation == null;
    }

    /// <summary>Drops the block that could not be kept; the next execution decodes it again.</summary>
    private void DropOneShot()
    {
        if (_oneShot == null) return;
        Block* b = _oneShot;
        _oneShot = null;
        if (b->Valid) InvalidateCode(b->Start & ~0xFFFul, (int)(b->Start & 0xFFF), 1, forget: false);
    }

    /// <summary>Bytes of a code page were written by this vCPU; the range lies in one page.</summary>
    private void InvalidateCode(byte* host, int length)
    {
        ulong offset = BackingOffset(host);
        InvalidateCode(offset & ~0xFFFul, (int)(offset & 0xFFF), length);
    }

    /// <param name="forget">A page without code left is no code page any more.</param>
    private void InvalidateCode(ulong pageOffset, int begin, int length, bool forget = true)
    {
        if (!_codePages.TryGetValue(pageOffset, out CodePage? page)) return;
        if ((page.Lines & LinesOf(begin, begin + length)) != 0) RetireBlocks(page, begin, length);
        if (!forget || page.First != null || page.FirstCrossing != null) return;
        _codePages.Remove(pageOffset);
        Memory.Code.Unwatch(pageOffset, _observer);
    }

    /// <summary>Retires the blocks that have code in a range of a page.</summary>
    private void RetireBlocks(CodePage page, int begin, int length)
    {
        ulong kept = 0;
        Block* previous = null;
        for (Block* b = page.First; b != null;)
        {
            Block* next = b->NextInPage;
            int from = (int)(b->Start & 0xFFF), to = Math.Min(from + b->Length, 0x1000);
            if (!b->Valid || (begin < to && from < begin + length))
            {
                Retire(b);
                if (previous == null) page.First = next;
                else previous->NextInPage = next;
            }
            else
            {
                kept |= LinesOf(from, to);
                previous = b;
            }
            b = next;
        }
        previous = null;
        for (Block* b = page.FirstCrossing; b != null;)
        {
            Block* next = b->NextInSecondPage;
            int to = (int)(b->Start & 0xFFF) + b->Length - 0x1000;
            if (!b->Valid || begin < to)
            {
                Retire(b);
                if (previous == null) page.FirstCrossing = next;
                else previous->NextInSecondPage = next;
            }
            else
            {
                kept |= LinesOf(0, to);
                previous = b;
            }
            b = next;
        }
        page.Lines = kept;
    }

    private static ulong LinesOf(int begin, int end)
    {
        ulong lines = 0;
        for (int line = begin >> 6; line <= (end - 1) >> 6; line++) lines |= 1ul << line;
        return lines;
    }

    /// <summary>Takes a block out of the hash table and turns each of its operations into a way back to the dispatcher; it may be the running one.</summary>
    private void Retire(Block* b)
    {
        if (!b->Valid) return;
        b->Valid = false;
        BlocksInvalidated++;
        Block** link = &_buckets[Bucket(b->Start, b->Mode)];
        while (*link != b) link = &(*link)->NextInBucket;
        *link = b->NextInBucket;
        GiveUpTranslations(b);
        for (int n = 0; n < b->Count; n++)
        {
            b->First[n].Handler = &Operations.Resync;
            b->First[n].Flags |= InsnFlags.Stale;
        }
    }

    /// <summary>Gives all decoded code up. Only between blocks.</summary>
    private void FlushCode()
    {
        CodeFlushes++;
        NoteHotBlocks();
        foreach ((ulong page, _) in _codePages) Memory.Code.Unwatch(page, _observer);
        _codePages.Clear();
        _oneShot = null;
        new Span<byte>(_buckets, (1 << BucketBits) * sizeof(Block*)).Clear();
        _arena.Clear();
        State->LinkFrom = null;
        State->Current = null;
        FlushTranslations();
        BumpJumpEpoch();
    }

    /// <inheritdoc/>
    void ICodeObserver.CodeWritten(ulong page)
    {
        _foreignWrites.Enqueue(page);
        Signal(Attention.Event);
    }

    private void ProcessForeignWrites()
    {
        while (_foreignWrites.TryDequeue(out ulong page)) InvalidateCode(page, 0, (int)GuestMemory.PageSize);
    }
}
