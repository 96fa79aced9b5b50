using Bunraku.Engine.Check;
using Bunraku.Engine.Kvm;
using Bunraku.Processor.X86;

namespace Bunraku;

/// <summary>All engines of Bunraku. This is the one place that knows them: sessions, boards and the hypervisor know the contract alone. Immutable.</summary>
public static class KnownEngines
{
    /// <summary>In the order in which an automatic choice prefers them: kvm, bt, interp, check.</summary>
    public static IReadOnlyList<IX86Engine> All { get; } = With(CheckInterval.Default);

    /// <summary>Those that are a technique of their own.</summary>
    public static IReadOnlyList<IX86Engine> Techniques { get; } = [.. All.Where(e => e is not CheckEngine)];

    /// <summary>All engines, with an interval for <c>check</c>.</summary>
    /// <param name="interval">How often it compares its two engines.</param>
    /// <param name="direct">Which programs of the guest the translating engine runs directly on the host's processor.</param>
    public static IReadOnlyList<IX86Engine> With(CheckInterval interval, DirectUse direct = DirectUse.None) =>
        [new KvmEngine(), new TranslatorEngine { Direct = direct }, new InterpreterEngine(),
            new CheckEngine(new TranslatorEngine(), new InterpreterEngine()) { Interval = interval }];
}
