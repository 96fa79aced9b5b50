using Bunraku.Engines;
using Bunraku.Silicon;

namespace Bunraku.Processor.Tests;

/// <summary>The host's processor beside one guest of each engine. One for the process: the rig lives at fixed addresses.</summary>
public sealed class SiliconFixture : IDisposable
{
    private readonly HostSilicon _host = new();
    private readonly Dictionary<string, (GuestRig Rig, Comparer Comparer)> _rigs = [];

    /// <summary>The model that must do what this host's silicon does.</summary>
    public static CpuModel Model => HostModel.Like;

    /// <summary>Why these tests cannot run on this host; their one row says so. Null: they can.</summary>
    public static string? WhyNot { get; } = HostSilicon.WhyNot();

    /// <summary>Engines that these tests run on.</summary>
    public static IReadOnlyList<IX86Engine> Engines => SoftwareEngines.All;

    internal (GuestRig Rig, Comparer Comparer) For(string engine)
    {
        if (!_rigs.TryGetValue(engine, out (GuestRig, Comparer) rig))
        {
            var guest = new GuestRig(Engines.Single(e => e.Name == engine), Model);
            _rigs[engine] = rig = (guest, new Comparer(_host, guest));
        }
        return rig;
    }

    public void Dispose()
    {
        foreach ((GuestRig rig, _) in _rigs.Values) rig.Dispose();
        _host.Dispose();
    }
}

[CollectionDefinition("silicon", DisableParallelization = true)]
public sealed class SiliconCollection : ICollectionFixture<SiliconFixture>;
