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
    private const int BucketBits = 15;

    /// <summary>What is known about one guest page that holds decoded code.</summary>
    private sealed class CodePage
    {
        public ulong Lines; // bit n: bytes [64n, 64n+63] hold decoded code
        public Block* First; // blocks that begin here
        public Block* FirstCrossing; // blocks that reach in from the page before
    }

    private readonly Dictionary<ulong, CodePage> _codePages = []; // by offset in the backing memory
    private readonly Block** _buckets = (Block**)NativeMemory.AllocZeroed(1 << BucketBits, (nuint)sizeof(Block*));
    private readonly BlockArena _arena = new();
    private readonly ConcurrentQueue<(ulong Address, ulong Length)> _foreignWrites = new();

    internal ulong BlocksDecoded, BlocksInvalidated;

    private bool IsCodePage(byte* host) => Memory.CodeFlagOfHost(host) != 0;

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
        CodePage first = PageOf(page);
        b->NextInPage = first.First;
        first.First = b;
        int begin = (int)(b->Start & 0xFFF), end = Math.Min(begin + b->Length, 0x1000);
        MarkLines(first, begin, end);
        if (!b->Crosses) return;
        CodePage second = PageOf(b->SecondPage);
        b->NextInSecondPage = second.FirstCrossing;
        second.FirstCrossing = b;
        MarkLines(second, 0, begin + b->Length - 0x1000);
    }

    private static void MarkLines(CodePage page, int begin, int end)
    {
        for (int line = begin >> 6; line <= (end - 1) >> 6; line++) page.Lines |= 1ul << line;
    }

    private CodePage PageOf(ulong page)
    {
        if (_codePages.TryGetValue(page, out CodePage? known)) return known;
        byte* host = Memory.Backing.Pointer + page;
        Memory.CodeFlagOfHost(host) = 1;
        RevokeWrites(host);
        return _codePages[page] = new CodePage();
    }

    /// <summary>Bytes of a code page were written by this vCPU; the range lies in one page.</summary>
    private void InvalidateCode(byte* host, int length)
    {
        ulong offset = BackingOffset(host);
        InvalidateCode(offset & ~0xFFFul, (int)(offset & 0xFFF), length);
    }

    private void InvalidateCode(ulong pageOffset, int begin, int length)
    {
        if (!_codePages.TryGetValue(pageOffset, out CodePage? page)) return;
        ulong lines = 0;
        for (int line = begin >> 6; line <= (begin + length - 1) >> 6; line++) lines |= 1ul << line;
        if ((page.Lines & lines) == 0) return;

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
        if (page.First == null && page.FirstCrossing == null)
        {
            _codePages.Remove(pageOffset);
            Memory.ForgetCode(Memory.Backing.Pointer + pageOffset);
        }
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
        foreach ((ulong page, _) in _codePages) Memory.ForgetCode(Memory.Backing.Pointer + page);
        _codePages.Clear();
        new Span<byte>(_buckets, (1 << BucketBits) * sizeof(Block*)).Clear();
        _arena.Clear();
        State->LinkFrom = null;
        State->Current = null;
        FlushTranslations();
        BumpJumpEpoch();
    }

    /// <inheritdoc/>
    void ICodeObserver.CodeWritten(ulong address, ulong length)
    {
        _foreignWrites.Enqueue((address, length));
        Signal(Attention.Event);
    }

    private void ProcessForeignWrites()
    {
        while (_foreignWrites.TryDequeue(out (ulong Address, ulong Length) write))
        {
            byte* page = Memory.PagePointer(write.Address);
            if (page != null) InvalidateCode(BackingOffset(page), (int)(write.Address & 0xFFF), (int)write.Length);
        }
    }
}
