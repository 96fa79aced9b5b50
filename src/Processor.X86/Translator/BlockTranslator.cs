using Bunraku.Engines;
using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>
/// Makes host code of a decoded block, or of several that are its parts: x86-64 to x86-64, instruction by instruction. Guest registers are where
/// <see cref="HostRegisters"/> says, the arithmetic flags are the host's, and nothing that is put between guest instructions touches them but checks where
/// <see cref="FlagsPlan"/> lets them. One for each vCPU. What is emitted for each kind of instruction is in Emitters/.
/// </summary>
internal sealed unsafe class BlockTranslator
{
    private readonly CodeBytes _bytes = new();
    private readonly GuestDecoder _decoder;
    private readonly Emission e;
    private readonly TranslationStore _store;

    /// <param name="scale">The VM's clock, or null when the host's counter cannot be used.</param>
    public BlockTranslator(TranslationStore store, ProcessorState* state, CpuModel model, CounterScale* scale)
    {
        _store = store;
        e = new Emission(store, state, scale);
        _decoder = new GuestDecoder(_bytes, model);
    }

    /// <summary>What SYSCALL and SYSRET are emitted with; to be set before <see cref="Translate"/>.</summary>
    public SystemCallSetting SystemCalls
    {
        set => e.SystemCalls.Setting = value;
    }

    /// <summary>Nothing more fits: the caller goes on with another generation.</summary>
    public bool IsFull =>
        e.Generation.Hot.Free < CodeCacheSizes.MostCode || e.Generation.Cold.Free < CodeCacheSizes.MostCode
            || !e.Generation.Arena.HasRoom(CodeCacheSizes.MostTables);

    /// <summary>
    /// Translates blocks, the first of which has its bytes at <paramref name="code"/>; <paramref name="template"/> has what the caller knows.
    /// </summary>
    /// <param name="page">Where the page of all others begins.</param>
    /// <param name="without">What did not prove good for it.</param>
    /// <returns>The translation, or null when the block is too large for the buffer, or its code has changed.</returns>
    public TranslatedBlock* Translate(ReadOnlySpan<TracePart> parts, byte* code, byte* page, in TranslatedBlock template, InsnFlags without) =>
        // Translated once more, without what does not suit it, are a loop whose instructions need the usual registers after all, and others with an exit that
        // is too far away.
        TryTranslate(parts, code, page, template, without, full: true, out TranslatedBlock* made)
            || TryTranslate(parts, code, page, template, without, full: false, out made) ? made : null;

    /// <param name="full">A loop exchanges registers; others have their exits near by.</param>
    private bool TryTranslate(ReadOnlySpan<TracePart> parts, byte* code, byte* page, in TranslatedBlock template, InsnFlags without, bool full,
        out TranslatedBlock* made)
    {
        made = null;
        e.Begin(template);
        bool same = true;
        for (int n = 0; n < parts.Length; n++)
        {
            e.AddPart(parts[n]);
            same &= Decode(parts[n].Block, n == 0 ? code : page + (parts[n].Block->Start & 0xFFF));
        }
        e.EndParts();
        // Another processor may have changed the code since the operations were made, and this one will hear of it.
        if (!same) return true;
        e.SelectPart(0);
        EmitCheckedEntry();
        e.BeginMain();
        e.Loop.Begin(exchange: full);
        bool isLoop = e.Loop.Start != null;
        e.Near.Taken = isLoop || !full;
        e.Predictor.Begin(isLoop ? PredictionsFor(without) : LoopPredictions.None);
        e.Groups.Begin(stack: (without & InsnFlags.UngroupedStack) == 0, others: (without & InsnFlags.Ungrouped) == 0);
        e.Plan.Begin();
        if (isLoop)
        {
            e.Loop.ExchangeIn();
            e.Asm.Place(e.Loop.Start!);
        }
        if (!EmitParts()) return false;
        if (e.Near.AreOutOfReach) return false;
        e.Near.Place(between: false);
        e.Asm.BeginCold();
        e.Plan.EnterCold();
        e.Cold.Emit();
        EmitStale();
        int loopStale = e.Asm.Length;
        if (isLoop)
        {
            e.Loop.ExchangeOut();
            e.Exit(TranslatedExit.Lookup, 0);
        }
        if (e.Asm.Full) return true;
        e.Head->Checked = At(_checked);
        if (isLoop)
        {
            e.Head->Loop = At(e.Loop.Start!.Offset);
            e.Head->LoopStale = At(loopStale);
        }
        void* hot = e.Generation.Hot.Append(e.Asm.Code), cold = hot == null ? null : e.Generation.Cold.Append(e.Asm.ColdCode);
        if (cold == null) return true;
        made = e.Head;
        made->LinkCount = e.LinkCount;
        e.Generation.Arena.GiveBack<TranslationLink>(Emission.MostLinks - e.LinkCount); // nothing was added behind them
        made->Hot = (byte*)hot;
        made->Cold = (byte*)cold;
        (made->HotLength, made->ColdLength) = (e.Asm.Code.Length, e.Asm.ColdCode.Length);
        for (TranslatedBlock* part = made->NextPart; part != null; part = part->NextPart) (part->UsesSimd, part->UsesX87) = (made->UsesSimd, made->UsesX87);
        NoteRelocations(made);
        _store.Map?.Add(made);
        e.Generation.Add(made);
        return true;
    }

