using Bunraku.Engine.Check;
using Bunraku.Engine.Kvm;
using Bunraku.Engines;
using Bunraku.Processor.X86;

namespace Bunraku;

/// <summary>All engines that this program contains, in the order in which <c>--engine auto</c> prefers them.</summary>
public static class KnownEngines
{
    public static IReadOnlyList<IX86Engine> All { get; } = With(CheckInterval.Default);

    /// <summary>Those that are a technique of their own.</summary>
    public static IReadOnlyList<IX86Engine> Techniques { get; } = [.. All.Where(e => e is not CheckEngine)];

    /// <summary>The same, with an interval for the <c>check</c> engine.</summary>
    public static IReadOnlyList<IX86Engine> With(CheckInterval interval) =>
        [new KvmEngine(), new TranslatorEngine(), new InterpreterEngine(), new CheckEngine(new TranslatorEngine(), new InterpreterEngine()) { Interval = interval }];

    /// <summary>The model that a text like <c>x86-64-v3,+la57,-pku</c> describes; null is the default model.</summary>
    /// <exception cref="FormatException">Something unknown; the message is one line.</exception>
    public static CpuModel ParseModel(string? text) => CpuModels.Parse(text ?? CpuModels.Default);
}
