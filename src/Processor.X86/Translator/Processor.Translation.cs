using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Processor.X86;

/// <summary>
/// The translator's side of the processor: when blocks are translated, how their code is entered and left, and what makes it invalid. A block that is decoded for
/// a translating processor begins with an operation that counts and, once there is a translation, enters it; so everything that leads to a block leads to its
/// translation. What translated code does not do itself the interpreter's handlers do, one operation at a time.
/// </summary>
public sealed unsafe partial class Processor
{
    /// <summary>Everything that a processor needs for translating.</summary>
    private sealed class Translator : IDisposable
    {
        // Pages are used one after another: what a small guest does not need is never there.
        private const ulong CodeSize = 96 << 20;
        private const int ArenaSize = 64 << 20;

        public readonly ExecutableMemory Memory = new(CodeSize);
        public readonly TranslationArena Arena = new(ArenaSize);
        public readonly PredictionArena Predictions = new();
        public readonly LinearMirror Mirror;
        /// <summary>What was translated when all code was given up; null: it never was.</summary>
        public HotBlocks? Hot;
        public readonly TranslatorRuntime Runtime;
        public readonly BlockTranslator Blocks;
        /// <summary>Bytes at the beginning of the code that are never given up.</summary>
        private readonly ulong _kept;
        public readonly int Threshold;
        /// <summary>Numbers of mappings (linear page, backing page).</summary>
        private readonly Dictionary<(ulong Linear, ulong Backing), uint> _mappings = [];
        /// <summary>Modes that have a jump cache.</summary>
        public readonly List<uint> Modes = [];
        private uint _nextMapping = 1;

        public Translator(Processor processor, int threshold)
        {
            Threshold = threshold;
            Mirror = new LinearMirror(processor.Memory.Backing, processor.DropFirstLevel);
            Runtime = new TranslatorRuntime(Memory, processor.State);
            _kept = Memory.Used;
            Blocks = new BlockTranslator(Memory, Runtime, Arena, Predictions, processor.State, processor.Model, processor.Clock.Scale, TargetTableOf);
        }

        /// <summary>The number of a mode's jump cache; -1 when there is none left.</summary>
        public int TargetTableOf(uint mode)
        {
            int table = Modes.IndexOf(mode);
            if (table >= 0 || Modes.Count == TranslatorState.TargetModes) return table;
            Modes.Add(mode);
            return Modes.Count - 1;
        }

        /// <summary>The number of a mapping; never 0.</summary>
        public uint MappingOf(ulong linear, ulong backing)
        {
            if (!_mappings.TryGetValue((linear, backing), out uint mapping)) _mappings.Add((linear, backing), mapping = _nextMapping++);
            return mapping;
        }

        /// <summary>Gives everything up.</summary>
        public void Clear()
        {
            Memory.Rewind(_kept);
            Arena.Clear();
            Predictions.Clear();
            _mappings.Clear();
            Modes.Clear();
            _nextMapping = 1;
        }

        public void Dispose()
        {
            Memory.Dispose();
            Arena.Dispose();
            Predictions.Dispose();
            Mirror.Dispose();
        }
    }

    private Translator? _translator;
    private bool _translatorIsFull;
    /// <summary>The link through which translated code was left last; tied when its target is entered next.</summary>
    private TranslationLink* _openLink;

    private void CreateTranslator(int threshold)
    {
        // XSAVE faults where its area is not aligned.
        if (StateOffsets.Fxsave % 64 != 0 || StateOffsets.XsaveHeader != StateOffsets.Fxsave + 512) throw new InvalidOperationException($"the XSAVE area lies at {StateOffsets.Fxsave}");
        _translator = new Translator(this, threshold);
        State->Translator.VectorsMissing = State->Translator.X87Missing = 1;
        FlushTranslations();
    }

    private void DisposeTranslator() => _translator?.Dispose();

    /// <summary>The counting operation needs its block.</summary>
    private void NoteBlock(Block* block)
    {
        if ((block->First->Flags & InsnFlags.Counted) == 0) return;
        block->First->Disp = (long)block;
        if (_translator is { Hot: { } hot } t && hot.Contains(block->Start, block->Mode)) block->First->Imm = t.Threshold - 1;
    }

    /// <summary>The block is entered once more.</summary>
    internal Insn* CountEntry(ProcessorState* s, Insn* i)
    {
        if (++i->Imm < _translator!.Threshold || _following) return i + 1;
        Translate(s, i);
        return i->Extra != 0 ? EnterTranslation(s, i) : i + 1;
    }