    /// <summary>The ways to a new look-up, of each part that is entered from outside.</summary>
    private void EmitStale()
    {
        for (int n = 0; n < e.PartCount; n++)
        {
            e.SelectPart(n);
            if (n > 0 && !e.IsEntered) continue;
            e.Translation->Stale = (byte*)e.Asm.Here;
            e.Exit(TranslatedExit.Lookup, 0);
        }
        e.SelectPart(0);
    }

    /// <summary>A call has come back to the part, which may have changed the mapping of the page.</summary>
    private void EmitReturnedEntry()
    {
        e.ForgetLoaded();
        e.Groups.Forget();
        e.BeginMain();
        HostLabel same = e.NewLabel(), miss = e.NewLabel();
        EmitMappingCheck(e.Translation->MappingSlot, e.Translation->Mapping, RelocationKind.MappingSlot, RelocationKind.Mapping);
        e.Near.LeaveUnlessZero32(miss);
        e.Asm.Place(same);
        e.Cold.Add(new ColdPiece(ColdKind.Mapping, miss, same, 0));
    }

    /// <summary>Pages first; where that fails addends, and where that fails nothing.</summary>
    private static LoopPredictions PredictionsFor(InsnFlags without) => (without & InsnFlags.Unpredicted) == 0 ? LoopPredictions.Pages
        : (without & InsnFlags.Unmirrored) == 0 ? LoopPredictions.Addends : LoopPredictions.None;

    /// <summary>Bytes in front of the main entry of most blocks.</summary>
    public const int CheckedEntryLength = 31;

    /// <summary>The mapping of the page is compared with the one for which the code was made.</summary>
    private void EmitCheckedEntry()
    {
        HostLabel same = e.NewLabel(), miss = e.NewLabel(), near = e.NewLabel();
        // In front of the entry, since the first bytes of the main one are replaced when the block is given up.
        e.Asm.Place(near);
        e.Asm.Jump(miss);
        _checked = e.Asm.Length;
        if (e.Translation->SecondPage != null)
        {
            HostLabel second = e.NewLabel();
            EmitMappingCheck(e.Translation->SecondMappingSlot, e.Translation->SecondMapping, RelocationKind.SecondMappingSlot, RelocationKind.SecondMapping);
            e.Asm.JumpIfRcxZero(second);
            e.Exit(TranslatedExit.Lookup, 0);
            e.Asm.Place(second);
        }
        EmitMappingCheck(e.Translation->MappingSlot, e.Translation->Mapping, RelocationKind.MappingSlot, RelocationKind.Mapping);
        e.Near.Invert(wide: false);
        e.Asm.JumpIfRcxZero(near);
        e.Asm.Place(same);
        e.Cold.Add(new ColdPiece(ColdKind.Mapping, miss, same, 0));
    }

    /// <summary>RCX is zero afterwards if the mapping is in force.</summary>
    private void EmitMappingCheck(int slot, uint mapping, RelocationKind slotKind, RelocationKind mappingKind)
    {
        e.Asm.LoadState(Host.Rcx, slot, wide: false);
        e.Asm.Relocate(slotKind, sizeof(int));
        e.Asm.LeaFar(Host.Rcx, Host.Rcx, -(int)mapping);
        e.Asm.Relocate(mappingKind, sizeof(int));
    }

    /// <summary>Where the entry that checks the mapping lies in the code.</summary>
    private int _checked;

