namespace Bunraku.Processor.X86;

/// <summary>
/// How large the caches for decoded and translated code of one vCPU are. They consist of generations, which are filled one after another; when all are full,
/// the oldest is given up and filled anew. The usual sizes suit guests; others are for tests, which want caches that are full all the time. Immutable.
/// </summary>
public sealed record CodeCacheSizes
{
    /// <summary>Room that one translation may need at most: host code, and what belongs to it. A cache that is smaller takes nothing at all.</summary>
    internal const int MostCode = HostAssembler.Capacity, MostTables = 16384;

    /// <summary>What is used where nothing else is said.</summary>
    public static CodeCacheSizes Usual { get; } = new();

    /// <summary>So small that code is given up after every few blocks: for tests of how that goes.</summary>
    public static CodeCacheSizes Tiny { get; } = new()
    {
        Generations = 2,
        MostGenerations = 3,
        Operations = BlockDecoder.MaxOperations + 160,
        Blocks = 8,
        HotBytes = MostCode + (6 << 10),
        ColdBytes = MostCode + (5 << 10),
        TableBytes = MostTables + (6 << 10),
        Predictions = 8,
        JumpTargets = 4,
        Modes = 3,
    };

    /// <summary>Generations at first, at least 2.</summary>
    public int Generations { get; init; } = 8;

    /// <summary>Generations that there may come to be: one more each time that most of what fills one was given up not long ago.</summary>
    public int MostGenerations { get; init; } = 40;

    /// <summary>Decoded operations of a generation, of 64 bytes each.</summary>
    public int Operations { get; init; } = 3 << 16;

    /// <summary>Decoded blocks of a generation.</summary>
    public int Blocks { get; init; } = 3 << 14;

    /// <summary>Bytes of a generation's translated code that runs often, a multiple of 16; the host gives pages as they are used.</summary>
    public ulong HotBytes { get; init; } = 6 << 20;

    /// <summary>Bytes of a generation's translated code that is rarely reached, a multiple of 16.</summary>
    public ulong ColdBytes { get; init; } = 4 << 20;

    /// <summary>Bytes of what belongs to a generation's translations and is no code.</summary>
    public int TableBytes { get; init; } = 8 << 20;

    /// <summary>Accesses in loops that predict their page, of a generation.</summary>
    public int Predictions { get; init; } = 4096;

    /// <summary>Entries of the jump cache of translated code, for each mode: a power of two up to 16,384.</summary>
    public int JumpTargets { get; init; } = TranslatorState.TargetSize;

    /// <summary>Modes that have such a jump cache: up to 16.</summary>
    public int Modes { get; init; } = TranslatorState.TargetModes;

    /// <exception cref="ArgumentOutOfRangeException">A cache is too small for one block, or larger than there can be.</exception>
    internal void Check()
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(Generations, 2);
        ArgumentOutOfRangeException.ThrowIfLessThan(MostGenerations, Generations);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(MostGenerations, byte.MaxValue);
        ArgumentOutOfRangeException.ThrowIfNotEqual(HotBytes % 16 + ColdBytes % 16, 0ul, nameof(HotBytes));
        ArgumentOutOfRangeException.ThrowIfLessThan(Operations, BlockDecoder.MaxOperations);
        ArgumentOutOfRangeException.ThrowIfLessThan(Blocks, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(HotBytes, (ulong)MostCode);
        ArgumentOutOfRangeException.ThrowIfLessThan(ColdBytes, (ulong)MostCode);
        ArgumentOutOfRangeException.ThrowIfLessThan(TableBytes, MostTables);
        ArgumentOutOfRangeException.ThrowIfNegative(Predictions);
        ArgumentOutOfRangeException.ThrowIfNotEqual(System.Numerics.BitOperations.IsPow2(JumpTargets), true, nameof(JumpTargets));
        ArgumentOutOfRangeException.ThrowIfGreaterThan(JumpTargets, TranslatorState.TargetSize);
        ArgumentOutOfRangeException.ThrowIfLessThan(Modes, 1);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(Modes, TranslatorState.TargetModes);
    }
}
