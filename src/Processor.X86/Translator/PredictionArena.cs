using Bunraku.Platform;

namespace Bunraku.Processor.X86;

/// <summary>What the accesses of a loop predict.</summary>
internal enum LoopPredictions
{
    None,
    /// <summary>The page's addend, once the page is known.</summary>
    Addends,
    /// <summary>The page.</summary>
    Pages,
}

/// <summary>Where predictions of pages live: below 2 GiB, so that emitted code reaches them by absolute addresses. Given up as a whole. One thread.</summary>
/// <remarks>Invariant: everything handed out lies inside the memory, and holds nothing.</remarks>
/// <param name="most">How many there can be.</param>
internal sealed unsafe class PredictionArena(int most) : IDisposable
{
    /// <summary>How often a prediction may fail before somebody looks whether it is worth it.</summary>
    public const ulong Budget = 256;

    private readonly LowMemory _memory = new(Math.Max(1, most) * sizeof(PagePrediction));
    private int _used;

    /// <summary>One more; null when there is no room.</summary>
    public PagePrediction* Add()
    {
        if (_used == most) return null;
        PagePrediction* p = (PagePrediction*)_memory.Pointer + _used++;
        *p = new PagePrediction { Tag = PagePrediction.Empty, Budget = Budget };
        return p;
    }

    /// <summary>How many were handed out, and how many there can be.</summary>
    public (ulong Used, ulong Size) Fill => ((ulong)_used, (ulong)most);

    public void Clear() => _used = 0;

    public void Dispose() => _memory.Dispose();
}
