using Bunraku.Platform;

namespace Bunraku.Processor.X86;

/// <summary>Where translated code and what belongs to it lives, and the numbers that it contains. Given up as a whole.</summary>
internal sealed unsafe class TranslationStore : IDisposable
{
    // Pages are used one after another: what a small guest does not need is never there.
    private const ulong CodeSize = 96 << 20;
    private const int ArenaSize = 64 << 20;

    public readonly ExecutableMemory Memory = new(CodeSize);
    public readonly TranslationArena Arena = new(ArenaSize);
    public readonly PredictionArena Predictions = new();
    public readonly TranslatorRuntime Runtime;

    /// <summary>Bytes at the beginning of the code that are never given up.</summary>
    private readonly ulong _kept;
    /// <summary>Numbers of mappings (linear page, backing page).</summary>
    private readonly Dictionary<(ulong Linear, ulong Backing), uint> _mappings = [];
    /// <summary>Modes that have a jump cache.</summary>
    private readonly List<uint> _modes = [];
    private uint _nextMapping = 1;

    public TranslationStore(ProcessorState* state)
    {
        Runtime = new TranslatorRuntime(Memory, state);
        _kept = Memory.Used;
    }

    /// <summary>The number of a mode's jump cache; -1 when there is none left.</summary>
    public int TargetTableOf(uint mode)
    {
        int table = _modes.IndexOf(mode);
        if (table >= 0 || _modes.Count == TranslatorState.TargetModes) return table;
        _modes.Add(mode);
        return _modes.Count - 1;
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
        _modes.Clear();
        _nextMapping = 1;
    }

    public void Dispose()
    {
        Memory.Dispose();
        Arena.Dispose();
        Predictions.Dispose();
    }
}
