using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>
/// When blocks are translated, how their translations are linked, and what makes them invalid. A block that is decoded for a translating processor begins with
/// an operation that counts and, once there is a translation, enters it; so everything that leads to a block leads to its translation. What translated code
/// does not do itself the interpreter's handlers do, one operation at a time: <see cref="TranslatedRunner"/>.
/// </summary>
internal sealed unsafe class Translator : IDisposable
{
    private readonly Processor p;
    private readonly TranslationStore _store;
    private readonly BlockTranslator _blocks;
    private readonly TranslationLinks _links;
    private readonly TranslationMover _mover;
    private readonly TraceSelector _traces;
    private readonly LinearMirror _mirror;
    private readonly TranslatedRunner _runner;
    private readonly TranslatorReport _report;
    /// <summary>
    /// Instructions at the beginning, in which almost all code is new and little of it is executed often: a guest that was restored for one short command has
    /// come to its end by then.
    /// </summary>
    private const ulong Youth = 6_000_000;

    private readonly int _threshold, _youngThreshold, _movesForAnother;
    private HotBlocks? _hot; // what was given up; null: nothing ever was
    private TranslationLink* _openLink; // through which translated code was left last; tied when its target is entered next

    /// <param name="threshold">How often a block is entered before it is translated.</param>
    /// <param name="sizes">How large the caches are.</param>
    public Translator(Processor processor, int threshold, CodeCacheSizes sizes)
    {
        p = processor;
        // XSAVE faults where its area is not aligned.
        if (StateOffsets.Fxsave % 64 != 0 || StateOffsets.XsaveHeader != StateOffsets.Fxsave + 512)
            throw new InvalidOperationException($"the XSAVE area lies at {StateOffsets.Fxsave}");
        _threshold = threshold;
        _youngThreshold = threshold < TranslatorEngine.DefaultThreshold ? threshold : 16 * threshold; // a low one is for tests
        _movesForAnother = Math.Max(2, threshold);
        _store = new TranslationStore(p.State, sizes);
        _links = new TranslationLinks(_store);
        _mover = new TranslationMover(p, _store, _links);
        _blocks = new BlockTranslator(_store, p.State, p.Model, p.Clock.Scale);
        _traces = new TraceSelector(p, threshold);
        _mirror = new LinearMirror(p.Memory.Backing, () => FirstLevel!.Drop());
        FirstLevel = new FirstLevelTlb(p.State, _mirror);
        _runner = new TranslatedRunner(p, this, _store.Runtime, _mirror);
        _report = new TranslatorReport(p.State, _store, sizes, _runner, _mover, () => p.Code.GenerationCount);
        Flush();
    }

    /// <summary>The part of the software TLB that emitted code looks at itself.</summary>
    public FirstLevelTlb FirstLevel { get; }

    /// <summary>What its caches hold, and why translated code was left. Any thread, approximately.</summary>
    public IEnumerable<EngineCache> Caches => _report.Caches;

    /// <inheritdoc cref="Caches"/>
    public IEnumerable<EngineCount> Counts => _report.Counts;

    /// <inheritdoc cref="TranslationStore.ForgetReturns"/>
    public void ForgetReturns() => _store.ForgetReturns();

    /// <inheritdoc cref="IVirtualCpu.ObserveCode"/>
    public void ObserveCode(IHostCodeObserver observer) => _store.ObserveCode(observer);

    /// <summary>Translations since power-on.</summary>
    public ulong BlocksTranslated { get; private set; }

    /// <summary>There is no room: all code is to be given up, between two blocks.</summary>
    public bool IsFull { get; private set; }

    /// <summary>What there is no room for.</summary>
    public FlushCause Full { get; private set; }

    private void WantFlush(FlushCause cause)
    {
        IsFull = true;
        Full = cause;
        p.WantAttention();
    }

    public void Dispose()
    {
        _store.Dispose();
        _mirror.Dispose();
    }

    /// <summary>Translated code was left through a link, which is tied when its target is entered next.</summary>
    public void LeaveOpen(TranslationLink* link) => _openLink = link;

    public void ForgetOpenLink() => _openLink = null;

    /// <summary>There was a block that was given up not long ago.</summary>
    public bool WasHot(ulong start, uint mode) => _hot != null && _hot.Contains(start, mode);

    /// <summary>The counting operation needs its block.</summary>
    /// <param name="isCrowded">What is decoded is soon given up again: it is not worth translating unless it shows that it is.</param>
    /// <returns>It was given up before.</returns>
    public bool NoteBlock(Block* block, bool isCrowded)
    {
        if ((block->First->Flags & InsnFlags.Counted) == 0) return false;
        block->First->Disp = (long)block;
        if (!WasHot(block->Start, block->Mode)) return false;
        if (!isCrowded) block->First->Imm = _threshold - 1;
        return true;
    }

