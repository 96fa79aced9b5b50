using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Processor.X86;

/// <summary>Where translated code and what belongs to it lives, in generations, and the numbers that it contains.</summary>
internal sealed unsafe class TranslationStore : IDisposable
{
    /// <summary>Room for the hand-written routines.</summary>
    private const ulong RuntimeBytes = HostAssembler.Capacity;

    /// <summary>So many mappings may have a number: those of code that is long gone keep theirs until all is given up.</summary>
    private const int MostMappings = 1 << 20;

    // Pages are used one after another: what a small guest does not need is never there.
    private readonly ExecutableMemory _memory;
    private readonly ExecutablePart _routines;
    /// <summary>By number; null: never used.</summary>
    private readonly TranslationGeneration?[] _generations;
    public readonly TranslatorRuntime Runtime;
    public readonly ReturnStacks Returns;

    /// <summary>Numbers of mappings (linear page, backing page).</summary>
    private readonly Dictionary<(ulong Linear, ulong Backing), uint> _mappings = [];
    /// <summary>Modes that have a jump cache.</summary>
    private readonly List<uint> _modes = [];
    private uint _nextMapping = 1;
    private readonly ProcessorState* _state;

    private readonly CodeCacheSizes _sizes;

    public TranslationStore(ProcessorState* state, CodeCacheSizes sizes)
    {
        _state = state;
        _sizes = sizes;
        _generations = new TranslationGeneration?[sizes.MostGenerations];
        ulong hot = HotStart(sizes.MostGenerations);
        _memory = new ExecutableMemory(hot + (ulong)sizes.MostGenerations * sizes.ColdBytes, hugeBytes: hot);
        _routines = new ExecutablePart(_memory, 0, RuntimeBytes);
        Runtime = new TranslatorRuntime(_routines, state, sizes.JumpTargets);
        Returns = new ReturnStacks(state);
        Current = Open(0);
    }

    /// <summary>What is filled now.</summary>
    public TranslationGeneration Current { get; private set; }

    /// <summary>All that were ever used. Any thread.</summary>
    public IEnumerable<TranslationGeneration> All => _generations.OfType<TranslationGeneration>();

    private ulong HotStart(int number) => RuntimeBytes + (ulong)number * _sizes.HotBytes;

    private ulong ColdStart(int number) => HotStart(_sizes.MostGenerations) + (ulong)number * _sizes.ColdBytes;

    private TranslationGeneration Open(int number) => _generations[number] ??= new TranslationGeneration(
        new ExecutablePart(_memory, HotStart(number), _sizes.HotBytes, BlockTranslator.CheckedEntryLength),
        new ExecutablePart(_memory, ColdStart(number), _sizes.ColdBytes), _sizes);

    /// <summary>What is translated from now on belongs to this generation.</summary>
    public void Select(int number) => Current = Open(number);

    /// <summary>Replaces bytes of translated code.</summary>
    public void Patch(byte* code, ReadOnlySpan<byte> bytes)
    {
        ulong offset = (ulong)(code - _memory.Code), cold = ColdStart(0);
        if (offset < cold) _generations[(offset - RuntimeBytes) / _sizes.HotBytes]!.Hot.Patch(code, bytes);
        else _generations[(offset - cold) / _sizes.ColdBytes]!.Cold.Patch(code, bytes);
    }

    /// <summary>No jump cache leads to a translation any more by the address for which it is.</summary>
    public void ForgetTarget(TranslatedBlock* t)
    {
        var keys = (ulong*)(_state->Translator.Targets + t->TargetTable * TranslatorState.TargetTableSize);
        ulong n = (t->Rip & Runtime.TargetMask) >> 2;
        if (keys[TranslatorState.TargetSize + n] == (ulong)t->Checked) keys[n] = TranslatorState.EmptyTarget;
    }

    /// <summary>The translations of the present generation are not there any more: nothing leads to them but the jump caches and the return stacks.</summary>
    public void ClearCurrent()
    {
        int number = Array.IndexOf(_generations, Current);
        ulong first = (ulong)_memory.Code + HotStart(number);
        Map?.Remove((void*)first, _sizes.HotBytes);
        Map?.Remove(_memory.Code + ColdStart(number), _sizes.ColdBytes);
        for (int table = 0; table < _modes.Count; table++)
        {
            var keys = (ulong*)(_state->Translator.Targets + table * TranslatorState.TargetTableSize);
            for (int n = 0; n < _sizes.JumpTargets; n++)
            {
                if (keys[TranslatorState.TargetSize + n] - first < _sizes.HotBytes) keys[n] = TranslatorState.EmptyTarget;
            }
        }
        ForgetReturns();
        Current.Clear();
    }

    /// <summary>All return stacks are empty: a return by one looks for nobody's attention.</summary>
    public void ForgetReturns()
    {
        for (int table = 0; table < _modes.Count; table++) Returns.Open(table, Runtime.EmptyReturns[table]);
    }

    /// <summary>The number of a mode's jump cache and return stack; -1 when there is none left.</summary>
    public int TargetTableOf(uint mode)
    {
        int table = _modes.IndexOf(mode);
        if (table >= 0 || _modes.Count == _sizes.Modes) return table;
        table = _modes.Count;
        _modes.Add(mode);
        // Only now: what no mode has needs no memory of the host.
        new Span<ulong>(_state->Translator.Targets + table * TranslatorState.TargetTableSize, TranslatorState.TargetSize).Fill(TranslatorState.EmptyTarget);
        Returns.Open(table, Runtime.EmptyReturns[table]);
        return table;
    }

    /// <summary>The number of a mapping; never 0.</summary>
    public uint MappingOf(ulong linear, ulong backing)
    {
        if (!_mappings.TryGetValue((linear, backing), out uint mapping)) _mappings.Add((linear, backing), mapping = _nextMapping++);
        return mapping;
    }

    /// <summary>Offset in the state of the mapping that is in force at a linear address, for code of a mode.</summary>
    public static int MappingSlot(ulong linear, uint mode) =>
        StateOffsets.Mappings
            + sizeof(uint) * (((int)(linear >> 12) & (TranslatorState.MappingSize - 1)) + TranslatorState.MappingTableOf(mode) * TranslatorState.MappingSize);

    /// <summary>Where the processor state lies, below 2 GiB.</summary>
    public int StateAddress => (int)_state;

    /// <summary>There is no number left for another mapping: all code is to be given up.</summary>
    public bool HasManyMappings => _mappings.Count >= MostMappings;

    /// <summary>Mappings that have a number, and modes that have a jump cache.</summary>
    public int MappingCount => _mappings.Count;

    /// <inheritdoc cref="MappingCount"/>
    public int ModeCount => _modes.Count;

    /// <summary>Who is told where code lies; null: nobody.</summary>
    public CodeMap? Map { get; private set; }

    /// <summary>From now on somebody is told where code lies. Before there is any but the routines.</summary>
    public void ObserveCode(IHostCodeObserver observer)
    {
        Map = new CodeMap(observer);
        Map.AddRoutines(Runtime.Routines, (ulong)_routines.Next);
    }

    /// <summary>Gives everything up.</summary>
    public void Clear()
    {
        Map?.Remove(_memory.Code + RuntimeBytes, _memory.Length - RuntimeBytes);
        foreach (TranslationGeneration generation in All) generation.Clear();
        _mappings.Clear();
        _modes.Clear();
        _nextMapping = 1;
    }

    public void Dispose()
    {
        _memory.Dispose();
        foreach (TranslationGeneration generation in All) generation.Dispose();
        Returns.Dispose();
    }
}
