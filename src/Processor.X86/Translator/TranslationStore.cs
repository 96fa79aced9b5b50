using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Processor.X86;

/// <summary>Where translated code and what belongs to it lives, and the numbers that it contains. Given up as a whole.</summary>
internal sealed unsafe class TranslationStore : IDisposable
{
    // Pages are used one after another: what a small guest does not need is never there.
    public readonly ExecutableMemory Memory;
    /// <summary>The parts of it behind the runtime: what runs often; what is rarely reached, at higher addresses.</summary>
    public readonly ExecutablePart Hot, Cold;
    public readonly TranslationArena Arena;
    public readonly PredictionArena Predictions;
    public readonly TranslatorRuntime Runtime;
    public readonly ReturnStacks Returns;

    /// <summary>Room for the runtime, and the bytes at the beginning of the memory that it takes, which are never given up.</summary>
    private const ulong MostRoutines = 64 << 10;
    private readonly ulong _kept;
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
        ulong hot = (sizes.HotBytes + 15) & ~15ul;
        Memory = new ExecutableMemory(MostRoutines + hot + sizes.ColdBytes, hugePages: true);
        var routines = new ExecutablePart(Memory, 0, MostRoutines);
        Runtime = new TranslatorRuntime(routines, state, sizes.JumpTargets);
        _kept = routines.Used;
        Arena = new TranslationArena(sizes.TableBytes);
        Predictions = new PredictionArena(sizes.Predictions);
        Hot = new ExecutablePart(Memory, _kept, hot, BlockTranslator.CheckedEntryLength);
        Cold = new ExecutablePart(Memory, _kept + hot, sizes.ColdBytes);
        Returns = new ReturnStacks(state);
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
        Map.AddRoutines(Runtime.Routines, (ulong)Memory.Code + _kept);
    }

    /// <summary>Gives everything up.</summary>
    public void Clear()
    {
        Map?.Remove(Memory.Code + _kept, Memory.Length - _kept);
        Hot.Rewind(0);
        Cold.Rewind(0);
        Arena.Clear();
        Predictions.Clear();
        _mappings.Clear();
        _modes.Clear();
        _nextMapping = 1;
    }

    public void Dispose()
    {
        Memory.Dispose();
        Arena.Dispose();
        Predictions.Dispose();
        Returns.Dispose();
    }
}
