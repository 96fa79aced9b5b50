using Bunraku.Engines;

namespace Bunraku.Cli.Running;

/// <summary>All engines that this program contains, in the order in which <c>--engine auto</c> prefers them.</summary>
public static class KnownEngines
{
    public static IReadOnlyList<IEngine> All { get; } = [];
}
