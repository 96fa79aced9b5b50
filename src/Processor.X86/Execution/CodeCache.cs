using System.Collections.Concurrent;
using System.Runtime.InteropServices;
using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>
/// Decoded blocks, by where their first byte lies in guest memory. Code pages are write-protected in the software TLB; a write to a line (64 bytes) that holds
/// decoded code turns the blocks there into stubs that lead back to the dispatcher, so that no link has to be found and undone, and a block may change itself.
/// </summary>
internal sealed unsafe class CodeCache(Processor p, CodeCacheSizes sizes) : ICodeObserver, IDisposable
{
    private const int BucketBits = 17, PageSize = (int)GuestMemory.PageSize;

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
    private readonly Generations _generations = new(sizes);
    private readonly ConcurrentQueue<ulong> _foreignWrites = new(); // pages, by offset in the backing memory
    private int _observer = -1; // this vCPU's number in Memory.Code
    private Block* _oneShot; // the last block that was decoded from a page with a revocation

    private bool _disposed;

    public ulong BlocksDecoded { get; private set; }

    public ulong BlocksInvalidated { get; private set; }

    private readonly ulong[] _flushes = new ulong[Enum.GetValues<FlushCause>().Length];

    /// <summary>How often code was given up, a generation or all of it.</summary>
    public ulong Flushes { get; private set; }

    /// <summary>And for this reason.</summary>
    public ulong FlushesFor(FlushCause cause) => _flushes[(int)cause];

    /// <inheritdoc cref="BlockArena.Bytes"/>
    public (ulong Used, ulong Size) ArenaBytes => _generations.Bytes;

    /// <summary>Generations that there are.</summary>
    public int GenerationCount => _generations.Count;

    /// <summary>The generation that is filled now.</summary>
    public int Generation => _generations.Number;

    /// <inheritdoc cref="Generations.NoteUse"/>
    public void NoteUse(int generation) => _generations.NoteUse(generation);

    ~CodeCache() => Release();

    /// <summary>From now on others tell of their writes.</summary>
    public void Attach() => _observer = p.Memory.Code.Add(this);

    public void Detach() => p.Memory.Code.Remove(_observer);

    public void Dispose()
    {
        _generations.Dispose();
        Release();
        GC.SuppressFinalize(this);
    }

    private void Release()
    {
        if (_disposed) return;
        _disposed = true;
        NativeMemory.Free(_buckets);
    }

    /// <summary>
    /// A page that this or another vCPU has decoded code of. This one's own pages are asked for too: the mark of a page goes when another vCPU has written to
    /// it, which this one hears of a moment later.
    /// </summary>
    public bool IsCodePage(byte* host)
    {
        ulong page = BackingOffset(host) & ~0xFFFul;
        return p.Memory.Code.HoldsCode(page) || (p.Group.Count > 1 && _codePages.ContainsKey(page));
    }

    public ulong BackingOffset(byte* host) => (ulong)(host - p.Memory.Backing.Pointer);

    public Block* Find(ulong start, uint mode)
    {
        for (Block* b = _buckets[Bucket(start, mode)]; b != null; b = b->NextInBucket)
            if (b->Start == start && b->Mode == mode) return b;
        return null;
    }

    /// <summary>The first of the blocks that begin in a page.</summary>
    public Block* FirstInPage(ulong page) => _codePages.TryGetValue(page, out CodePage? known) ? known.First : null;

    private static int Bucket(ulong start, uint mode)
    {
        ulong h = (start ^ ((ulong)mode << 40)) * 0x9E37_79B9_7F4A_7C15;
        return (int)(h >> (64 - BucketBits));
    }

    /// <summary>Room for a block of up to so many operations; what is not enough is made by <see cref="MakeRoom"/>.</summary>
    public bool HasRoom(int operations) => _generations.Current.HasRoom(operations);

    /// <summary>
    /// One operation may hold the address of the other: they are given up together, so that nobody has to look for links when a generation is given up.
    /// </summary>
    public bool MayLink(Insn* from, Insn* to) => _generations.AreTogether(from, to);

    /// <summary>Takes a decoded block over: <paramref name="block"/> has everything but its operations.</summary>
    /// <param name="keep">False: the next execution decodes it again.</param>
    public Block* Add(in Block block, ReadOnlySpan<Insn> operations, bool keep)
    {
        Block* b = _generations.Current.AddBlock();
        *b = block;
        b->Count = (ushort)operations.Length;
        b->First = _generations.Current.Add(operations);
        b->Generation = (byte)_generations.Number;
        _generations.NoteDecoded(wasThere: p.Translator != null && p.Translator.NoteBlock(b, isCrowded: _generations.IsCrowded));
        Register(b);
        if (!keep) _oneShot = b;
        return b;
    }

