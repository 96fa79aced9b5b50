using Bunraku.Engines;
using Bunraku.Processor.X86;

namespace Bunraku.Silicon;

/// <summary>The engines of the software processor, which these tests run on.</summary>
public static class SoftwareEngines
{
    public static IReadOnlyList<IEngine> All { get; } = [new InterpreterEngine()];

    /// <summary>The one that the others are compared with.</summary>
    public static IEngine Reference => All[0];

    /// <exception cref="FormatException">There is none of this name; the message is one line.</exception>
    public static IEngine Find(string name) =>
        All.FirstOrDefault(e => e.Name == name) ?? throw new FormatException(Nearest.Message("engine", name, [.. All.Select(e => e.Name)]));
}
