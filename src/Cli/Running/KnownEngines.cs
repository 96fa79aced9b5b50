using Bunraku.Engines;
using Bunraku.Processor.X86;

namespace Bunraku.Cli.Running;

/// <summary>All engines that this program contains, in the order in which <c>--engine auto</c> prefers them.</summary>
public static class KnownEngines
{
    public static IReadOnlyList<IEngine> All { get; } = [new InterpreterEngine()];

    /// <summary>CPU models, the default first.</summary>
    public static IReadOnlyList<CpuModel> Models { get; } = [];
}