    private void Translate(ProcessorState* s, Insn* i)
    {
        Translator t = _translator!;
        var block = (Block*)i->Disp;
        ulong rip = s->BlockRip;
        if (t.Blocks.IsFull)
        {
            // Not here: operations of blocks are in use.
            _translatorIsFull = true;
            Signal(Attention.Event);
            return;
        }
        bool code64 = (block->Mode & ModeKey.CodeSizeMask) == ModeKey.Code64;
        bool code32 = (block->Mode & ModeKey.CodeSizeMask) == ModeKey.Code32 && (block->Mode & (ModeKey.Flat | ModeKey.Stack32)) == (ModeKey.Flat | ModeKey.Stack32);
        ulong page = block->Start & ~0xFFFul, linear = rip & ~0xFFFul, secondLinear = linear + 0x1000;
        bool wraps = block->Crosses && secondLinear > (code64 ? ulong.MaxValue - 0xFFF : uint.MaxValue - 0xFFF);
        if (!block->Valid || wraps || !(code64 || code32) || (block->Mode & ModeKey.Virtual8086) != 0)
        {
            i->Handler = &TranslatedBlocks.Never;
            return;
        }
        int table = t.TargetTableOf(block->Mode);
        if (table < 0)
        {
            // Modes that are gone have the places, presumably.
            _translatorIsFull = true;
            Signal(Attention.Event);
            return;
        }
        var template = new TranslatedBlock
        {
            Operations = i + 1,
            Rip = rip,
            Page = Memory.Backing.Pointer + page,
            Mode = block->Mode,
            Mapping = t.MappingOf(linear, page),
            MappingSlot = MappingSlot(linear, block->Mode),
            TargetTable = table,
            PredictionsSince = s->Retired,
            MirrorBudget = MirrorBudget,
            Next = (TranslatedBlock*)i->Extra,
        };
        byte* code = Memory.Backing.Pointer + block->Start;
        byte* joined = stackalloc byte[32];
        if (block->Crosses)
        {
            template.SecondPage = Memory.Backing.Pointer + block->SecondPage;
            template.SecondMapping = t.MappingOf(secondLinear, block->SecondPage);
            template.SecondMappingSlot = MappingSlot(secondLinear, block->Mode);
            int first = 0x1000 - (int)(block->Start & 0xFFF);
            CodeBytes.Copy(code, joined, first);
            CodeBytes.Copy(template.SecondPage, joined + first, block->Length - first);
            code = joined;
        }
        t.Blocks.SystemCalls = new SystemCallSetting(s->Translator.SystemCalls, (s->Efer & (ulong)Efer.Sce) != 0, Star, Lstar, Fmask, KeepsStack: !Model.Behavior.SysretLoadsStackDescriptor);
        TranslatedBlock* made = t.Blocks.Translate(block, code, template, groups: (i->Flags & InsnFlags.Ungrouped) == 0, PredictionsFor(i->Flags));
        if (made == null)
        {
            i->Handler = &TranslatedBlocks.Never;
            return;
        }
        i->Extra = (ulong)made;
        i->Handler = &TranslatedBlocks.Enter;
        BlocksTranslated++;
    }

    /// <summary>Pages first; where that fails addends, and where that fails nothing.</summary>
    private static LoopPredictions PredictionsFor(InsnFlags flags) => (flags & InsnFlags.Unpredicted) == 0 ? LoopPredictions.Pages
        : (flags & InsnFlags.Unmirrored) == 0 ? LoopPredictions.Addends : LoopPredictions.None;

    private static int MappingSlot(ulong linear, uint mode) =>
        StateOffsets.Mappings + sizeof(uint) * (((int)(linear >> 12) & (TranslatorState.MappingSize - 1)) + (ModeKey.Cpl(mode) == 3 ? 0 : TranslatorState.MappingSize));

    /// <summary>The block's pages are mapped as they were when it was translated.</summary>
    private static void NoteMapping(ProcessorState* s, TranslatedBlock* t)
    {
        *(uint*)((byte*)s + t->MappingSlot) = t->Mapping;
        if (t->SecondPage != null) *(uint*)((byte*)s + t->SecondMappingSlot) = t->SecondMapping;
    }

