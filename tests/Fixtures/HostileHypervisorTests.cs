using Bunraku.DeviceFuzz;

namespace Bunraku.Fixtures;

/// <summary>
/// A hypervisor inside the guest that enters guests with control blocks, tables and code of chance, while another processor writes to all of it, neither fails
/// nor stops the monitor; and both engines do the same with it. Seeds are fixed; <c>tests/fuzz-nested</c> runs millions.
/// </summary>
public sealed class HostileHypervisorTests
{
    [Theory]
    [InlineData("interp", false, true, 150), InlineData("interp", true, true, 150), InlineData("bt", false, true, 150), InlineData("bt", true, true, 150),
        InlineData("check", false, false, 40), InlineData("check", true, false, 40)]
    public void A_hypervisor_that_does_what_chance_says_harms_nobody(string engine, bool isVmx, bool scribbles, int rounds)
    {
        NestedFuzzResult result = new NestedFuzzer(TestedEngines.Find(engine), isVmx).Run(seed: isVmx ? 7ul : 8, rounds, scribbles);
        Assert.True(result.Failure == null, result.Failure);
        Assert.InRange(result.Entries, (ulong)rounds / 4, ulong.MaxValue);
        Assert.True(result.Reasons.Count >= 10, $"only {result.Reasons.Count} kinds of exits");
    }
}
