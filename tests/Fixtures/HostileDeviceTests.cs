using Bunraku.DeviceFuzz;
using Bunraku.Engines;

namespace Bunraku.Fixtures;

/// <summary>
/// A guest that accesses devices at random neither fails nor stops the monitor, and another guest in the process goes on. Seeds are fixed;
/// <c>tests/fuzz-devices</c> runs millions.
/// </summary>
public sealed class HostileDeviceTests
{
    private const ulong Accesses = 60_000, Each = 20_000;

    [Theory]
    [InlineData("interp", 1, 1), InlineData("bt", 1, 2), InlineData("interp", 3, 3), InlineData("bt", 3, 4)]
    public async Task A_guest_that_accesses_devices_at_random_harms_nobody(string engineName, int cpus, int series)
    {
        IX86Engine engine = TestedEngines.Find(engineName);
        Task<string?> bystander = Task.Factory.StartNew(() => Bystander.Run(engine, rounds: 200), TaskCreationOptions.LongRunning);
        var fuzzer = new DeviceFuzzer(engine, cpus);
        ulong accesses = 0, interrupts = 0;
        for (ulong seed = (ulong)series * 1_000_000; accesses < Accesses; seed++)
        {
            DeviceFuzzResult result = fuzzer.Run(seed, Each);
            Assert.True(result.Failure == null,
                $"seed {result.Seed} with {cpus} processors on {engineName}, after {result.Accesses} accesses: {result.Failure}");
            accesses += result.Accesses;
            interrupts += result.Interrupts;
        }
        Assert.True(interrupts > 0, "no interrupt came");
        Assert.Null(await bystander);
    }
}
