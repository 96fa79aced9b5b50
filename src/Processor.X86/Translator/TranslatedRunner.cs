using Bunraku.Engines;
using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>
/// Runs translated code until it needs the dispatcher: the interpreter does what it cannot do itself, misses are resolved, predictions that fail too often are
/// given up.
/// </summary>
internal sealed unsafe class TranslatedRunner(Processor p, Translator translator, TranslatorRuntime runtime, LinearMirror mirror)
{
    /// <summary>How often translated code came back, by reason.</summary>
    public readonly ulong[] Exits = new ulong[Enum.GetValues<TranslatedExit>().Length];

    /// <summary>For which instructions the interpreter was needed, by Iced's number of the form.</summary>
    public readonly ulong[] Interpreted = new ulong[Enum.GetValues<Iced.Intel.Code>().Length];

    /// <summary>Guest instructions that translated code has executed.</summary>
    public ulong Executed { get; private set; }

    /// <summary>Runs translated code until it needs the interpreter or the dispatcher; returns what the caller, a handler, must return.</summary>
    public Insn* Run(ProcessorState* s, TranslatedBlock* t)
    {
        byte* code = t->Main;
        bool vectors = false, x87 = false;
        for (; ; )
        {
            s->Translator.Target = (ulong)code;
            s->Translator.HostFlags = HostFlags.From(s);
            s->Translator.ReturnTable = (uint)t->TargetTable;
            s->Translator.ReturnStack = s->Translator.ReturnStacks[t->TargetTable];
            s->Work = CpuWork.EmittedCode;
            ulong retired = s->Retired;
            if (s->Translator.Quiet == 0) BeQuiet(s);
            runtime.Enter(vectors, x87);
            Executed += s->Retired - retired;
            s->Work = CpuWork.Interpreter;
            // Emitted code may have gone on in another mode.
            s->Translator.ReturnStacks[s->Translator.ReturnTable] = s->Translator.ReturnStack;
            HostFlags.To(s, s->Translator.HostFlags);
            if (s->Translator.X87Last != null) NoteX87(s);
            ExitRecord* record = s->Translator.Exit;
            t = record->Block;
            TranslatedBlock* head = t->Head;
            p.Code.NoteUse(t->Generation);
            p.Code.NoteUse(t->BlockGeneration);
            Exits[s->Translator.ExitKind]++;
            switch ((TranslatedExit)s->Translator.ExitKind)
            {
                case TranslatedExit.Link:
                    TranslationLink* link = t->Links + record->Number;
                    s->Rip = link->Rip;
                    s->LinkFrom = null;
                    if (s->AttentionFlags != 0) return null;
                    translator.LeaveOpen(link);
                    return Flow.JumpCacheLookup(s, link->Rip);
                case TranslatedExit.Attention:
                    s->Rip = t->Links[record->Number].Rip;
                    s->LinkFrom = null;
                    return null;
                case TranslatedExit.Lookup:
                    s->Rip = t->Rip;
                    s->LinkFrom = null;
                    if (s->AttentionFlags != 0 || !translator.LookUpMapping(s, t)) return null;
                    code = t->Main;
                    vectors = x87 = false;
                    continue;
                case TranslatedExit.ReadMiss or TranslatedExit.WriteMiss:
                    s->Work = CpuWork.TlbMisses;
                    MissOutcome outcome = ResolveMiss(s, t, record);
                    s->Work = CpuWork.Interpreter;
                    switch (outcome)
                    {
                        case MissOutcome.Resolved:
                            code = (byte*)record - TranslatorRuntime.JumpLength;
                            vectors = t->UsesSimd;
                            x87 = t->UsesX87;
                            continue;
                        case MissOutcome.Faulted:
                            return null;
                        default:
                            break;
                    }
                    break;
                case TranslatedExit.Return:
                    TakeBackReturn(s, t, t->Operations + record->Number);
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
                next = operation->Handler(p, s, operation);
                if (next != operation + 1 || operation->Length != 0) break;
                operation = next;
            }
            if ((TranslatedExit)s->Translator.ExitKind == TranslatedExit.Operation) Interpreted[operation->Code]++;
            if ((TranslatedExit)s->Translator.ExitKind == TranslatedExit.Predictions && !ArePredictionsWorthIt(s, head, PredictionArena.Budget))
            {
                translator.TranslateAgain(head, InsnFlags.Unpredicted);
                return next;
            }
            if ((TranslatedExit)s->Translator.ExitKind == TranslatedExit.Mirror && head->MirrorBudget <= 0 && !ArePredictionsWorthIt(s, head, MirrorBudget))
            {
                translator.TranslateAgain(head, InsnFlags.Unmirrored);
                return next;
            }
            // What was given up may be another part, which comes later.
            if (next != operation + 1 || s->AttentionFlags != 0 || (next->Flags & InsnFlags.Stale) != 0 || head->IsGivenUp) return next;
            int resume = t->Resume[operation - t->Operations];
            if (resume <= 0)
            {
                if (resume < 0 && ++head->GroupFailures == MostGroupFailures && !AreGroupsWorthIt(s, head))
                    translator.TranslateAgain(head, TranslatedBlock.IsStackHead(resume) ? InsnFlags.UngroupedStack : InsnFlags.Ungrouped);
                return next;
            }
            if (MayTrap(s, t)) return next;
            vectors = t->UsesSimd;
            x87 = t->UsesX87;
            code = t->Main + resume;
        }
    }