    /// <summary>Looks at the mappings of the block's pages. False: it is not this block's code that must run.</summary>
    private bool LookUpMapping(ProcessorState* s, TranslatedBlock* t)
    {
        s->Current = null; // a fault is the fetch's
        if (FetchPointer(t->Rip) != t->Page + (t->Rip & 0xFFF) || (t->SecondPage != null && FetchPointer((t->Rip & ~0xFFFul) + 0x1000) != t->SecondPage)) return false;
        if (t->IsGivenUp) return false;
        NoteMapping(s, t);
        return true;
    }

    /// <summary>Enters the translation for the address at which the block is entered, or makes one.</summary>
    internal Insn* EnterTranslation(ProcessorState* s, Insn* i)
    {
        // Translated code goes on from block to block, past the place that is to be met exactly.
        if (_following) return i + 1;
        ulong rip = s->BlockRip;
        var t = (TranslatedBlock*)i->Extra;
        while (t != null && t->Rip != rip) t = t->Next;
        if (t == null)
        {
            // The same code at another address.
            if (i->Imm++ % _translator!.Threshold != 0) return i + 1;
            Translate(s, i);
            t = (TranslatedBlock*)i->Extra;
            if (t == null || t->Rip != rip) return i + 1;
        }
        // Whoever led here has looked at the mapping.
        NoteMapping(s, t);
        byte* table = s->Translator.Targets + t->TargetTable * TranslatorState.TargetTableSize;
        ulong n = (rip & TranslatorRuntime.TargetMask) >> 2;
        ((ulong*)table)[n] = 0 - rip;
        ((byte**)table)[TranslatorState.TargetSize + (int)n] = t->Checked;
        if (_openLink != null) TieLink(t);
        return RunTranslation(s, t->Main);
    }

    /// <summary>The jump that left translated code leads directly to its target from now on.</summary>
    private void TieLink(TranslatedBlock* target)
    {
        TranslationLink* link = _openLink;
        _openLink = null;
        if (link->Rip != target->Rip || link->Mode != target->Mode) return;
        bool samePage = target->SecondPage == null && link->From->Page == target->Page && ((link->From->Rip ^ target->Rip) & ~0xFFFul) == 0;
        byte* entry = samePage ? target->Main : target->Checked;
        int distance = (int)(entry - (link->Site + 4));
        _translator!.Memory.Patch(link->Site, new ReadOnlySpan<byte>(&distance, sizeof(int)));
    }

    /// <summary>Runs translated code until it needs the interpreter or the dispatcher; returns what the caller, a handler, must return.</summary>
    private Insn* RunTranslation(ProcessorState* s, byte* code)
    {
        Translator translator = _translator!;
        bool vectors = false, x87 = false;
        for (; ; )
        {
            s->Translator.Target = (ulong)code;
            s->Translator.HostFlags = HostFlags.From(s);
            translator.Runtime.Enter(vectors, x87);
            HostFlags.To(s, s->Translator.HostFlags);
            if (s->Translator.X87Last != null) NoteX87(s);
            ExitRecord* record = s->Translator.Exit;
            TranslatedBlock* t = record->Block;
            switch ((TranslatedExit)s->Translator.ExitKind)
            {
                case TranslatedExit.Link:
                    TranslationLink* link = t->Links + record->Number;
                    s->Rip = link->Rip;
                    s->LinkFrom = null;
                    if (s->AttentionFlags != 0) return null;
                    _openLink = link;
                    return Flow.JumpCacheLookup(s, link->Rip);
                case TranslatedExit.Attention:
                    s->Rip = t->Links[record->Number].Rip;
                    s->LinkFrom = null;
                    return null;
                case TranslatedExit.Lookup:
                    s->Rip = t->Rip;
                    s->LinkFrom = null;
                    if (s->AttentionFlags != 0 || !LookUpMapping(s, t)) return null;
                    code = t->Main;
                    vectors = x87 = false;
                    continue;
                case TranslatedExit.ReadMiss or TranslatedExit.WriteMiss:
                    switch (ResolveMiss(s, t, record))
                    {
                        case MissOutcome.Resolved:
                            code = (byte*)record - TranslatorRuntime.JumpLength;
                            vectors = t->UsesVectors;
                            x87 = t->UsesX87;
                            continue;
                        case MissOutcome.Faulted:
                            return null;
                        default:
                            break;
                    }
                    break;
                case TranslatedExit.Mirror:
                    Mirror(s, t);
                    break;
                default:
                    break;
            }
            // One instruction by the interpreter, with its micro-operation if it has one.
            s->BlockRip = t->Rip;
            Insn* operation = t->Operations + record->Number;
            Insn* next;
            for (; ; )
            {
                s->Current = operation;
                next = operation->Handler(this, s, operation);
                if (next != operation + 1 || operation->Length != 0) break;
                operation = next;
            }
            if ((TranslatedExit)s->Translator.ExitKind == TranslatedExit.Predictions && !ArePredictionsWorthIt(s, t, PredictionArena.Budget))
            {
                TranslateAgain(t, InsnFlags.Unpredicted);
                return next;
            }
            if ((TranslatedExit)s->Translator.ExitKind == TranslatedExit.Mirror && t->MirrorBudget <= 0 && !ArePredictionsWorthIt(s, t, MirrorBudget))
            {
                TranslateAgain(t, InsnFlags.Unmirrored);
                return next;
            }
            if (next != operation + 1 || s->AttentionFlags != 0 || (next->Flags & InsnFlags.Stale) != 0) return next;
            int resume = t->Resume[operation - t->Operations];
            if (resume <= 0)
            {
                if (resume < 0 && ++t->GroupFailures == MostGroupFailures) TranslateAgain(t, InsnFlags.Ungrouped);
                return next;
            }
            if (MayTrap(s, t)) return next;
            vectors = t->UsesVectors;
            x87 = t->UsesX87;
            code = t->Main + resume;
        }
    }