    private byte* At(int offset) => (byte*)e.Asm.AddressOf(offset);

    /// <summary>Notes what has to be changed for another linear address.</summary>
    private void NoteRelocations(TranslatedBlock* made)
    {
        made->IsFixed = e.Asm.IsFixed;
        if (made->IsFixed) return;
        made->RelocationCount = e.Asm.Relocations.Count;
        made->Relocations = e.Generation.Arena.Add<BlockRelocation>(made->RelocationCount);
        for (int n = 0; n < made->RelocationCount; n++)
        {
            Relocation r = e.Asm.Relocations[n];
            made->Relocations[n] = new BlockRelocation { Distance = (int)(At(r.Offset) - made->Main), Kind = r.Kind, Table = r.Table };
        }
    }

    /// <summary>Decodes a part's instructions once more; each belongs to the operation that executes it.</summary>
    /// <returns>They are still the same.</returns>
    private bool Decode(Block* block, byte* code)
    {
        _bytes.Set(code, block->Length);
        _decoder.Begin(block->Mode, e.Rip);
        for (int operation = 0; operation < e.OperationCount; operation++)
        {
            // Micro-operations and the end of the block have no length.
            if (e.Operations[operation].Length == 0) continue;
            _decoder.Decode(out Instruction instruction);
            e.AddInstruction(instruction, operation);
        }
        return _bytes.Checksum(block->Length) == block->Checksum;
    }

    /// <inheritdoc cref="EmitInstructions"/>
    private bool EmitParts()
    {
        for (int n = 0; n < e.PartCount; n++)
        {
            bool returned = n > 0 && e.Next == Transition.Return;
            e.SelectPart(n);
            if (returned) EmitReturnedEntry();
            else if (n > 0) e.BeginMain();
            if (!EmitInstructions()) return false;
        }
        return true;
    }

    /// <returns>False: the interpreter is needed in the middle, which a loop with exchanged registers does not allow.</returns>
    private bool EmitInstructions()
    {
        int first = 0;
        (int begin, int end) = e.PartInstructions;
        for (int n = begin; n < end && !e.Asm.Full; n++)
        {
            ref Instruction instruction = ref e.Instructions[n];
            int operation = e.InstructionOperations[n], cold = e.Cold.Count;
            while (e.Operations[first].IsBreakpointCheck) first++; // there is none at this address
            e.Plan.Select(n);
            Emission.Position here = e.Here;
            uint established = e.Groups.Established;
            if (!EmitOperation(instruction, first, operation, n - begin)) return false;
            if (e.Near.AreOutOfReach)
            {
                // In front of this instruction they were still within reach: they go there, and the instruction is emitted once more.
                if (n == 0) return false;
                e.GoBack(here);
                e.Groups.Established = established;
                e.Groups.LoseAddend();
                e.Near.Place(between: true);
                if (!EmitOperation(instruction, first, operation, n - begin) || e.Near.AreOutOfReach) return false;
            }
            // What follows a conditional branch in the decoded block is its second link, which the branch has emitted.
            if ((InstructionTable.Get(instruction.Code).Flags & Row.EndsBlock) != 0) return true;
            ref int resume = ref e.Translation->Resume[operation];
            resume = e.Groups.IsHead ? TranslatedBlock.AfterGroupHead(e.Groups.IsReadingHead, e.Groups.IsStackHead)
                : (int)(e.Asm.Here - (ulong)e.Translation->Main);
            bool mayLeave = e.Cold.Count != cold;
            if (e.Loop.IsExchanged && resume > 0)
            {
                resume = 0; // known later, if at all
                if (mayLeave) e.Cold.AddReturn(operation);
            }
            // Where the interpreter may have executed the operation the registers hold nothing.
            if (!e.Groups.IsHead && mayLeave) e.Groups.LoseAddend();
            first = operation + 1;
        }
        EmitEnd(end - begin);
        return true;
    }

    /// <summary>One instruction, by the interpreter if need be.</summary>
    /// <returns>As <see cref="EmitInstructions"/>.</returns>
    private bool EmitOperation(in Instruction instruction, int first, int operation, int ordinal)
    {
        e.Groups.BeginOperation();
        // An operation with a micro-operation in front of it has an address that needs segmentation.
        if (first == operation && TryEmit(instruction, e.Operations + operation, operation, ordinal)) return true;
        if (e.Loop.IsExchanged) return false;
        e.Plan.Restore();
        e.Exit(TranslatedExit.Operation, first);
        e.Groups.Forget();
        if (!e.Near.AreOutOfReach) e.Near.Place(between: false);
        return true;
    }