    /// <summary>The block is entered once more.</summary>
    public Insn* CountEntry(ProcessorState* s, Insn* i)
    {
        if (++i->Imm < _threshold || p.Following.IsFollowing || i->Imm < _youngThreshold && s->Retired < Youth) return i + 1;
        Translate(s, i);
        return i->Extra != 0 ? EnterTranslation(s, i) : i + 1;
    }

    private void Translate(ProcessorState* s, Insn* i)
    {
        s->Work = CpuWork.Translating;
        Make(s, i);
        s->Work = CpuWork.Interpreter;
    }

    private void Make(ProcessorState* s, Insn* i)
    {
        var block = (Block*)i->Disp;
        ulong rip = s->BlockRip;
        if (_store.HasManyMappings)
        {
            WantFlush(FlushCause.Mappings);
            return;
        }
        if (_blocks.IsFull)
        {
            // Not here: operations of blocks are in use.
            WantFlush(FlushCause.Translations);
            return;
        }
        bool code64 = (block->Mode & ModeKey.CodeSizeMask) == ModeKey.Code64;
        bool code32 = (block->Mode & ModeKey.CodeSizeMask) == ModeKey.Code32
            && (block->Mode & (ModeKey.Flat | ModeKey.Stack32)) == (ModeKey.Flat | ModeKey.Stack32);
        ulong page = block->Start & ~0xFFFul, linear = rip & ~0xFFFul, secondLinear = linear + GuestMemory.PageSize;
        bool wraps = block->Crosses && secondLinear > (code64 ? ulong.MaxValue - 0xFFF : uint.MaxValue - 0xFFF);
        if (!block->Valid || wraps || !(code64 || code32) || (block->Mode & ModeKey.Virtual8086) != 0)
        {
            i->Handler = &TranslatedBlocks.Never;
            return;
        }
        if (p.Debugger.BreaksIn(rip, block->Length))
        {
            i->Imm = 0; // the interpreter stops there; counted anew for when the breakpoint is gone
            return;
        }
        int table = _store.TargetTableOf(block->Mode);
        if (table < 0)
        {
            // Modes that are gone have the places, presumably.
            WantFlush(FlushCause.Modes);
            return;
        }
        var template = new TranslatedBlock
        {
            Operations = i + 1,
            Rip = rip,
            Page = p.Memory.Backing.Pointer + page,
            Mode = block->Mode,
            Generation = (byte)p.Code.Generation,
            BlockGeneration = block->Generation,
            Mapping = _store.MappingOf(linear, page),
            MappingSlot = TranslationStore.MappingSlot(linear, block->Mode),
            TargetTable = table,
            PredictionsSince = s->Retired,
            GroupsSince = s->Retired,
            MirrorBudget = TranslatedRunner.MirrorBudget,
            Next = (TranslatedBlock*)i->Extra,
        };
        byte* code = p.Memory.Backing.Pointer + block->Start;
        byte* joined = stackalloc byte[32];
        if (block->Crosses)
        {
            template.SecondPage = p.Memory.Backing.Pointer + block->SecondPage;
            template.SecondMapping = _store.MappingOf(secondLinear, block->SecondPage);
            template.SecondMappingSlot = TranslationStore.MappingSlot(secondLinear, block->Mode);
            int first = (int)GuestMemory.PageSize - (int)(block->Start & 0xFFF);
            CodeBytes.Copy(code, joined, first);
            CodeBytes.Copy(template.SecondPage, joined + first, block->Length - first);
            code = joined;
        }
        _blocks.SystemCalls =
            new SystemCallSetting(s->Translator.SystemCalls, (s->Efer & (ulong)Efer.Sce) != 0, p.Msrs.Star, p.Msrs.Lstar, p.Msrs.Fmask,
            KeepsStack: !p.Model.Behavior.SysretLoadsStackDescriptor);
        ReadOnlySpan<TracePart> parts = _traces.Select(block, rip);
        TranslatedBlock* made =
            _blocks.Translate(parts, code, template.Page, template, i->Flags);
        // The reason may lie in another part.
        if (made == null && parts.Length > 1) made = _blocks.Translate([new TracePart(block, rip, Transition.None)], code, template.Page, template, i->Flags);
        if (made == null)
        {
            i->Handler = &TranslatedBlocks.Never;
            return;
        }
        EnterBlocks(made);
        i->Extra = (ulong)made;
        LimitAddresses(made);
        i->Handler = &TranslatedBlocks.Enter;
        BlocksTranslated++;
    }

