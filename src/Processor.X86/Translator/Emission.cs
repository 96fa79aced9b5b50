using Bunraku.Engines;
using Bunraku.Platform;
using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>
/// The translation that is being made: the host code so far, the block that it is made of, and the emitters, which reach each other through it. One for each
/// vCPU, used for one block after another.
/// </summary>
internal sealed unsafe class Emission
{
    private readonly TranslationStore _store;
    public readonly TranslatorRuntime Runtime;
    public readonly ReturnStacks ReturnStacks;
    public readonly HostAssembler Asm;
    public readonly InstructionInfoFactory Information = new();
    /// <summary>The VM's clock, or null when the host's counter cannot be used.</summary>
    public readonly CounterScale* Scale;
    /// <summary>The number of the jump cache of a mode, or -1.</summary>
    public readonly Func<uint, int> TargetTableOf;

    public readonly ColdCode Cold;
    public readonly NearExits Near;
    public readonly FlagsPlan Plan;
    public readonly Addresses Addresses;
    public readonly AccessGroups Groups;
    public readonly PagePredictor Predictor;
    public readonly LoopRegisters Loop;
    public readonly Branching Branches;
    public readonly StackEmitter Stack;
    public readonly SameInstruction Same;
    public readonly X87Emitter X87;
    public readonly FlagsEmitter Flags;
    public readonly SystemCallEmitter SystemCalls;
    public readonly StringEmitter Strings;

    private readonly List<HostLabel> _labels = [];
    private int _labelCount;

    /// <param name="scale">The VM's clock, or null when the host's counter cannot be used.</param>
    public Emission(TranslationStore store, ProcessorState* state, CounterScale* scale)
    {
        (_store, Runtime, TargetTableOf) = (store, store.Runtime, store.TargetTableOf);
        ReturnStacks = store.Returns;
        Scale = scale;
        Asm = new HostAssembler(state);
        Cold = new ColdCode(this);
        Near = new NearExits(this);
        Plan = new FlagsPlan(this);
        Addresses = new Addresses(this);
        Groups = new AccessGroups(this);
        Predictor = new PagePredictor(this);
        Loop = new LoopRegisters(this);
        Branches = new Branching(this);
        Stack = new StackEmitter(this);
        Same = new SameInstruction(this);
        X87 = new X87Emitter(this);
        Flags = new FlagsEmitter(this);
        SystemCalls = new SystemCallEmitter(this);
        Strings = new StringEmitter(this);
    }

    /// <summary>Where translations go.</summary>
    public TranslationGeneration Generation => _store.Current;

    /// <summary>What is being made: its first part, which has the entries, the links, and everything else that there is once.</summary>
    public TranslatedBlock* Head { get; private set; }

    /// <summary>The part that is being emitted.</summary>
    public TranslatedBlock* Translation { get; private set; }

    private readonly nint[] _parts = new nint[TraceSelector.MostParts];
    private readonly PartInfo[] _information = new PartInfo[TraceSelector.MostParts];

    /// <param name="FirstInstruction">In <see cref="Instructions"/>.</param>
    /// <param name="FirstOperation">Number of its first operation among those of all parts.</param>
    private readonly record struct PartInfo(int OperationCount, int FirstInstruction, int FirstOperation, Transition Next);

    public int PartCount { get; private set; }

    private int _part;

    /// <summary>How execution goes on behind the part that is being emitted.</summary>
    public Transition Next => _information[_part].Next;

    /// <summary>The operations of the part's block, without the one that counts.</summary>
    public Insn* Operations => Translation->Operations;

    public int OperationCount => _information[_part].OperationCount;

    /// <summary>RIP of the part's first instruction.</summary>
    public ulong Rip => Translation->Rip;

    /// <summary>64-bit code; otherwise 32-bit code in flat segments.</summary>
    public bool Wide { get; private set; }

    public bool IsSupervisor => ModeKey.Cpl(Translation->Mode) == 0;

    /// <summary>Offset in the state of the first-level TLB of the block's privilege.</summary>
    public int FirstLevelTable { get; private set; }

    /// <summary>Number of the routine for its read misses; write misses have the next.</summary>
    public int MissRoutine { get; private set; }

    /// <summary>Links that a block has at most.</summary>
    public const int MostLinks = TraceSelector.MostParts + 2;

    /// <summary>Links that were added.</summary>
    public int LinkCount { get; private set; }

    /// <summary>The host has the guest's SIMD registers, its x87 state, from here to the end of the last part.</summary>
    public bool SimdLoaded { get; private set; }