    /// <summary>All code is about to be given up: what was worth translating is noted.</summary>
    private void NoteHotBlocks(Translator translator)
    {
        foreach (CodePage page in _codePages.Values)
        {
            for (Block* b = page.First; b != null; b = b->NextInPage) translator.NoteHot(b);
        }
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
        int begin = (int)(b->Start & 0xFFF), end = Math.Min(begin + b->Length, PageSize);
        first.Lines |= LinesOf(begin, end);
        if (!b->Crosses) return;
        CodePage second = _codePages[b->SecondPage];
        b->NextInSecondPage = second.FirstCrossing;
        second.FirstCrossing = b;
        second.Lines |= LinesOf(0, begin + b->Length - PageSize);
    }

    /// <summary>Code is about to be read from a page, whose writes are watched from now on. False: what is read must not be kept.</summary>
    public bool WatchCode(ulong page)
    {
        if (!_codePages.TryGetValue(page, out CodePage? known))
        {
            _codePages[page] = known = new CodePage();
            p.Tlb.RevokeWrites(p.Memory.Backing.Pointer + page);
            known.Revocation = p.Memory.Code.Watch(page, _observer);
        }
        else if (known.Revocation is { IsComplete: true })
        {
            known.Revocation = null;
            p.Memory.Code.Settle(page, _observer);
        }
        return known.Revocation == null;
    }

    /// <summary>Drops the block that could not be kept; the next execution decodes it again.</summary>
    public void DropOneShot()
    {
        if (_oneShot == null) return;
        Block* b = _oneShot;
        _oneShot = null;
        if (b->Valid) Invalidate(b->Start & ~0xFFFul, (int)(b->Start & 0xFFF), 1, forget: false);
    }

    /// <summary>Bytes of a code page were written by this vCPU; the range lies in one page.</summary>
    private void Invalidate(byte* host, int length)
    {
        ulong offset = BackingOffset(host);
        Invalidate(offset & ~0xFFFul, (int)(offset & 0xFFF), length);
    }

    /// <param name="forget">Whether a page without code left is a code page no more.</param>
    private void Invalidate(ulong pageOffset, int begin, int length, bool forget = true)
    {
        if (!_codePages.TryGetValue(pageOffset, out CodePage? page)) return;
        CpuWork work = p.State->Work;
        p.State->Work = CpuWork.Evictions;
        if ((page.Lines & LinesOf(begin, begin + length)) != 0) DiscardBlocks(page, begin, length);
        p.Direct?.CodeWritten(pageOffset);
        if (forget) ForgetIfEmpty(pageOffset, page);
        p.State->Work = work;
    }

    /// <summary>A page without code left is no code page any more.</summary>
    private void ForgetIfEmpty(ulong pageOffset, CodePage page)
    {
        if (page.First != null || page.FirstCrossing != null || p.Direct?.Executes(pageOffset) == true) return;
        _codePages.Remove(pageOffset);
        p.Memory.Code.Unwatch(pageOffset, _observer);
    }

    /// <summary>Discards the blocks that have code in a range of a page.</summary>
    private void DiscardBlocks(CodePage page, int begin, int length)
    {
        for (Block* b = page.First; b != null; b = b->NextInPage)
        {
            int from = (int)(b->Start & 0xFFF);
            if (begin < Math.Min(from + b->Length, PageSize) && from < begin + length) Discard(b);
        }
        for (Block* b = page.FirstCrossing; b != null; b = b->NextInSecondPage)
            if (begin < (int)(b->Start & 0xFFF) + b->Length - PageSize) Discard(b);
        KeepValid(page);
    }

    /// <summary>Discards the blocks that have code at this offset of any page. Outside the guest, or between blocks.</summary>
    public void DiscardAt(int offset)
    {
        foreach (CodePage page in _codePages.Values)
        {
            if ((page.Lines & LinesOf(offset, offset + 1)) != 0) DiscardBlocks(page, offset, 1);
        }
        if (_oneShot != null && !_oneShot->Valid) _oneShot = null;
        p.State->LinkFrom = null;
        p.Translator?.ForgetOpenLink();
    }

    private static ulong LinesOf(int begin, int end)
    {
        ulong lines = 0;
        for (int line = begin >> 6; line <= (end - 1) >> 6; line++) lines |= 1ul << line;
        return lines;
    }

    /// <summary>Takes a block out of the hash table and turns each of its operations into a way back to the dispatcher; it may be the running one.</summary>
    private void Discard(Block* b)
    {
        if (!b->Valid) return;
        BlocksInvalidated++;
        Forget(b);
        for (int n = 0; n < b->Count; n++)
        {
            b->First[n].Handler = &Operations.Resync;
            b->First[n].Flags |= InsnFlags.Stale;
        }
    }