    /// <summary>The block has floating-point instructions, and one of their exceptions is unmasked: it cannot be entered in the middle, where nothing looks at that.</summary>
    private static bool MayTrap(ProcessorState* s, TranslatedBlock* t) =>
        (t->UsesVectors && (s->Mxcsr & (uint)Mxcsr.Masks) != (uint)Mxcsr.Masks) || (t->UsesX87 && !X87.CannotTrap(s));

    private enum MissOutcome { Resolved, Faulted, Interpret }

    /// <summary>
    /// A translated access has no translation in the software TLB: walks the tables and fills it, or delivers the page fault, which is what a fault costs least. Everything else
    /// is left to the interpreter: two pages, MMIO, pages with code, watched ones, and a group, whose first byte need not be the operation's.
    /// </summary>
    private MissOutcome ResolveMiss(ProcessorState* s, TranslatedBlock* t, ExitRecord* record)
    {
        ulong address = s->Translator.MissAddress;
        if (((address ^ s->Translator.MissLast) & ~0xFFFul) != 0 || !_fillAllowed || !IsCanonical(address)) return MissOutcome.Interpret;
        if (MayTrap(s, t)) return MissOutcome.Interpret;
        int resume = t->Resume[record->Number];
        if (resume == TranslatedBlock.AfterReadingGroupHead) return MissOutcome.Interpret;
        bool write = (TranslatedExit)s->Translator.ExitKind == TranslatedExit.WriteMiss;
        uint access = CurrentPrivilege | (write ? WriteAccess : ReadAccess);
        WalkResult found = Walk(address, access);
        if (found.Outcome == WalkOutcome.Refused) return MissOutcome.Interpret;
        if (found.Outcome == WalkOutcome.Mapped)
        {
            if (found.Host == null || (write && IsCodePage(found.Host))) return MissOutcome.Interpret;
            TlbMisses++;
            Fill(address, found, access);
            return MissOutcome.Resolved;
        }
        if (resume == TranslatedBlock.AfterGroupHead || Intercepts(Vector.Pf)) return MissOutcome.Interpret;
        Insn* operation = t->Operations + record->Number;
        s->Current = null;
        s->LinkFrom = null;
        s->BlockRip = t->Rip;
        s->Rip = (t->Rip + operation->Offset) & Flow.RipMask(s);
        s->Retired += operation->Ordinal;
        s->Cr2 = address;
        DeliverException(Vector.Pf, found.ErrorCode);
        return MissOutcome.Faulted;
    }

    /// <summary>The pointers of the x87 instructions that translated code has executed.</summary>
    private static void NoteX87(ProcessorState* s)
    {
        Insn* last = Operation(s->Translator.X87Last);
        ulong block = s->BlockRip;
        s->BlockRip = s->Translator.X87Last->Block->Rip;
        X87.SetPointers(s, last);
        s->BlockRip = block;
        s->Translator.X87Last = null;
        if (s->Translator.X87LastMemory == null) return;
        X87.SetDataPointer(s, Operation(s->Translator.X87LastMemory), s->Translator.X87Address);
        s->Translator.X87LastMemory = null;

        static Insn* Operation(ExitRecord* record) => record->Block->Operations + record->Number;
    }

    /// <summary>After so many failures a block's accesses are checked one by one.</summary>
    private const int MostGroupFailures = 64;

