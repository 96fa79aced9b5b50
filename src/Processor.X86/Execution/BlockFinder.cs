using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>From RIP to the decoded block: jump cache, code cache, decoder.</summary>
internal sealed unsafe class BlockFinder(Processor p)
{
    private readonly BlockDecoder _decoder = new(p);

    public static ulong CodeBase(ProcessorState* s) => (s->Mode & ModeKey.CodeSizeMask) == ModeKey.Code64 ? 0 : s->Cs.Base;

    /// <summary>The operation at RIP: from the jump cache, or looked up and decoded. Fills the link that led here.</summary>
    public Insn* Find(ProcessorState* s)
    {
        // Taken now: should the look-up fault, the handler's code must not become the link's target.
        Insn* link = s->LinkFrom;
        s->LinkFrom = null;
        ulong linear = s->Rip + CodeBase(s);
        JumpEntry* e = Flow.JumpSlot(s, linear);
        Insn* first;
        if (e->LinearRip == linear && e->Key == Flow.JumpKey(s) && (e->First->Flags & InsnFlags.Stale) == 0)
        {
            first = e->First;
            s->BlockRip = s->Rip;
        }
        else
        {
            uint epoch = s->JumpEpoch;
            first = FindSlow(s, linear);
            // Both pages' mappings, or the CS limit, must be looked at each time, or the code itself.
            if (_mustLookUp || (s->Mode & ModeKey.Flat) == 0) return first;
            if (s->JumpEpoch != epoch) link = null; // the arena may have been given up, and the link with it
            e->LinearRip = linear;
            e->Key = Flow.JumpKey(s);
            e->First = first;
            p.JumpCache.NotePage(linear);
        }
        // Within one linear page the mapping is the running block's own; nothing else guards a link.
        if (link != null && (link->Flags & InsnFlags.NoLink) == 0 && ((linear ^ (linear - (ulong)link->Imm)) & ~0xFFFul) == 0 && p.Code.MayLink(link, first))
            link->Link = first;
        return first;
    }

    private bool _mustLookUp; // the block that was found last may not be entered from anywhere but the dispatcher

    /// <summary>Look-ups in the page tables and the table of decoded blocks since power-on.</summary>
    public ulong LookUps { get; private set; }

    /// <summary>Looks RIP up in the page tables, finds the block there or decodes it. Faults leave Rip as it is, with no current instruction.</summary>
    public Insn* FindSlow(ProcessorState* s, ulong linear)
    {
        s->Work = CpuWork.LookUps;
        LookUps++;
        Insn* found = LookUp(s, linear);
        s->Work = CpuWork.Interpreter;
        return found;
    }

    private Insn* LookUp(ProcessorState* s, ulong linear)
    {
        bool flat = (s->Mode & ModeKey.Flat) != 0;
        bool code64 = (s->Mode & ModeKey.CodeSizeMask) == ModeKey.Code64;
        if (code64)
        {
            if (!p.IsCanonical(linear)) throw p.GeneralProtection();
        }
        else
        {
            s->Rip &= Flow.RipMask(s);
            linear = (uint)(s->Rip + s->Cs.Base);
            if (!flat && s->Rip > s->Cs.Limit) throw p.GeneralProtection();
        }
        byte* host = p.Mmu.Fetch(linear);
        uint mode = s->Mode;
        ulong start = p.Code.BackingOffset(host);
        p.Code.DropOneShot();
        Block* block = p.Code.Find(start, mode);
        ulong room = !code64 && !flat ? s->Cs.Limit - s->Rip + 1 : GuestMemory.PageSize; // bytes that the CS limit allows
        if (block != null && block->Length <= room && (!block->Crosses || SecondPageMatches(block, linear)))
        {
            _mustLookUp = block->Crosses;
            s->BlockRip = s->Rip;
            return block->First;
        }
        return DecodeAt(s, linear, host, start, mode, room);
    }

    private bool SecondPageMatches(Block* block, ulong linear) =>
        p.Code.BackingOffset(p.Mmu.Fetch(p.Mmu.Wrap((linear & ~0xFFFul) + GuestMemory.PageSize))) == block->SecondPage;

    private Insn* DecodeAt(ProcessorState* s, ulong linear, byte* host, ulong start, uint mode, ulong room)
    {
        if (!p.Code.HasRoom(BlockDecoder.MaxOperations)) p.Code.MakeRoom(FlushCause.Operations);
        s->Work = CpuWork.Decoding;
        int inPage = (int)(GuestMemory.PageSize - (linear & 0xFFF));
        int available = (int)Math.Min((ulong)inPage, room);
        int maximum = (mode & ModeKey.Single) != 0 ? 1 : int.MaxValue;
        ulong second = Block.NoPage;
        bool keep = p.Code.WatchCode(start & ~0xFFFul);
        // What is decoded for one run is not worth counting.
        bool counted = p.Translator != null && maximum > 1 && keep;
        if (!_decoder.Decode(host, available, s->Rip, (int)(linear & 0xFFF), mode & ~ModeKey.Single, maximum, crosses: false, counted))
        {
            // The instruction reaches into the next page, or beyond the CS limit.
            if (room <= (ulong)inPage) throw p.GeneralProtection();
            byte* next = p.Mmu.Fetch(p.Mmu.Wrap((linear & ~0xFFFul) + GuestMemory.PageSize));
            keep &= p.Code.WatchCode(p.Code.BackingOffset(next));
            counted &= keep;
            byte* bytes = stackalloc byte[32];
            int rest = (int)Math.Min(16, room - (ulong)inPage);
            CodeBytes.Copy(host, bytes, inPage);
            CodeBytes.Copy(next, bytes + inPage, rest);
            if (!_decoder.Decode(bytes, inPage + rest, s->Rip, (int)(linear & 0xFFF), mode & ~ModeKey.Single, 1, crosses: true, counted))
                throw p.GeneralProtection();
            second = p.Code.BackingOffset(next);
        }
        if (_decoder.OutOfThunks)
        {
            p.Code.Flush(FlushCause.Thunks);
            p.Thunks.Clear();
            return DecodeAt(s, linear, host, start, mode, room);
        }
        Block* block = Add(start, second, mode, keep);
        _mustLookUp = block->Crosses || !keep;
        s->BlockRip = s->Rip;
        return block->First;
    }

    private Block* Add(ulong start, ulong second, uint mode, bool keep)
    {
        var made = new Block { Start = start, SecondPage = second, Checksum = _decoder.Checksum, Mode = mode, Length = (ushort)_decoder.Length };
        return p.Code.Add(made, _decoder.Operations, keep);
    }

    /// <summary>
    /// Decodes a block that is not entered yet, in a page of which code runs that is kept; null: it lies in two pages, there is no room, or the code must be
    /// looked at when it is executed.
    /// </summary>
    public Block* DecodeAhead(ulong start, ulong rip, uint mode)
    {
        if (!p.Code.HasRoom(BlockDecoder.MaxOperations) || !p.Code.WatchCode(start & ~0xFFFul)) return null;
        int available = (int)(GuestMemory.PageSize - (start & 0xFFF));
        bool done = _decoder.Decode(p.Memory.Backing.Pointer + start, available, rip, (int)(rip & 0xFFF), mode, int.MaxValue, crosses: false, counted: true);
        return done && !_decoder.OutOfThunks ? Add(start, Block.NoPage, mode, keep: true) : null;
    }
}
