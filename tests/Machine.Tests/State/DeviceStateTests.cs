using Bunraku.Engines;
using Bunraku.Hypervisor;

namespace Bunraku.Machine.Tests.State;

/// <summary>
/// Every device of a full board is saved at random moments of random traffic, restored in a new machine, and goes on there: it must behave as the one that was
/// saved, which goes on too, and be equal to it in the end.
/// </summary>
public sealed class DeviceStateTests
{
    private const int Seeds = 6, Before = 400, After = 400;

    /// <summary>The names of all devices, the engine's own parts but for the clock left out.</summary>
    public static TheoryData<string> Devices
    {
        get
        {
            using var rig = new BoardRig();
            return [.. rig.Machine.Save().Parts.Select(p => p.Id).Where(id => id is not ("machine" or "cpu0" or "cpu1"))];
        }
    }

    [Theory, MemberData(nameof(Devices))]
    public void A_device_goes_on_in_another_machine_as_if_nothing_had_been(string device)
    {
        for (int seed = 0; seed < Seeds; seed++) GoOn(device, seed);
    }

    private static void GoOn(string device, int seed)
    {
        var traffic = new DeviceTraffic(device, seed);
        using var original = new BoardRig();
        for (int n = 0; n < Before + seed; n++) traffic.Next(original);
        MachineState saved = original.Machine.Save();

        // A machine that has its own past, of which nothing may be left.
        using var copy = new BoardRig(startTsc: 12345);
        if (seed % 2 == 1)
        {
            var past = new DeviceTraffic(device == "fwcfg" ? "pit" : device, seed + 1000);
            for (int n = 0; n < 100; n++) past.Next(copy);
        }
        copy.Machine.Restore(saved);
        Equal(saved, copy.Machine.Save(), $"{device}, seed {seed}: right after the restore");
        IReadOnlyList<string> graph = seed < 2 ? GraphComparer.Compare(original, copy) : [];
        Assert.True(graph.Count == 0, $"{device}, seed {seed}: no record has {string.Join(Environment.NewLine, graph)}");

        original.Output.Clear();
        copy.Output.Clear();
        for (int n = 0; n < After; n++)
        {
            ulong[] seen = traffic.Next(original, copy);
            Assert.True(seen[0] == seen[1], $"{device}, seed {seed}, access {n} after the restore: the original gives {seen[0]:X}, the copy {seen[1]:X}");
        }
        Assert.Equal(original.Output, copy.Output);
        Equal(original.Machine.Save(), copy.Machine.Save(), $"{device}, seed {seed}: after {After} more accesses");
    }

    private static void Equal(MachineState expected, MachineState actual, string when)
    {
        IReadOnlyList<string> differences = expected.Differences(actual);
        Assert.True(differences.Count == 0, $"{when}: {string.Join(Environment.NewLine, differences)}");
    }

    [Fact]
    public void Everything_on_the_buses_is_part_of_the_state()
    {
        using var rig = new BoardRig();
        IReadOnlyList<string> forgotten = GraphComparer.Forgotten(rig);
        Assert.True(forgotten.Count == 0, $"no part of the machine's state: {string.Join(", ", forgotten)}");
    }
}