    /// <summary>A failure may come every so many instructions.</summary>
    private const ulong LeastInstructionsPerFailure = 300;

    /// <summary>Fills the budgets of a block's predictions, one of which, <paramref name="budget"/> when it was full, is exhausted. False: it was too soon.</summary>
    private static bool ArePredictionsWorthIt(ProcessorState* s, TranslatedBlock* t, ulong budget)
    {
        ulong since = s->Retired - t->PredictionsSince;
        t->PredictionsSince = s->Retired;
        for (int n = 0; n < t->PredictionCount; n++) t->Predictions[n].Budget = PredictionArena.Budget;
        t->MirrorBudget = MirrorBudget;
        return since >= budget * LeastInstructionsPerFailure;
    }

    /// <summary>What failures of a loop's predicted addends may cost before somebody looks whether it is worth it: an exit costs 1, a page that the host must map more.</summary>
    private const int MirrorBudget = 16384, CostOfMapping = 64;

    /// <summary>An access of a loop met another addend than the predicted one: its page gets that of its window, which is what the access expects from now on.</summary>
    private void Mirror(ProcessorState* s, TranslatedBlock* t)
    {
        var prediction = (PagePrediction*)s->Translator.MissLast;
        ulong address = s->Translator.MissAddress, number = address >> 12, tag = 0 - number;
        int n = (int)number & (TranslatorState.FirstLevelSize - 1);
        byte* table = s->Translator.FirstLevel + TranslatorState.PrivilegeOf(t->Mode) * TranslatorState.TableSize;
        ulong* readTag = (ulong*)(table + TranslatorState.ReadTag) + n, readAddend = (ulong*)(table + TranslatorState.ReadAddend) + n;
        ulong* writeTag = (ulong*)(table + TranslatorState.WriteTag) + n, writeAddend = (ulong*)(table + TranslatorState.WriteAddend) + n;
        t->MirrorBudget--;
        bool reads = *readTag == tag, writes = *writeTag == tag;
        if (!reads && !writes) return;
        ulong found = reads ? *readAddend : *writeAddend;
        // Both halves of an entry name the same page; when they do not, one is about to go.
        if (reads && writes && *writeAddend != found) writes = false;
        byte* page = _translator!.Mirror.PageAt((byte*)((address & ~0xFFFul) + found));
        if (page == null) return;
        bool done = _translator.Mirror.TryShow(address & ~0xFFFul, page, out ulong addend, out bool made);
        if (made) t->MirrorBudget -= CostOfMapping;
        if (!done) return;
        // The first level may have been dropped: then there is nothing to be changed.
        if (reads && *readTag == tag) *readAddend = addend;
        if (writes && *writeTag == tag) *writeAddend = addend;
        prediction->Addend = addend;
        prediction->NegatedAddend = 0 - addend;
    }

    /// <summary>What did not prove good for a block is left out from now on; called when none of its code runs.</summary>
    private void TranslateAgain(TranslatedBlock* t, InsnFlags without)
    {
        Insn* counting = t->Operations - 1;
        counting->Flags |= without;
        if (t->IsGivenUp) return;
        GiveUp(t);
        var link = (TranslatedBlock**)&counting->Extra;
        while (*link != t) link = &(*link)->Next;
        *link = t->Next;
        ulong rip = State->BlockRip;
        State->BlockRip = t->Rip;
        Translate(State, counting);
        State->BlockRip = rip;
        // Who is tied to the old translation finds the new one there.
        var made = (TranslatedBlock*)counting->Extra;
        if (made != null && made->Rip == t->Rip) Redirect(t->Main, made->Main);
    }

    /// <summary>Nothing may lead into the block's translations any more; called when none of them runs.</summary>
    private void GiveUpTranslations(Block* b)
    {
        if ((b->First->Flags & InsnFlags.Counted) == 0) return;
        for (var t = (TranslatedBlock*)b->First->Extra; t != null; t = t->Next) GiveUp(t);
    }

    private void GiveUp(TranslatedBlock* t)
    {
        t->IsGivenUp = true;
        Redirect(t->Main, t->Stale);
        if (t->Loop != null) Redirect(t->Loop, t->LoopStale);
    }

    /// <summary>Puts a jump into emitted code.</summary>
    private void Redirect(byte* from, byte* to)
    {
        Span<byte> jump = stackalloc byte[5];
        jump[0] = 0xE9;
        BitConverter.TryWriteBytes(jump[1..], (int)(to - (from + 5)));
        _translator!.Memory.Patch(from, jump);
    }