    /// <inheritdoc cref="SimdLoaded"/>
    public bool X87Loaded { get; private set; }

    /// <summary>The instructions of all parts, and the number of the operation of the part that executes each.</summary>
    public readonly Instruction[] Instructions = new Instruction[BlockDecoder.MaxInstructions];

    /// <inheritdoc cref="Instructions"/>
    public readonly int[] InstructionOperations = new int[BlockDecoder.MaxInstructions];

    private readonly int[] _partOf = new int[BlockDecoder.MaxInstructions];

    public int InstructionCount { get; private set; }

    /// <summary>The operation that executes instruction <paramref name="n"/>.</summary>
    public Insn* OperationOf(int n) => Part(_partOf[n])->Operations + InstructionOperations[n];

    /// <summary>The part to which instruction <paramref name="n"/> belongs.</summary>
    public int PartOf(int n) => _partOf[n];

    /// <summary>How execution goes on behind the part whose last instruction is <paramref name="n"/>.</summary>
    public Transition TransitionBehind(int n) =>
        n + 1 == InstructionCount || _partOf[n + 1] != _partOf[n] ? _information[_partOf[n]].Next : Transition.None;

    /// <summary>Instruction <paramref name="n"/> is the first of a part to which a call comes back.</summary>
    public bool IsReturnedTo(int n) => n > 0 && _partOf[n - 1] != _partOf[n] && _information[_partOf[n - 1]].Next == Transition.Return;

    /// <summary>The number of an operation of a part among those of all.</summary>
    public int KeyOf(int part, int operation) => _information[part].FirstOperation + operation;

    /// <summary>The same for the part that is being emitted.</summary>
    public int KeyOf(int operation) => KeyOf(_part, operation);

    /// <summary>The first of the instructions of the part that is being emitted, and the one behind its last.</summary>
    public (int First, int End) PartInstructions =>
        (_information[_part].FirstInstruction, _part + 1 < PartCount ? _information[_part + 1].FirstInstruction : InstructionCount);

    public TranslatedBlock* Part(int n) => (TranslatedBlock*)_parts[n];

    /// <summary>Nothing is known of what is translated before.</summary>
    public void Begin(in TranslatedBlock template)
    {
        Head = Generation.Arena.Add<TranslatedBlock>(1);
        *Head = template;
        Head->Head = Head;
        PartCount = 0;
        Wide = (template.Mode & ModeKey.CodeSizeMask) == ModeKey.Code64;
        int privilege = TranslatorState.PrivilegeOf(template.Mode);
        FirstLevelTable = StateOffsets.FirstLevel + privilege * TranslatorState.TableSize;
        MissRoutine = 2 * privilege;
        LinkCount = 0;
        InstructionCount = 0;
        SimdLoaded = X87Loaded = false;
        Cold.Clear();
        Near.Clear();
        Plan.EnterCold();
        _labelCount = 0;
        Asm.Begin((ulong)Generation.Hot.Next, (ulong)Generation.Cold.Next);
        Asm.IsFixed = !Wide;
    }

    /// <summary>Adds a part, which is the selected one then; its instructions come next.</summary>
    public void AddPart(in TracePart part)
    {
        TranslatedBlock* t = PartCount == 0 ? Head : (TranslatedBlock*)Generation.Arena.Add<byte>(TranslatedBlock.PartSize);
        if (PartCount > 0)
        {
            Buffer.MemoryCopy(Head, t, TranslatedBlock.PartSize, TranslatedBlock.PartSize);
            t->Rip = part.Rip;
            t->Operations = part.Block->First + 1;
            t->Block = part.Block;
            t->BlockGeneration = part.Block->Generation;
            t->NextPart = null;
            Part(PartCount - 1)->NextPart = t;
        }
        int count = part.Block->Count - 1, first = PartCount == 0 ? 0 : KeyOf(_information[PartCount - 1].OperationCount);
        t->Resume = Generation.Arena.Add<int>(count);
        _parts[PartCount] = (nint)t;
        _information[PartCount] = new PartInfo(count, InstructionCount, first, part.Next);
        SelectPart(PartCount++);
    }

    /// <summary>No more parts come.</summary>
    public void EndParts() => Head->Links = Generation.Arena.Add<TranslationLink>(MostLinks);

    public void SelectPart(int n)
    {
        _part = n;
        Translation = Part(n);
    }

    /// <inheritdoc cref="SelectPart(int)"/>
    public void SelectPart(TranslatedBlock* part) => SelectPart(Array.IndexOf(_parts, (nint)part));

