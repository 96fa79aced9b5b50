using Bunraku.Engines;
using Bunraku.Platform;
using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>
/// Makes host code of one decoded block: x86-64 to x86-64, instruction by instruction. Guest registers are where <see cref="HostRegisters"/> says, the arithmetic
/// flags are the host's at all times, and nothing that is put between guest instructions touches them. One for each vCPU.
/// </summary>
internal sealed unsafe partial class BlockTranslator
{
    private readonly ExecutableMemory _memory;
    private readonly TranslatorRuntime _runtime;
    private readonly TranslationArena _arena;
    private readonly HostAssembler _a;
    private readonly CodeBytes _bytes = new();
    private readonly GuestDecoder _decoder;
    private readonly InstructionInfoFactory _information = new();

    // The block being translated.
    private TranslatedBlock* _translation;
    private Insn* _operations;
    private int _operationCount;
    private ulong _rip;
    private bool _wide;
    private int _table, _missRoutine;
    private int _linkCount;
    private bool _vectorsLoaded, _x87Loaded;
    private int _main;

    private readonly List<Cold> _cold = [];
    private readonly List<HostLabel> _labels = [];
    private int _labelCount;

    /// <summary>Code that is rarely reached and stands behind the block.</summary>
    private readonly record struct Cold(ColdKind Kind, HostLabel Label, HostLabel? Back, int Number, GuestAddress Address, int Size, bool Write, bool Aligned = false)
    {
        /// <summary>Address of a <see cref="PagePrediction"/>.</summary>
        public int Prediction { get; init; }
    }

    private enum ColdKind { Miss, Prediction, Mirror, Operation, Link, Attention, Vectors, X87, Record, Return }

    /// <param name="scale">The VM's clock, or null when the host's counter cannot be used.</param>
    public BlockTranslator(TranslationStore store, ProcessorState* state, CpuModel model, TscScale* scale)
    {
        (_predictions, _targetTableOf) = (store.Predictions, store.TargetTableOf);
        _scale = scale;
        _a = new HostAssembler(state);
        (_memory, _runtime, _arena) = (store.Memory, store.Runtime, store.Arena);
        _decoder = new GuestDecoder(_bytes, model);
    }

    /// <summary>Room that a translation may need at most: code, and what the arena holds.</summary>
    private const int MostCode = HostAssembler.Capacity, MostArena = 4096;

    /// <summary>Instructions translated, and bytes of code made.</summary>
    public ulong Instructions { get; private set; }

    /// <summary>Nothing more fits: the caller gives all code up.</summary>
    public bool IsFull => _memory.Length - _memory.Used < MostCode || !_arena.HasRoom(MostArena);

    /// <summary>
    /// Translates a block whose bytes are at <paramref name="code"/>; <paramref name="template"/> has what the caller knows.
    /// </summary>
    /// <param name="groups">Accesses may share checks.</param>
    /// <param name="predict">What accesses of a loop predict.</param>
    /// <returns>The translation, or null when the block is too large for the buffer, or its code has changed.</returns>
    public TranslatedBlock* Translate(Block* block, byte* code, in TranslatedBlock template, bool groups, LoopPredictions predict) =>
        // A loop whose instructions need the usual registers after all is translated once more.
        TryTranslate(block, code, template, groups, predict, exchange: true, out TranslatedBlock* made) || TryTranslate(block, code, template, groups, predict, exchange: false, out made) ? made : null;

