using Bunraku.Platform;

namespace Bunraku.Processor.X86;

/// <summary>
/// The translations that were made while one of <see cref="Generations"/> was filled: their code and what belongs to it. Given up as a whole.
/// </summary>
internal sealed unsafe class TranslationGeneration : IDisposable
{
    /// <summary>What runs often; what is rarely reached, at higher addresses.</summary>
    public readonly ExecutablePart Hot, Cold;
    public readonly TranslationArena Arena;
    public readonly PredictionArena Predictions;

    public TranslationGeneration(ExecutablePart hot, ExecutablePart cold, CodeCacheSizes sizes)
    {
        (Hot, Cold) = (hot, cold);
        Arena = new TranslationArena(sizes.TableBytes);
        Predictions = new PredictionArena(sizes.Predictions);
    }

    /// <summary>The translations, the first of them.</summary>
    public TranslatedBlock* First { get; private set; }

    public void Add(TranslatedBlock* made)
    {
        made->NextOfGeneration = First;
        First = made;
    }

    public void Clear()
    {
        First = null;
        Hot.Rewind(0);
        Cold.Rewind(0);
        Arena.Clear();
        Predictions.Clear();
    }

    public void Dispose()
    {
        Arena.Dispose();
        Predictions.Dispose();
    }
}