    /// <summary>Nothing wants attention any more, as far as the flags tell now.</summary>
    private static void BeQuiet(ProcessorState* s)
    {
        // In this order: whoever sets a flag meanwhile is seen here, or clears this again.
        Interlocked.Exchange(ref s->Translator.Quiet, TranslatorState.AllQuiet);
        if (Volatile.Read(ref s->AttentionFlags) != 0) Volatile.Write(ref s->Translator.Quiet, 0);
    }

    /// <summary>Emitted code has executed RET but for the jump.</summary>
    private static void TakeBackReturn(ProcessorState* s, TranslatedBlock* t, Insn* operation)
    {
        bool wide = (t->Mode & ModeKey.CodeSizeMask) == ModeKey.Code64;
        ulong top = s->Rsp - (wide ? 8ul : 4);
        if ((Code)operation->Code is Code.Retnq_imm16 or Code.Retnd_imm16) top -= (ushort)operation->Imm;
        s->Rsp = wide ? top : (uint)top;
        s->Retired -= operation->Ordinal + 1u;
    }

    /// <summary>
    /// The block has floating-point instructions, and one of their exceptions is unmasked: it cannot be entered in the middle, where nothing looks at that.
    /// </summary>
    private static bool MayTrap(ProcessorState* s, TranslatedBlock* t) =>
        (t->UsesSimd && (s->Mxcsr & (uint)Mxcsr.Masks) != (uint)Mxcsr.Masks) || (t->UsesX87 && !X87.CannotTrap(s));

    private enum MissOutcome { Resolved, Faulted, Interpret }