    /// <summary>The block's pages are mapped as they were when it was translated.</summary>
    private static void NoteMapping(ProcessorState* s, TranslatedBlock* t)
    {
        *(uint*)((byte*)s + t->MappingSlot) = t->Mapping;
        if (t->SecondPage != null) *(uint*)((byte*)s + t->SecondMappingSlot) = t->SecondMapping;
    }

    /// <summary>Looks at the mappings of the block's pages. False: it is not this block's code that must run.</summary>
    public bool LookUpMapping(ProcessorState* s, TranslatedBlock* t)
    {
        s->Current = null; // a fault is the fetch's
        s->Work = CpuWork.LookUps;
        if (p.Mmu.Fetch(t->Rip) != t->Page + (t->Rip & 0xFFF)
            || (t->SecondPage != null && p.Mmu.Fetch((t->Rip & ~0xFFFul) + GuestMemory.PageSize) != t->SecondPage))
            return false;
        if (t->Head->IsGivenUp) return false;
        NoteMapping(s, t);
        return true;
    }

    /// <summary>Enters the translation for the address at which the block is entered, or makes one.</summary>
    public Insn* EnterTranslation(ProcessorState* s, Insn* i)
    {
        // Translated code goes on from block to block, past the place that is to be met exactly.
        if (p.Following.IsFollowing) return i + 1;
        ulong rip = s->BlockRip;
        TranslatedBlock* t = FindTranslation(i, rip);
        if (t == null)
        {
            // The same code at another address, where it soon comes to be at home, too, if addresses change often.
            if (i->Imm++ % _movesForAnother == 0) Translate(s, i);
            else Move(s, i);
            t = (TranslatedBlock*)i->Extra;
            if (t == null || t->Rip != rip) return i + 1;
        }
        // Whoever led here has looked at the mapping.
        NoteMapping(s, t);
        byte* table = s->Translator.Targets + t->TargetTable * TranslatorState.TargetTableSize;
        ulong n = (rip & _store.Runtime.TargetMask) >> 2;
        ((ulong*)table)[n] = 0 - rip;
        ((byte**)table)[TranslatorState.TargetSize + (int)n] = t->Checked;
        if (_openLink != null)
        {
            _links.Tie(_openLink, t);
            _openLink = null;
        }
        return _runner.Run(s, t);
    }

    private void Move(ProcessorState* s, Insn* i)
    {
        s->Work = CpuWork.Translating;
        _mover.Move((Block*)i->Disp, s->BlockRip);
        s->Work = CpuWork.Interpreter;
    }

    /// <summary>
    /// Translations that a block may have, for different addresses. Programs that start all the time have the same libraries at addresses that do not come
    /// again: without a limit each entry at a new one would look through hundreds.
    /// </summary>
    private const int MostAddresses = 8;

    /// <summary>The block's translation for an address, which becomes the first of its list; null: there is none.</summary>
    private static TranslatedBlock* FindTranslation(Insn* counting, ulong rip)
    {
        var first = (TranslatedBlock*)counting->Extra;
        if (first == null || first->Rip == rip) return first;
        for (TranslatedBlock* before = first; before->Next != null; before = before->Next)
        {
            TranslatedBlock* t = before->Next;
            if (t->Rip != rip) continue;
            before->Next = t->Next;
            t->Next = first;
            counting->Extra = (ulong)t;
            return t;
        }
        return null;
    }

    /// <summary>Gives the translation up that was not entered for longest if there are more than there may be.</summary>
    private void LimitAddresses(TranslatedBlock* first)
    {
        TranslatedBlock* last = first;
        for (int n = 1; n < MostAddresses && last->Next != null; n++) last = last->Next;
        if (last->Next == null) return;
        GiveUp(last->Next);
        last->Next = null;
    }

    /// <summary>What did not prove good for a block is left out from now on; called when none of its code runs.</summary>
    public void TranslateAgain(TranslatedBlock* t, InsnFlags without)
    {
        Insn* counting = t->Operations - 1;
        counting->Flags |= without;
        if (t->IsGivenUp) return;
        // Nothing may lead from here into the new one: it may be given up, or be moved to another address, before this one is gone.
        GiveUp(t);
        _store.ForgetTarget(t);
        Unlink(counting, t);
        ulong rip = p.State->BlockRip;
        p.State->BlockRip = t->Rip;
        Translate(p.State, counting);
        p.State->BlockRip = rip;
    }