    /// <summary>Calls come back to the part.</summary>
    public bool IsEntered => _part > 0 && _information[_part - 1].Next == Transition.Return;

    /// <summary>What may come from outside to the part enters it here.</summary>
    public void BeginMain() => Translation->Main = (byte*)Asm.Here;

    /// <summary>Other code has run: nothing is known of what the host's registers hold.</summary>
    public void ForgetLoaded() => SimdLoaded = X87Loaded = false;

    /// <summary>Adds an instruction of the part, which <paramref name="operation"/> executes.</summary>
    public void AddInstruction(in Instruction instruction, int operation)
    {
        Instructions[InstructionCount] = instruction;
        _partOf[InstructionCount] = _part;
        InstructionOperations[InstructionCount++] = operation;
    }

    public void NoteSimd()
    {
        SimdLoaded = true;
        Head->UsesSimd = true;
    }

    public void NoteX87()
    {
        X87Loaded = true;
        Head->UsesX87 = true;
    }

    /// <summary>How far the emission has come, so that an instruction that turns out to be the interpreter's can be taken back.</summary>
    public readonly record struct Position(int Length, int Cold, int Links, (int, int) Near, bool Simd, bool X87, bool Clobbered);

    public Position Here => new(Asm.Length, Cold.Count, LinkCount, Near.Here, SimdLoaded, X87Loaded, Plan.IsClobbered);

    /// <summary>Labels that were taken are simply not used again.</summary>
    public void GoBack(in Position to)
    {
        Asm.Rewind(to.Length);
        Cold.GoBack(to.Cold);
        Near.GoBack(to.Near, to.Length);
        (LinkCount, SimdLoaded, X87Loaded) = (to.Links, to.Simd, to.X87);
        Plan.GoBack(to.Clobbered);
    }

    public HostLabel NewLabel()
    {
        if (_labelCount == _labels.Count) _labels.Add(new HostLabel());
        HostLabel label = _labels[_labelCount++];
        label.Reset();
        return label;
    }

    public void Encode(in Instruction instruction)
    {
        if (!Asm.TryEncode(instruction)) throw new InvalidOperationException($"cannot encode {instruction}");
    }

    /// <summary>So many instructions of the part have retired, and none of them is counted yet.</summary>
    public void Retire(int instructions) => Asm.Lea(HostRegisters.Retired, HostRegisters.Retired, instructions);

    /// <summary>An <see cref="ExitRecord"/>.</summary>
    public void Record(int number) => RecordOf(Translation, number);

    private void RecordOf(TranslatedBlock* part, int number)
    {
        Asm.Int64((ulong)part);
        Asm.Int32(number);
    }

    /// <summary>Leaves translated code; <paramref name="number"/> is what the record behind the call tells.</summary>
    public void Exit(TranslatedExit why, int number)
    {
        Asm.Call(Runtime.Exits[(int)why]);
        if (why is TranslatedExit.Link or TranslatedExit.Attention) RecordOf(Head, number);
        else Record(number);
    }

    /// <summary>A direct jump to a target in the block's own mode, or in another.</summary>
    /// <returns>The link's number.</returns>
    public int AddLink(ulong rip, uint? mode = null)
    {
        Head->Links[LinkCount] = new TranslationLink { Rip = rip, From = Head, Mode = mode ?? Head->Mode };
        return LinkCount++;
    }

    /// <summary>What follows runs on the return stack of another mode. The arithmetic flags and all registers stay.</summary>
    public void ChangeReturnStack(int table)
    {
        Asm.StoreState(StateOffsets.ReturnStackOf(Translation->TargetTable), Host.Rsp);
        Asm.LoadState(Host.Rsp, StateOffsets.ReturnStackOf(table));
        Asm.StoreStateImmediate(StateOffsets.ReturnTable, table, wide: false);
    }

    /// <summary>JRCXZ to a place that may be far away.</summary>
    public void JumpIfCountZero(HostLabel target)
    {
        HostLabel zero = NewLabel(), next = NewLabel();
        Asm.JumpIfRcxZero(zero);
        Asm.ShortJump(next);
        Asm.Place(zero);
        Asm.Jump(target);
        Asm.Place(next);
    }

    /// <summary>The opposite: to a place that may be far away unless RCX is zero. <see cref="Near"/> has what is better in most places.</summary>
    public void JumpIfCountNotZero(HostLabel target)
    {
        HostLabel zero = NewLabel();
        Asm.JumpIfRcxZero(zero);
        Asm.Jump(target);
        Asm.Place(zero);
    }
}