    private bool TryTranslate(Block* block, byte* code, in TranslatedBlock template, bool groups, LoopPredictions predict, bool exchange, out TranslatedBlock* made)
    {
        made = null;
        _translation = _arena.Add<TranslatedBlock>(1);
        *_translation = template;
        _operations = _translation->Operations;
        _operationCount = block->Count - 1;
        _rip = template.Rip;
        uint mode = template.Mode;
        _wide = (mode & ModeKey.CodeSizeMask) == ModeKey.Code64;
        int privilege = TranslatorState.PrivilegeOf(mode);
        _table = StateOffsets.FirstLevel + privilege * TranslatorState.TableSize;
        _missRoutine = 2 * privilege;
        _translation->Resume = _arena.Add<int>(_operationCount);
        _translation->Links = _arena.Add<TranslationLink>(2);
        _linkCount = 0;
        _vectorsLoaded = _x87Loaded = false;
        _cold.Clear();
        _labelCount = 0;

        _a.Begin((ulong)_memory.Next);
        EmitCheckedEntry();
        _main = _a.Length;
        Decode(code, block->Length, mode);
        _loop = IsLoop() ? NewLabel() : null;
        FindExchanges(exchange && _loop != null);
        _predicts = predict == LoopPredictions.Pages && _loop != null;
        _mirrors = predict == LoopPredictions.Addends && _loop != null;
        FindGroups(groups);
        if (_loop != null)
        {
            ExchangeIn();
            _a.Place(_loop);
        }
        if (!EmitInstructions()) return false;
        EmitCold();
        int stale = _a.Length;
        EmitStaleStub();
        int loopStale = _a.Length;
        if (_loop != null)
        {
            ExchangeOut();
            EmitStaleStub();
        }
        // Another processor may have changed the code since the operations were made, and this one will hear of it.
        if (_a.Full || _bytes.Checksum(block->Length) != block->Checksum) return true;
        var start = (byte*)_memory.Append(_a.Code);
        if (start == null) return true;
        _translation->Checked = start;
        _translation->Main = start + _main;
        _translation->Stale = start + stale;
        if (_loop != null)
        {
            _translation->Loop = start + _loop.Offset;
            _translation->LoopStale = start + loopStale;
        }
        made = _translation;
        return true;
    }

    /// <summary>The mapping of the page is compared with the one for which the code was made.</summary>
    private void EmitCheckedEntry()
    {
        HostLabel same = NewLabel();
        if (_translation->SecondPage != null)
        {
            HostLabel second = NewLabel();
            _a.LoadState(Host.Rcx, _translation->SecondMappingSlot, wide: false);
            _a.Lea(Host.Rcx, Host.Rcx, Host.None, 0, -(int)_translation->SecondMapping, wide: false);
            _a.JumpIfRcxZero(second);
            _a.Call(_runtime.Exits[(int)TranslatedExit.Lookup]);
            Record(0);
            _a.Place(second);
        }
        _a.LoadState(Host.Rcx, _translation->MappingSlot, wide: false);
        _a.Lea(Host.Rcx, Host.Rcx, Host.None, 0, -(int)_translation->Mapping, wide: false);
        _a.JumpIfRcxZero(same);
        HostLabel again = NewLabel();
        _a.Call(_runtime.MappingMiss);
        _a.Jump(again);
        Record(0);
        _a.Place(again);
        _a.Place(same);
    }

    private void EmitStaleStub()
    {
        _a.Call(_runtime.Exits[(int)TranslatedExit.Lookup]);
        Record(0);
    }

    private void Record(int number)
    {
        _a.Int64((ulong)_translation);
        _a.Int32(number);
    }

    private readonly Instruction[] _instructions = new Instruction[BlockDecoder.MaxInstructions];
    private readonly int[] _instructionOperations = new int[BlockDecoder.MaxInstructions];
    private int _instructionCount;

    /// <summary>Decodes the block's instructions once more; each belongs to the operation that executes it.</summary>
    private void Decode(byte* code, int length, uint mode)
    {
        _bytes.Set(code, length);
        _decoder.Begin(mode, _rip);
        _instructionCount = 0;
        for (int operation = 0; operation < _operationCount; operation++)
        {
            // Micro-operations and the end of the block have no length.
            if (_operations[operation].Length == 0) continue;
            _decoder.Decode(out _instructions[_instructionCount]);
            _instructionOperations[_instructionCount++] = operation;
        }
        Instructions += (ulong)_instructionCount;
    }