    /// <summary>All code is about to be given up: what was worth translating is noted.</summary>
    private void NoteHotBlocks()
    {
        if (_translator == null) return;
        HotBlocks hot = _translator.Hot ??= new HotBlocks();
        foreach (CodePage page in _codePages.Values)
        {
            for (Block* b = page.First; b != null; b = b->NextInPage)
            {
                if ((b->First->Flags & InsnFlags.Counted) != 0 && b->First->Extra != 0) hot.Add(b->Start, b->Mode);
            }
        }
    }

    /// <summary>Gives all translations up; called when none of them runs.</summary>
    private void FlushTranslations()
    {
        _openLink = null;
        _translatorIsFull = false;
        if (_translator == null) return;
        _translator.Clear();
        DropFirstLevel();
        for (int table = 0; table < TranslatorState.TargetModes; table++)
            new Span<ulong>(State->Translator.Targets + table * TranslatorState.TargetTableSize, TranslatorState.TargetSize).Fill(TranslatorState.EmptyTarget);
    }

    /// <summary>Drops every first-level translation.</summary>
    private void DropFirstLevel()
    {
        if (_translator == null) return;
        for (int privilege = 0; privilege < TranslatorState.Privileges; privilege++)
        {
            byte* table = State->Translator.FirstLevel + privilege * TranslatorState.TableSize;
            new Span<ulong>(table + TranslatorState.ReadTag, TranslatorState.FirstLevelSize).Fill(TranslatorState.EmptyTag);
            new Span<ulong>(table + TranslatorState.WriteTag, TranslatorState.FirstLevelSize).Fill(TranslatorState.EmptyTag);
        }
        new Span<uint>(State->Translator.Mappings, 2 * TranslatorState.MappingSize).Clear();
        DropPredictions();
    }

    private void DropPredictions()
    {
        var next = (PagePrediction*)State->Translator.Predictions;
        State->Translator.Predictions = 0;
        while (next != null)
        {
            next->Tag = PagePrediction.Empty;
            next = (PagePrediction*)next->Next;
        }
    }

    /// <summary>Drops the first-level translations of one linear page.</summary>
    private void DropFirstLevelPage(ulong page)
    {
        if (_translator == null) return;
        ulong number = page >> 12, tag = 0 - number;
        int n = (int)number & (TranslatorState.FirstLevelSize - 1);
        for (int privilege = 0; privilege < TranslatorState.Privileges; privilege++)
        {
            byte* table = State->Translator.FirstLevel + privilege * TranslatorState.TableSize;
            ulong* read = (ulong*)(table + TranslatorState.ReadTag) + n, write = (ulong*)(table + TranslatorState.WriteTag) + n;
            if (*read == tag) *read = TranslatorState.EmptyTag;
            if (*write == tag) *write = TranslatorState.EmptyTag;
        }
        int slot = (int)number & (TranslatorState.MappingSize - 1);
        State->Translator.Mappings[slot] = State->Translator.Mappings[TranslatorState.MappingSize + slot] = 0;
        DropPredictions();
    }

    /// <summary>Drops the entries through which the backing page at <paramref name="page"/> could be written.</summary>
    private void RevokeFirstLevelWrites(byte* page)
    {
        if (_translator == null) return;
        DropPredictions();
        for (int privilege = 0; privilege < TranslatorState.Privileges; privilege++)
        {
            byte* table = State->Translator.FirstLevel + privilege * TranslatorState.TableSize;
            var tags = (ulong*)(table + TranslatorState.WriteTag);
            var addends = (nint*)(table + TranslatorState.WriteAddend);
            for (int n = 0; n < TranslatorState.FirstLevelSize; n++)
            {
                if (tags[n] != TranslatorState.EmptyTag && _translator.Mirror.PageAt((byte*)((0 - tags[n] << 12) + (ulong)addends[n])) == page) tags[n] = TranslatorState.EmptyTag;
            }
        }
    }
}

/// <summary>The operation in front of a block of a translating processor. Imm counts entries, Disp is the block, Extra its translations.</summary>
internal static unsafe class TranslatedBlocks
{
    public static Insn* Count(Processor p, ProcessorState* s, Insn* i) => p.CountEntry(s, i);

    public static Insn* Enter(Processor p, ProcessorState* s, Insn* i) => p.EnterTranslation(s, i);

    /// <summary>The block cannot be translated.</summary>
    public static Insn* Never(Processor p, ProcessorState* s, Insn* i) => i + 1;
}