    /// <summary>One instruction in host code. False: nothing was emitted, and the interpreter must execute it.</summary>
    private bool TryEmit(in Instruction g, Insn* operation, int number, int ordinal)
    {
        if ((operation->Flags & InsnFlags.OtherHandler) != 0) return false;
        (TranslationKind kind, TranslationFlags flags) = TranslationTable.Get(g.Code);
        if (kind == TranslationKind.Interpret) return false;
        Emission.Position here = e.Here;
        uint established = e.Groups.Established;
        bool done = kind switch
        {
            TranslationKind.Same => e.Same.EmitSame(g, operation, number, flags),
            TranslationKind.Simd => e.Same.EmitSimd(g, operation, number, flags),
            TranslationKind.X87 => e.X87.EmitX87(g, operation, number),
            TranslationKind.LoadX87Control => e.X87.EmitLoadX87Control(g, operation, number),
            TranslationKind.WaitX87 => e.X87.EmitX87Guard(number),
            TranslationKind.Lea => e.Same.EmitLea(g, operation),
            TranslationKind.Push => e.Stack.EmitPush(g, operation, number),
            TranslationKind.Pop => e.Stack.EmitPop(g, number),
            TranslationKind.Leave => e.Stack.EmitLeave(number),
            TranslationKind.Divide => e.Same.EmitDivide(g, operation, number),
            TranslationKind.Nop => true,
            TranslationKind.Jump => e.Branches.EmitJump(g, ordinal),
            TranslationKind.JumpConditional => e.Branches.EmitJumpConditional(g, ordinal),
            TranslationKind.JumpIfCountZero => e.Branches.EmitJumpIfCountZero(g, ordinal),
            TranslationKind.Loop => e.Branches.EmitLoop(g, ordinal),
            TranslationKind.JumpIndirect => e.Branches.EmitJumpIndirect(g, operation, number, ordinal),
            TranslationKind.Call => e.Branches.EmitCall(g, number, ordinal),
            TranslationKind.CallIndirect => e.Branches.EmitCallIndirect(g, operation, number, ordinal),
            TranslationKind.Return => e.Branches.EmitReturn(g, number, ordinal),
            TranslationKind.SystemCall => e.SystemCalls.EmitSystemCall(g, number, ordinal),
            TranslationKind.SystemReturn => e.SystemCalls.EmitSystemReturn(number, ordinal),
            TranslationKind.ReadTsc => e.SystemCalls.EmitReadTsc(g, number),
            TranslationKind.String => e.Strings.Emit(g, number),
            TranslationKind.PushFlags => e.Flags.EmitPushFlags(number),
            TranslationKind.PopFlags => e.Flags.EmitPopFlags(g, number, ordinal),
            TranslationKind.ClearDirection => e.Flags.EmitClearDirection(),
            TranslationKind.ClearInterrupts => e.Flags.EmitClearInterrupts(),
            TranslationKind.SetInterrupts => e.Flags.EmitSetInterrupts(g, number, ordinal),
            TranslationKind.SetAlignmentCheck => e.Flags.EmitAlignmentCheck(g, ordinal, set: true),
            TranslationKind.ClearAlignmentCheck => e.Flags.EmitAlignmentCheck(g, ordinal, set: false),
            TranslationKind.MoveFromSegment => e.Flags.EmitMoveFromSegment(g),
            TranslationKind.ReadPkru => e.SystemCalls.EmitReadPkru(number),
            TranslationKind.ReadControl => e.SystemCalls.EmitReadControl(g, ordinal),
            TranslationKind.VerifyWrite => e.Flags.EmitVerifyWrite(operation, number),
            TranslationKind.SwapGs => e.Flags.EmitSwapGs(),
            _ => false,
        };
        if (done) return true;
        e.GoBack(here);
        e.Groups.Established = established;
        return false;
    }

    /// <summary>The block runs into the next instruction.</summary>
    private void EmitEnd(int ordinal)
    {
        Insn* end = e.Operations + e.OperationCount - 1;
        e.Plan.EnterCold(); // the last instruction may be one that sets the flags
        e.Retire(ordinal);
        e.Branches.EmitLink(e.Branches.Truncate(e.Rip + (ulong)end->Imm));
    }
}