    /// <returns>False: the interpreter is needed in the middle, which a loop with exchanged registers does not allow.</returns>
    private bool EmitInstructions()
    {
        int first = 0;
        for (int n = 0; n < _instructionCount && !_a.Full; n++)
        {
            ref Instruction instruction = ref _instructions[n];
            int operation = _instructionOperations[n], cold = _cold.Count;
            _isGroupHead = _isReadingGroupHead = false;
            // An operation with a micro-operation in front of it has an address that needs segmentation.
            if (first != operation || !TryEmit(instruction, _operations + operation, operation, n))
            {
                if (_exchanges.Count > 0) return false;
                EmitInterpreted(first);
                ForgetGroups();
                _isGroupHead = _isReadingGroupHead = false;
            }
            // What follows a conditional branch in the decoded block is its second link, which the branch has emitted.
            if ((InstructionTable.Get(instruction.Code).Flags & Row.EndsBlock) != 0) return true;
            _translation->Resume[operation] = _isReadingGroupHead ? TranslatedBlock.AfterReadingGroupHead : _isGroupHead ? TranslatedBlock.AfterGroupHead : _a.Length - _main;
            if (_exchanges.Count > 0 && _translation->Resume[operation] > 0) _translation->Resume[operation] = _cold.Count != cold ? AddReturn(operation) : 0;
            // Where the interpreter may have executed the operation the registers hold nothing.
            if (!_isGroupHead && _cold.Count != cold) _addendGroup = -1;
            first = operation + 1;
        }
        EmitEnd(_instructionCount);
        return true;
    }

    /// <summary>One instruction in host code. False: nothing was emitted, and the interpreter must execute it.</summary>
    private bool TryEmit(in Instruction g, Insn* operation, int number, int ordinal)
    {
        if ((operation->Flags & InsnFlags.OtherHandler) != 0) return false;
        (TranslationKind kind, TranslationFlags flags) = TranslationTable.Get(g.Code);
        if (kind == TranslationKind.Interpret) return false;
        int length = _a.Length, cold = _cold.Count, links = _linkCount;
        Span<AccessGroup> groups = stackalloc AccessGroup[_groupCount];
        _groups.AsSpan(0, _groupCount).CopyTo(groups);
        bool vectors = _vectorsLoaded, x87 = _x87Loaded;
        bool done = kind switch
        {
            TranslationKind.Same => EmitSame(g, operation, number, flags),
            TranslationKind.Vector => EmitVector(g, operation, number, flags),
            TranslationKind.X87 => EmitX87(g, operation, number),
            TranslationKind.LoadX87Control => EmitLoadX87Control(g, operation, number),
            TranslationKind.WaitX87 => EmitX87Guard(number),
            TranslationKind.Lea => EmitLea(g, operation),
            TranslationKind.Push => EmitPush(g, operation, number),
            TranslationKind.Pop => EmitPop(g, number),
            TranslationKind.Leave => EmitLeave(number),
            TranslationKind.Divide => EmitDivide(g, operation, number),
            TranslationKind.Nop => true,
            TranslationKind.Jump => EmitJump(g, ordinal),
            TranslationKind.JumpConditional => EmitJumpConditional(g, ordinal),
            TranslationKind.JumpIfCountZero => EmitJumpIfCountZero(g, ordinal),
            TranslationKind.Loop => EmitLoop(g, ordinal),
            TranslationKind.JumpIndirect => EmitJumpIndirect(g, operation, number, ordinal),
            TranslationKind.Call => EmitCall(g, number, ordinal),
            TranslationKind.CallIndirect => EmitCallIndirect(g, operation, number, ordinal),
            TranslationKind.Return => EmitReturn(g, number, ordinal),
            TranslationKind.SystemCall => EmitSystemCall(g, number, ordinal),
            TranslationKind.SystemReturn => EmitSystemReturn(number, ordinal),
            TranslationKind.ReadTsc => EmitReadTsc(g, number),
            TranslationKind.PushFlags => EmitPushFlags(number),
            TranslationKind.PopFlags => EmitPopFlags(g, number, ordinal),
            TranslationKind.ClearInterrupts => EmitClearInterrupts(),
            TranslationKind.SetInterrupts => EmitSetInterrupts(g, number, ordinal),
            TranslationKind.SetAlignmentCheck => EmitAlignmentCheck(g, ordinal, set: true),
            TranslationKind.ClearAlignmentCheck => EmitAlignmentCheck(g, ordinal, set: false),
            TranslationKind.MoveFromSegment => EmitMoveFromSegment(g),
            TranslationKind.SwapGs => EmitSwapGs(),
            _ => false,
        };
        if (done) return true;
        // Labels that were taken are simply not used again.
        _a.Rewind(length);
        _cold.RemoveRange(cold, _cold.Count - cold);
        (_linkCount, _vectorsLoaded, _x87Loaded) = (links, vectors, x87);
        groups.CopyTo(_groups);
        return false;
    }