    /// <summary>Nothing may lead into the block's translations any more; called when none of them runs.</summary>
    public void GiveUp(Block* b)
    {
        if ((b->First->Flags & InsnFlags.Counted) == 0) return;
        for (var t = (TranslatedBlock*)b->First->Extra; t != null; t = t->Next) GiveUp(t);
        while (b->Parts != null)
        {
            TranslatedBlock* other = b->Parts->Head;
            GiveUp(other);
            Detach(other);
        }
    }

    /// <summary>The blocks of which it has parts know of them.</summary>
    private static void EnterBlocks(TranslatedBlock* t)
    {
        for (TranslatedBlock* part = t->NextPart; part != null; part = part->NextPart)
        {
            part->NextOfBlock = part->Block->Parts;
            part->Block->Parts = part;
        }
    }

    /// <summary>They are to forget them.</summary>
    private static void LeaveBlocks(TranslatedBlock* t)
    {
        for (TranslatedBlock* part = t->NextPart; part != null; part = part->NextPart)
        {
            if (part->Block == null) continue;
            TranslatedBlock** link = &part->Block->Parts;
            while (*link != part) link = &(*link)->NextOfBlock;
            *link = part->NextOfBlock;
            part->Block = null;
        }
    }

    private void GiveUp(TranslatedBlock* t)
    {
        t->IsGivenUp = true;
        LeaveBlocks(t);
        for (TranslatedBlock* part = t->NextPart; part != null; part = part->NextPart)
        {
            if (part->Stale != null) _links.Redirect(part->Main, part->Stale);
        }
        while (t->Incoming != null) _links.Untie(t->Incoming);
        _links.Redirect(t->Main, t->Stale);
        if (t->Loop != null) _links.Redirect(t->Loop, t->LoopStale);
    }

    /// <summary>
    /// Code is about to be given up: its blocks are noted. One that comes again is not counted first: where code is given up sooner than it is entered often
    /// enough, nothing would ever be translated.
    /// </summary>
    public void NoteHot(Block* b)
    {
        if ((b->First->Flags & InsnFlags.Counted) != 0) (_hot ??= new HotBlocks()).Add(b->Start, b->Mode);
    }

    /// <summary>What is translated from now on belongs to this generation.</summary>
    public void SelectGeneration(int number)
    {
        _store.Select(number);
        IsFull = false;
    }

    /// <summary>
    /// Gives the translations of the present generation up, and its blocks are given up already; called when none of them runs. What belongs to these blocks
    /// and lies elsewhere stays there, and nothing leads to it.
    /// </summary>
    public void GiveUpGeneration()
    {
        _openLink = null;
        for (TranslatedBlock* t = _store.Current.First; t != null; t = t->NextOfGeneration)
        {
            LeaveBlocks(t);
            if (!t->IsGivenUp) Detach(t);
            while (t->Incoming != null) _links.Untie(t->Incoming);
            for (int n = 0; n < t->LinkCount; n++)
            {
                if (t->Links[n].Target != null) TranslationLinks.Forget(&t->Links[n]);
            }
        }
        _store.ClearCurrent();
        FirstLevel.Drop();
    }

    /// <summary>The translation of a block that stays goes.</summary>
    private void Detach(TranslatedBlock* t)
    {
        t->IsGivenUp = true;
        Insn* counting = t->Operations - 1;
        Unlink(counting, t);
        if (counting->Extra != 0) return;
        counting->Handler = &TranslatedBlocks.Count;
        counting->Imm = _threshold - 1;
    }

    /// <summary>Takes a translation out of its block's list.</summary>
    private static void Unlink(Insn* counting, TranslatedBlock* t)
    {
        var link = (TranslatedBlock**)&counting->Extra;
        while (*link != t) link = &(*link)->Next;
        *link = t->Next;
    }

    /// <summary>Gives all translations up; called when none of them runs.</summary>
    public void Flush()
    {
        _openLink = null;
        IsFull = false;
        _store.Clear();
        FirstLevel.Drop();
    }
}

/// <summary>The operation in front of a block of a translating processor. Imm counts entries, Disp is the block, Extra its translations.</summary>
internal static unsafe class TranslatedBlocks
{
    public static Insn* Count(Processor p, ProcessorState* s, Insn* i) => p.Translator!.CountEntry(s, i);

    public static Insn* Enter(Processor p, ProcessorState* s, Insn* i) => p.Translator!.EnterTranslation(s, i);

    /// <summary>The block cannot be translated.</summary>
    public static Insn* Never(Processor p, ProcessorState* s, Insn* i) => i + 1;
}
