using BenchmarkDotNet.Attributes;
using Bunraku.Engines;
using Bunraku.Processor.X86;

namespace Bunraku.Micro;

/// <summary>A benchmark of engines through the exit boundary alone: each runs on all of them, and a new engine needs nothing here.</summary>
public abstract class EngineBenchmark
{
    private MicroGuest? _guest;

    /// <summary>Engines that people would choose on this host, and a translator that does not wait until code is hot.</summary>
    public static IEnumerable<EngineUnderTest> Engines =>
        [.. KnownEngines.All.Where(e => e.Probe() is { Available: true, Chosen: true }).Select(e => new EngineUnderTest(e.Name, e)), .. Eager()];

    [ParamsSource(nameof(Engines))]
    public EngineUnderTest Engine { get; set; } = null!;

    private protected MicroGuest Guest => _guest ?? throw new InvalidOperationException("set up first");

    [GlobalSetup]
    public void Setup()
    {
        _guest = new MicroGuest();
        Prepare(_guest);
        _guest.On(Engine.Engine);
    }

    [GlobalCleanup]
    public void Cleanup() => _guest?.Dispose();

    /// <summary>Writes the guest's code; the vCPU starts at <see cref="MicroGuest.Code"/>.</summary>
    private protected abstract void Prepare(MicroGuest guest);

    private static IEnumerable<EngineUnderTest> Eager()
    {
        var translator = new TranslatorEngine(threshold: 1);
        if (translator.Probe().Available) yield return new(translator.Name + ", at once", translator);
    }
}

/// <summary>An engine with the name that the table shows.</summary>
public sealed record EngineUnderTest(string Name, IX86Engine Engine)
{
    public override string ToString() => Name;
}
