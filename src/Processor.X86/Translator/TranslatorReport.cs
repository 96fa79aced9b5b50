using Bunraku.Engines;
using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>What the translator tells of its caches. Any thread, approximately.</summary>
internal sealed unsafe class TranslatorReport(ProcessorState* state, TranslationStore store, CodeCacheSizes sizes, TranslatedRunner runner,
    TranslationMover mover, Func<int> generationCount)
{
    public IEnumerable<EngineCache> Caches
    {
        get
        {
            (ulong hot, ulong cold, ulong tables, ulong predictions, ulong generations) = (0, 0, 0, 0, (ulong)generationCount());
            foreach (TranslationGeneration generation in store.All)
            {
                hot += generation.Hot.Used;
                cold += generation.Cold.Used;
                tables += generation.Arena.Bytes.Used;
                predictions += generation.Predictions.Fill.Used;
            }
            yield return new EngineCache("translated code", hot, generations * sizes.HotBytes, InBytes: true);
            yield return new EngineCache("translated code, cold", cold, generations * sizes.ColdBytes, InBytes: true);
            yield return new EngineCache("tables of translations", tables, generations * (ulong)sizes.TableBytes, InBytes: true);
            yield return new EngineCache("predicted pages", predictions, generations * (ulong)sizes.Predictions, InBytes: false);
            yield return new EngineCache("numbered mappings", (ulong)store.MappingCount, 0, InBytes: false);
            (ulong used, ulong size) = (CountTargets(out int modes), (ulong)(modes * sizes.JumpTargets));
            yield return new EngineCache("jump cache, translated", used, size, InBytes: false);
            yield return new EngineCache("TLB, first level", CountFirstLevel(), TranslatorState.Privileges * TranslatorState.FirstLevelSize, InBytes: false);
        }
    }

    /// <summary>Why translated code came back to C#, and for which instructions most often.</summary>
    public IEnumerable<EngineCount> Counts =>
    [
        new EngineCount("instructions executed by translated code", runner.Executed), new EngineCount("moved to another address", mover.Moves),
        .. Exits, .. Instructions,
    ];

    private const int MostInstructions = 8;

    private IEnumerable<EngineCount> Instructions => runner.Interpreted.Select((count, code) => (Count: count, Mnemonic: ((Code)code).Mnemonic()))
        .Where(i => i.Count > 0).GroupBy(i => i.Mnemonic)
        .Select(g => new EngineCount($"interpreted {g.Key.ToString().ToUpperInvariant()}", g.Aggregate(0ul, (sum, i) => sum + i.Count)))
        .OrderByDescending(c => c.Value).Take(MostInstructions);

    private IEnumerable<EngineCount> Exits => Enum.GetValues<TranslatedExit>().Select(kind => new EngineCount("left for " + kind switch
    {
        TranslatedExit.Operation => "an instruction",
        TranslatedExit.Link => "a link",
        TranslatedExit.Attention => "attention",
        TranslatedExit.Lookup => "a look-up",
        TranslatedExit.ReadMiss => "a read that missed",
        TranslatedExit.WriteMiss => "a write that missed",
        TranslatedExit.Predictions => "predictions that failed",
        TranslatedExit.Mirror => "a page to be mirrored",
        TranslatedExit.Return => "a return",
        _ => kind.ToString(),
    }, runner.Exits[(int)kind]));

    /// <summary>Entries of all modes that have a jump cache, and how many those are.</summary>
    private ulong CountTargets(out int modes)
    {
        modes = store.ModeCount;
        ulong count = 0;
        for (int mode = 0; mode < modes; mode++)
        {
            var keys = (ulong*)(state->Translator.Targets + mode * TranslatorState.TargetTableSize);
            for (int n = 0; n < sizes.JumpTargets; n++) count += keys[n] != TranslatorState.EmptyTarget ? 1u : 0;
        }
        return count;
    }

    private ulong CountFirstLevel()
    {
        ulong count = 0;
        for (int privilege = 0; privilege < TranslatorState.Privileges; privilege++)
        {
            byte* table = state->Translator.FirstLevel + privilege * TranslatorState.TableSize;
            ulong* read = (ulong*)(table + TranslatorState.ReadTag), write = (ulong*)(table + TranslatorState.WriteTag);
            for (int n = 0; n < TranslatorState.FirstLevelSize; n++)
            {
                ulong empty = TranslatorState.EmptyTag(n);
                if (read[n] != empty || write[n] != empty) count++;
            }
        }
        return count;
    }
}