    /// <summary>The block is found no more, nor are its translations.</summary>
    private void Forget(Block* b)
    {
        b->Valid = false;
        Block** link = &_buckets[Bucket(b->Start, b->Mode)];
        while (*link != b) link = &(*link)->NextInBucket;
        *link = b->NextInBucket;
        p.Translator?.GiveUp(b);
    }

    /// <summary>
    /// Goes on with an empty generation: one that was not used yet, one more where most of what was decoded last had been given up before, or else one whose
    /// code is given up. Only between blocks.
    /// </summary>
    public void MakeRoom(FlushCause cause)
    {
        CpuWork work = p.State->Work;
        p.State->Work = CpuWork.Evictions;
        bool isEmpty = _generations.Advance();
        p.Translator?.SelectGeneration(_generations.Number);
        if (!isEmpty)
        {
            Flushes++;
            _flushes[(int)cause]++;
            GiveUpCurrent();
        }
        p.State->Work = work;
    }

    /// <summary>Gives the code of the generation up that is to be filled next.</summary>
    private void GiveUpCurrent()
    {
        var pages = new HashSet<ulong>();
        foreach (ref Block block in _generations.Current.Blocks)
        {
            if (block.Valid)
            {
                fixed (Block* b = &block)
                {
                    p.Translator?.NoteHot(b);
                    Forget(b);
                }
            }
            // Also of a block that was written to: it went out of the lists of the page that was written, and stays in those of its other page.
            pages.Add(block.Start & ~0xFFFul);
            if (block.Crosses) pages.Add(block.SecondPage);
        }
        foreach (ulong page in pages)
        {
            if (!_codePages.TryGetValue(page, out CodePage? known)) continue;
            KeepValid(known);
            ForgetIfEmpty(page, known);
        }
        if (_oneShot != null && !_oneShot->Valid) _oneShot = null;
        _generations.Current.Clear();
        p.Translator?.GiveUpGeneration();
        p.State->LinkFrom = null;
        p.State->Current = null;
        p.JumpCache.Forget();
    }

    /// <summary>Takes the blocks that are not valid any more out of a page's lists.</summary>
    private static void KeepValid(CodePage page)
    {
        page.Lines = 0;
        Block* next;
        Block* blocks = page.First;
        page.First = null;
        for (Block* b = blocks; b != null; b = next)
        {
            next = b->NextInPage;
            if (!b->Valid) continue;
            int from = (int)(b->Start & 0xFFF);
            page.Lines |= LinesOf(from, Math.Min(from + b->Length, PageSize));
            b->NextInPage = page.First;
            page.First = b;
        }
        blocks = page.FirstCrossing;
        page.FirstCrossing = null;
        for (Block* b = blocks; b != null; b = next)
        {
            next = b->NextInSecondPage;
            if (!b->Valid) continue;
            page.Lines |= LinesOf(0, (int)(b->Start & 0xFFF) + b->Length - PageSize);
            b->NextInSecondPage = page.FirstCrossing;
            page.FirstCrossing = b;
        }
    }

    /// <summary>Gives all decoded code up. Only between blocks.</summary>
    public void Flush(FlushCause cause)
    {
        CpuWork work = p.State->Work;
        p.State->Work = CpuWork.Evictions;
        Flushes++;
        _flushes[(int)cause]++;
        if (p.Translator != null) NoteHotBlocks(p.Translator);
        p.Direct?.CodeForgotten();
        foreach ((ulong page, _) in _codePages) p.Memory.Code.Unwatch(page, _observer);
        _codePages.Clear();
        _oneShot = null;
        new Span<byte>(_buckets, (1 << BucketBits) * sizeof(Block*)).Clear();
        _generations.Clear();
        p.State->LinkFrom = null;
        p.State->Current = null;
        p.Translator?.Flush();
        p.Translator?.SelectGeneration(_generations.Number);
        p.JumpCache.Forget();
        p.State->Work = work;
    }

    /// <inheritdoc/>
    void ICodeObserver.RevokeWrites(ulong page, Revocation revocation) => p.Shootdown.Ask(page, revocation);

    /// <inheritdoc/>
    void ICodeObserver.CodeWritten(ulong page)
    {
        _foreignWrites.Enqueue(page);
        p.Signal(Attention.Event);
    }

    public void ProcessForeignWrites()
    {
        while (_foreignWrites.TryDequeue(out ulong page)) Invalidate(page, 0, PageSize);
    }

    /// <summary>
    /// Bytes were written past the TLB: decoded code in the way is forgotten, here and elsewhere. The range lies in one page.
    /// </summary>
    public void AfterWrite(byte* host, int length)
    {
        // The store comes before the look at the page: see CodePages.
        Interlocked.MemoryBarrier();
        Invalidate(host, length);
        p.Memory.Code.WrittenBy(BackingOffset(host), _observer);
    }
}
