using System.Reflection;
using Bunraku.Engine.Check;
using Bunraku.Engines;
using Bunraku.Processor.X86;
using Xunit.Abstractions;
using Xunit.Sdk;

namespace Bunraku.Fixtures;

/// <summary>Runs a theory once for every engine of the program that can run on this host; the engine's name is the first argument.</summary>
/// <remarks>
/// Arguments given here follow it. An engine that cannot run yields no test at all, so that nothing counts as passed for it; <see cref="EngineCoverage"/> says
/// which.
/// </remarks>
[AttributeUsage(AttributeTargets.Method, AllowMultiple = true)]
public sealed class EnginesAttribute(params object?[] arguments) : DataAttribute
{
    public override IEnumerable<object?[]> GetData(MethodInfo testMethod)
    {
        IEnumerable<string> names = TestedEngines.Runnable.Where(e => NotRun.Reason(e, testMethod) == null).Select(e => e.Name);
        if (testMethod.DeclaringType!.IsDefined(typeof(TinyCachesTooAttribute)))
            names = names.SelectMany(n => n == TestedEngines.Translator ? (string[])[n, TestedEngines.TinyCaches] : [n]);
        if (testMethod.DeclaringType!.IsDefined(typeof(DirectTooAttribute)) && TestedEngines.WhyNotDirect == null)
            names = names.SelectMany(n => n == TestedEngines.Translator ? (string[])[n, TestedEngines.Direct] : [n]);
        return names.Select(n => (object?[])[n, .. arguments]);
    }
}

/// <summary>Fixtures of what depends on caches of code: they run once more on a translator whose caches are full all the time.</summary>
[AttributeUsage(AttributeTargets.Class)]
public sealed class TinyCachesTooAttribute : Attribute;

/// <summary>Fixtures of what programs do: they run once more on a translator that runs programs directly on the host's processor, where it can.</summary>
[AttributeUsage(AttributeTargets.Class)]
public sealed class DirectTooAttribute : Attribute;

public static class TestedEngines
{
    /// <summary>
    /// Engines whose guests run here. On <c>check</c> a fixture shows that the two engines behind it agree at every exit, beyond what the fixture itself looks
    /// at.
    /// </summary>
    public static IReadOnlyList<IX86Engine> Runnable { get; } = [.. KnownEngines.All.Where(e => e.Probe().Available).Select(Eager)];

    /// <summary>Fixtures are short: whatever can be translated is, the first time that it runs.</summary>
    private static IX86Engine Eager(IX86Engine engine) => engine switch
    {
        TranslatorEngine => new TranslatorEngine(threshold: 1),
        CheckEngine => new CheckEngine(new TranslatorEngine(threshold: 1), new InterpreterEngine()),
        _ => engine,
    };

    public const string Translator = "bt", TinyCaches = "bt with tiny caches", Direct = "bt with direct execution";

    /// <summary>Why no fixture runs with <see cref="Direct"/>; null: they do.</summary>
    public static string? WhyNotDirect { get; } = TranslatorEngine.WhyNotDirect();

    public static IX86Engine Find(string name) => name == TinyCaches ? new TranslatorEngine(threshold: 1) { Sizes = CodeCacheSizes.Tiny }
        : name == Direct ? new TranslatorEngine(threshold: 1) { Direct = DirectUse.Always }
        : Runnable.First(e => e.Name == name);
}

/// <summary>Which engines the fixtures of this assembly ran on.</summary>
public sealed class EngineCoverage(ITestOutputHelper output)
{
    [Fact]
    public void AtLeastTheInterpreterRunsEveryFixture()
    {
        foreach (IX86Engine engine in KnownEngines.All)
        {
            EngineProbe probe = engine.Probe();
            output.WriteLine($"{engine.Name}: {(probe.Available ? "run" : "NOT RUN")} ({probe.Detail})");
            if (!probe.Available) continue;
            foreach (MethodInfo fixture in typeof(EngineCoverage).Assembly.GetTypes().SelectMany(t => t.GetMethods())
                .Where(m => m.IsDefined(typeof(EnginesAttribute))))
            {
                if (NotRun.Reason(engine, fixture) is { } reason) output.WriteLine($"  NOT RUN: {fixture.DeclaringType!.Name}.{fixture.Name}: {reason}");
            }
        }
        if (TestedEngines.WhyNotDirect is { } reasonNotDirect) output.WriteLine($"{TestedEngines.Direct}: NOT RUN ({reasonNotDirect})");
        if (NeedsShortcutsAttribute.Reason is { } missing) output.WriteLine($"NOT RUN: {nameof(EngineShortcutTests)}: {missing}");
        foreach (ApicHolder holder in ApicHolder.All)
        {
            foreach (MethodInfo fixture in typeof(EngineCoverage).Assembly.GetTypes().SelectMany(t => t.GetMethods()))
            {
                if (fixture.GetCustomAttribute<ApicHoldersAttribute>()?.Reason(holder) is { } reason)
                    output.WriteLine($"{holder.Engine} with {(holder.Holds ? "its own" : "the board's")} local APICs: NOT RUN: "
                        + $"{fixture.DeclaringType!.Name}.{fixture.Name}: {reason}");
            }
        }
        Assert.Contains(TestedEngines.Runnable, e => e.Name == "interp");
    }
}
