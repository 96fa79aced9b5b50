using Bunraku.Engines;
using Bunraku.Processor.X86;

namespace Bunraku.Silicon;

/// <summary>The engines of the software processor, which these tests run on.</summary>
public static class SoftwareEngines
{
    /// <summary>Each once; the translator translates as soon as it can.</summary>
    public static IReadOnlyList<IX86Engine> All { get; } = [new InterpreterEngine(), new TranslatorEngine(threshold: 1)];

    /// <summary>The one that the others are compared with.</summary>
    public static IX86Engine Reference => All[0];

    /// <param name="threshold">How often a block is entered before it is translated, where an engine translates.</param>
    /// <param name="sizes">How large its caches of code are; null: as usual.</param>
    /// <exception cref="FormatException">There is none of this name; the message is one line.</exception>
    public static IX86Engine Find(string name, int threshold = 1, CodeCacheSizes? sizes = null)
    {
        IX86Engine engine = All.FirstOrDefault(e => e.Name == name) ?? throw new FormatException(Nearest.Message("engine", name, [.. All.Select(e => e.Name)]));
        sizes ??= CodeCacheSizes.Usual;
        return engine is TranslatorEngine ? new TranslatorEngine(threshold) { Sizes = sizes } : new InterpreterEngine { Sizes = sizes };
    }
}
