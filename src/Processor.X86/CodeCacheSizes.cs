namespace Bunraku.Processor.X86;

/// <summary>
/// How large the caches for decoded and translated code of one vCPU are. The usual sizes suit guests; others are for tests, which want caches that are full all
/// the time. Immutable.
/// </summary>
public sealed record CodeCacheSizes
{
    /// <summary>Room that one block may need at most: host code, and what belongs to it. A cache that is smaller takes nothing at all.</summary>
    internal const int MostCode = HostAssembler.Capacity, MostTables = 4096;

    /// <summary>What is used where nothing else is said.</summary>
    public static CodeCacheSizes Usual { get; } = new();

    /// <summary>So small that code is given up after every few blocks: for tests of how that goes.</summary>
    public static CodeCacheSizes Tiny { get; } = new()
    {
        Operations = BlockDecoder.MaxOperations + 160,
        Blocks = 24,
        HotBytes = MostCode + (6 << 10),
        ColdBytes = MostCode + (5 << 10),
        TableBytes = MostTables + (6 << 10),
        Predictions = 8,
        JumpTargets = 4,
        Modes = 3,
    };

    /// <summary>Decoded operations, of 64 bytes each.</summary>
    public int Operations { get; init; } = 3 << 19;

    /// <summary>Decoded blocks.</summary>
    public int Blocks { get; init; } = 3 << 17;

    /// <summary>Bytes of translated code that runs often; the host gives pages as they are used.</summary>
    public ulong HotBytes { get; init; } = 64 << 20;

    /// <summary>Bytes of translated code that is rarely reached.</summary>
    public ulong ColdBytes { get; init; } = 48 << 20;

    /// <summary>Bytes of what belongs to translations and is no code.</summary>
    public int TableBytes { get; init; } = 64 << 20;

    /// <summary>Accesses in loops that predict their page.</summary>
    public int Predictions { get; init; } = 32768;

    /// <summary>Entries of the jump cache of translated code, for each mode: a power of two up to 16,384.</summary>
    public int JumpTargets { get; init; } = TranslatorState.TargetSize;

    /// <summary>Modes that have such a jump cache: up to 16.</summary>
    public int Modes { get; init; } = TranslatorState.TargetModes;

    /// <exception cref="ArgumentOutOfRangeException">A cache is too small for one block, or larger than there can be.</exception>
    internal void Check()
    {
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
