using System.Text;
using BenchmarkDotNet.Attributes;
using Bunraku.Sessions;

namespace Bunraku.Micro;

/// <summary>
/// From the file to the first instruction of the guest, in a program that has done it before: a copy of a VM that runs, whose memory nobody needs to check, and
/// a snapshot, all of which is read for its checksums.
/// </summary>
public class RestoreBenchmarks
{
    private readonly string _file = Path.Combine(Path.GetTempPath(), $"bench-restore-{Guid.NewGuid():n}.snap");
    private Vm? _original, _restored;
    private VmFork? _fork;

    /// <summary>MiB.</summary>
    [Params(512, 8192)]
    public int Memory { get; set; }

    /// <summary>A guest that has booted.</summary>
    [GlobalSetup]
    public void Boot()
    {
        var ready = new Ready(); // outlives this: the guest prints as long as it lives
        _original = new VmBuilder(KnownEngines.All)
        {
            Engine = "bt",
            Memory = (ulong)Memory << 20,
            Output = ready,
            Command = ["sh", "-c", "echo ready; sleep 1000"],
        }.Build();
        _original.Start();
        ready.Event.Wait();
        _fork = _original.Fork();
        _original.SaveAsync(_file).GetAwaiter().GetResult();
        const int enough = 60; // until the runtime has compiled for the second time what it uses
        for (int n = 0; n < enough; n++)
        {
            Restore(n % 2 == 0 ? _fork.Path : _file);
            End();
        }
    }

    /// <summary>A copy.</summary>
    [Benchmark]
    public void FromFork() => Restore(_fork!.Path);

    /// <summary>A snapshot.</summary>
    [Benchmark]
    public void FromFile() => Restore(_file);

    private void Restore(string path)
    {
        _restored = new VmBuilder(KnownEngines.All) { Engine = "bt", RestoreFrom = path }.Build();
        _restored.Start();
        while (_restored.Machine.Cpus[0].Cpu.Counters.InstructionsRetired == 0) Thread.Yield();
    }

    /// <summary>The restored one is not measured when it ends.</summary>
    [IterationCleanup]
    public void End() => _restored?.Dispose();

    /// <summary>The original ends.</summary>
    [GlobalCleanup]
    public void Shutdown()
    {
        _fork?.Dispose();
        _original?.Dispose();
        File.Delete(_file);
    }

    private sealed class Ready : MemoryStream
    {
        public ManualResetEventSlim Event { get; } = new();

        public override ValueTask WriteAsync(ReadOnlyMemory<byte> buffer, CancellationToken cancellationToken = default)
        {
            Write(buffer.Span);
            if (Encoding.ASCII.GetString(ToArray()).Contains("ready", StringComparison.Ordinal)) Event.Set();
            return default;
        }

        protected override void Dispose(bool disposing)
        {
            Event.Dispose();
            base.Dispose(disposing);
        }
    }
}