    private void EmitInterpreted(int number)
    {
        _a.Call(_runtime.Exits[(int)TranslatedExit.Operation]);
        Record(number);
    }

    /// <summary>The block runs into the next instruction.</summary>
    private void EmitEnd(int ordinal)
    {
        Insn* end = _operations + _operationCount - 1;
        Retire(ordinal);
        EmitLink((_rip + (ulong)end->Imm) & (_wide ? ulong.MaxValue : uint.MaxValue));
    }

    private void Retire(int instructions) => _a.Lea(HostRegisters.Retired, HostRegisters.Retired, instructions);

    private HostLabel NewLabel()
    {
        if (_labelCount == _labels.Count) _labels.Add(new HostLabel());
        HostLabel label = _labels[_labelCount++];
        label.Reset();
        return label;
    }

    /// <summary>A label whose code lets the interpreter execute operation <paramref name="number"/>.</summary>
    private HostLabel OperationExit(int number)
    {
        HostLabel label = NewLabel();
        _cold.Add(new Cold(ColdKind.Operation, label, null, number, default, 0, false));
        return label;
    }

    private void EmitCold()
    {
        for (int n = 0; n < _cold.Count && !_a.Full; n++)
        {
            Cold c = _cold[n];
            _a.Place(c.Label);
            switch (c.Kind)
            {
                case ColdKind.Miss:
                    Materialise(c.Address, HostRegisters.Address);
                    _a.Lea(HostRegisters.Addend, HostRegisters.Address, c.Size - 1);
                    CallAndReturn(_runtime.Misses[_missRoutine + (c.Write ? 1 : 0)], c);
                    break;
                case ColdKind.Prediction:
                    EmitPrediction(c);
                    break;
                case ColdKind.Mirror:
                    EmitMirror(c);
                    break;
                case ColdKind.Vectors:
                    CallAndReturn(_runtime.LoadVectors, c);
                    break;
                case ColdKind.X87:
                    CallAndReturn(_runtime.LoadX87, c);
                    break;
                case ColdKind.Record:
                    Record(c.Number);
                    break;
                case ColdKind.Operation:
                    ExchangeOut();
                    _a.Call(_runtime.Exits[(int)TranslatedExit.Operation]);
                    Record(c.Number);
                    break;
                case ColdKind.Link:
                    _a.Call(_runtime.Exits[(int)TranslatedExit.Link]);
                    Record(c.Number);
                    break;
                case ColdKind.Attention:
                    ExchangeOut();
                    _a.Call(_runtime.Exits[(int)TranslatedExit.Attention]);
                    Record(c.Number);
                    break;
                case ColdKind.Return:
                    _translation->Resume[c.Number] = _a.Length - _main;
                    ExchangeIn();
                    _a.Jump(c.Back!);
                    break;
            }
        }
    }

    /// <summary>A call that comes back, or leaves for the interpreter: behind it are the jump and the record that <see cref="TranslatorRuntime.Misses"/> expects.</summary>
    private void CallAndReturn(ulong routine, in Cold c)
    {
        ExchangeOut();
        _a.Call(routine);
        if (_exchanges.Count == 0)
        {
            _a.Jump(c.Back!);
            Record(c.Number);
            return;
        }
        HostLabel exchange = NewLabel();
        _a.Jump(exchange);
        Record(c.Number);
        _a.Place(exchange);
        ExchangeIn();
        _a.Jump(c.Back!);
    }

    /// <summary>Where the interpreter has executed an operation of a loop with exchanged registers, code goes on by way of the exchange.</summary>
    private int AddReturn(int operation)
    {
        HostLabel back = NewLabel();
        _a.Place(back);
        _cold.Add(new Cold(ColdKind.Return, NewLabel(), back, operation, default, 0, false));
        return 0; // known later
    }
}
