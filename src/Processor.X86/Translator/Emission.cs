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

    /// <summary>What is being filled.</summary>
    public TranslatedBlock* Translation { get; private set; }

    /// <summary>The operations of the decoded block, without the one that counts.</summary>
    public Insn* Operations { get; private set; }

    public int OperationCount { get; private set; }

    /// <summary>RIP of the block's first instruction.</summary>
    public ulong Rip { get; private set; }

    /// <summary>64-bit code; otherwise 32-bit code in flat segments.</summary>
    public bool Wide { get; private set; }

    public bool IsSupervisor => ModeKey.Cpl(Translation->Mode) == 0;

    /// <summary>Offset in the state of the first-level TLB of the block's privilege.</summary>
    public int FirstLevelTable { get; private set; }

    /// <summary>Number of the routine for its read misses; write misses have the next.</summary>
    public int MissRoutine { get; private set; }

    /// <summary>Links that a block has at most.</summary>
    public const int MostLinks = 2;

    /// <summary>Links that were added.</summary>
    public int LinkCount { get; private set; }

    /// <summary>The host has the guest's SIMD registers, its x87 state, from here to the end of the block.</summary>
    public bool SimdLoaded { get; private set; }

    /// <inheritdoc cref="SimdLoaded"/>
    public bool X87Loaded { get; private set; }

    /// <summary>Where the entry that trusts the page's mapping lies in the code.</summary>
    public int Main { get; private set; }

    /// <summary>The block's instructions, and the number of the operation that executes each.</summary>
    public readonly Instruction[] Instructions = new Instruction[BlockDecoder.MaxInstructions];

    /// <inheritdoc cref="Instructions"/>
    public readonly int[] InstructionOperations = new int[BlockDecoder.MaxInstructions];

    public int InstructionCount { get; private set; }

    /// <summary>Nothing is known of the block before.</summary>
    public void Begin(Block* block, in TranslatedBlock template)
    {
        Translation = Generation.Arena.Add<TranslatedBlock>(1);
        *Translation = template;
        Operations = Translation->Operations;
        OperationCount = block->Count - 1;
        Rip = template.Rip;
        Wide = (template.Mode & ModeKey.CodeSizeMask) == ModeKey.Code64;
        int privilege = TranslatorState.PrivilegeOf(template.Mode);
        FirstLevelTable = StateOffsets.FirstLevel + privilege * TranslatorState.TableSize;
        MissRoutine = 2 * privilege;
        Translation->Resume = Generation.Arena.Add<int>(OperationCount);
        Translation->Links = Generation.Arena.Add<TranslationLink>(MostLinks);
        LinkCount = 0;
        InstructionCount = 0;
        SimdLoaded = X87Loaded = false;
        Cold.Clear();
        Near.Clear();
        _labelCount = 0;
        Asm.Begin((ulong)Generation.Hot.Next, (ulong)Generation.Cold.Next);
        Asm.IsFixed = !Wide;
    }

    /// <summary>The main entry is here.</summary>
    public void BeginMain() => Main = Asm.Length;

    /// <summary>Adds an instruction of the block, which <paramref name="operation"/> executes.</summary>
    public void AddInstruction(in Instruction instruction, int operation)
    {
        Instructions[InstructionCount] = instruction;
        InstructionOperations[InstructionCount++] = operation;
    }

    public void NoteSimd()
    {
        SimdLoaded = true;
        Translation->UsesSimd = true;
    }

    public void NoteX87()
    {
        X87Loaded = true;
        Translation->UsesX87 = true;
    }

    /// <summary>How far the emission has come, so that an instruction that turns out to be the interpreter's can be taken back.</summary>
    public readonly record struct Position(int Length, int Cold, int Links, (int, int) Near, bool Simd, bool X87);

    public Position Here => new(Asm.Length, Cold.Count, LinkCount, Near.Here, SimdLoaded, X87Loaded);

    /// <summary>Labels that were taken are simply not used again.</summary>
    public void GoBack(in Position to)
    {
        Asm.Rewind(to.Length);
        Cold.GoBack(to.Cold);
        Near.GoBack(to.Near, to.Length);
        (LinkCount, SimdLoaded, X87Loaded) = (to.Links, to.Simd, to.X87);
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

    /// <summary>So many instructions of the block have retired, and none of them is counted yet.</summary>
    public void Retire(int instructions) => Asm.Lea(HostRegisters.Retired, HostRegisters.Retired, instructions);

    /// <summary>An <see cref="ExitRecord"/>.</summary>
    public void Record(int number)
    {
        Asm.Int64((ulong)Translation);
        Asm.Int32(number);
    }

    /// <summary>Leaves translated code; <paramref name="number"/> is what the record behind the call tells.</summary>
    public void Exit(TranslatedExit why, int number)
    {
        Asm.Call(Runtime.Exits[(int)why]);
        Record(number);
    }

    /// <summary>A direct jump to a target in the block's own mode, or in another.</summary>
    /// <returns>The link's number.</returns>
    public int AddLink(ulong rip, uint? mode = null)
    {
        Translation->Links[LinkCount] = new TranslationLink { Rip = rip, From = Translation, Mode = mode ?? Translation->Mode };
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