    /// <summary>
    /// A translated access has no entry in the software TLB: walks the tables and fills it, or delivers the page fault, which is what a fault costs
    /// least. Everything else is left to the interpreter: two pages, MMIO, pages with code, watched ones, and a group, whose first byte need not be the
    /// operation's.
    /// </summary>
    private MissOutcome ResolveMiss(ProcessorState* s, TranslatedBlock* t, ExitRecord* record)
    {
        ulong address = s->Translator.MissAddress;
        if (((address ^ s->Translator.MissLast) & ~0xFFFul) != 0 || !p.Tlb.AllowsFills || !p.IsCanonical(address)
            || p.Debugger.WatchesPage(address)) return MissOutcome.Interpret;
        if (MayTrap(s, t)) return MissOutcome.Interpret;
        int resume = t->Resume[record->Number];
        if (TranslatedBlock.IsReadingHead(resume)) return MissOutcome.Interpret;
        bool write = (TranslatedExit)s->Translator.ExitKind == TranslatedExit.WriteMiss;
        uint access = p.Mmu.CurrentPrivilege | (write ? PageWalker.WriteAccess : PageWalker.ReadAccess);
        WalkResult found = p.Walker.Walk(address, access);
        if (found.Outcome == WalkOutcome.Refused) return MissOutcome.Interpret;
        if (found.Outcome == WalkOutcome.Mapped)
        {
            if (found.Host == null || (write && p.Code.IsCodePage(found.Host))) return MissOutcome.Interpret;
            p.Tlb.CountMiss();
            p.Tlb.Fill(address, found, access);
            // The walk may have written an accessed flag to a page of this very code.
            return t->Head->IsGivenUp ? MissOutcome.Interpret : MissOutcome.Resolved;
        }
        if (resume < 0 || p.Exits.Intercepts(Vector.Pf)
            || (p.GuestHypervisor is { } hypervisor && hypervisor.WantsException(Vector.Pf, found.ErrorCode))) return MissOutcome.Interpret;
        Insn* operation = t->Operations + record->Number;
        s->Current = null;
        s->LinkFrom = null;
        s->BlockRip = t->Rip;
        s->Rip = (t->Rip + operation->Offset) & Flow.RipMask(s);
        s->Retired += operation->Ordinal;
        p.Mmu.SetCr2(address);
        p.Delivery.DeliverException(Vector.Pf, found.ErrorCode);
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

    /// <summary>After so many failures of groups somebody looks whether they are worth it.</summary>
    private const int MostGroupFailures = 64;

    /// <summary>One of them may come every so many instructions: the interpreter executes the rest of a block then.</summary>
    private const ulong LeastInstructionsPerGroupFailure = 20_000;

    /// <summary>Counts anew. False: the failures came too soon one after the other.</summary>
    private static bool AreGroupsWorthIt(ProcessorState* s, TranslatedBlock* t)
    {
        ulong since = s->Retired - t->GroupsSince;
        t->GroupsSince = s->Retired;
        t->GroupFailures = 0;
        return since >= MostGroupFailures * LeastInstructionsPerGroupFailure;
    }

    /// <summary>A failure may come every so many instructions.</summary>
    private const ulong LeastInstructionsPerFailure = 300;

    /// <summary>
    /// Fills the budgets of a block's predictions, one of which, <paramref name="budget"/> when it was full, is exhausted. False: it was too soon.
    /// </summary>
    private static bool ArePredictionsWorthIt(ProcessorState* s, TranslatedBlock* t, ulong budget)
    {
        ulong since = s->Retired - t->PredictionsSince;
        t->PredictionsSince = s->Retired;
        for (int n = 0; n < t->PredictionCount; n++) t->Predictions[n].Budget = PredictionArena.Budget;
        t->MirrorBudget = MirrorBudget;
        return since >= budget * LeastInstructionsPerFailure;
    }

    /// <summary>
    /// What failures of a loop's predicted addends may cost before somebody looks whether it is worth it: an exit costs 1, a page that the host must map more.
    /// </summary>
    public const int MirrorBudget = 16384;
    private const int CostOfMapping = 64;

    /// <summary>
    /// An access of a loop met another addend than the predicted one: its page gets that of its window, which is what the access expects from now on.
    /// </summary>
    private void Mirror(ProcessorState* s, TranslatedBlock* t)
    {
        var prediction = (PagePrediction*)s->Translator.MissLast;
        ulong address = s->Translator.MissAddress, tag = TranslatorState.TagOf(address & ~0xFFFul);
        int n = TranslatorState.EntryOf(address);
        byte* table = s->Translator.FirstLevel + TranslatorState.PrivilegeOf(t->Mode) * TranslatorState.TableSize;
        ulong* readTag = (ulong*)(table + TranslatorState.ReadTag) + n, readAddend = (ulong*)(table + TranslatorState.ReadAddend) + n;
        ulong* writeTag = (ulong*)(table + TranslatorState.WriteTag) + n, writeAddend = (ulong*)(table + TranslatorState.WriteAddend) + n;
        t->Head->MirrorBudget--;
        bool reads = *readTag == tag, writes = *writeTag == tag;
        if (!reads && !writes) return;
        ulong found = reads ? *readAddend : *writeAddend;
        // Both halves of an entry name the same page; when they do not, one is about to go.
        if (reads && writes && *writeAddend != found) writes = false;
        byte* page = mirror.PageAt((byte*)((address & ~0xFFFul) + found));
        if (page == null) return;
        bool done = mirror.TryShow(address & ~0xFFFul, page, out ulong addend, out bool made);
        if (made) t->Head->MirrorBudget -= CostOfMapping;
        if (!done) return;
        // The first level may have been dropped: then there is nothing to be changed.
        if (reads && *readTag == tag) *readAddend = addend;
        if (writes && *writeTag == tag) *writeAddend = addend;
        prediction->Addend = addend;
        prediction->NegatedAddend = 0 - addend;
    }
}
