using Bunraku.Machine.Virtio.Balloons;
using Bunraku.Sessions.Monitoring;
using Bunraku.Testing;

namespace Bunraku.Cli.Tests;

/// <summary>Linux's balloon driver: what it gives back is the host's again, and what it keeps stays whole.</summary>
public sealed class LinuxBalloonTests : IClassFixture<LinuxGuestFiles>
{
    private const ulong Megabyte = 1 << 20;
    private static readonly TimeSpan s_patience = TimeSpan.FromMinutes(3);

    private static VmBuilder Builder(string engine, string script, Stream output) => new(KnownEngines.All)
    {
        Engine = engine,
        Memory = 512 * Megabyte,
        Balloon = new VmBalloon(),
        Command = ["sh", "-ec", script],
        Output = output,
        Timeout = TimeSpan.FromMinutes(9),
    };

    private static async Task Until(Vm vm, Func<bool> holds, string what)
    {
        var patience = new Patience(s_patience, vm.Machine);
        while (!holds())
        {
            Assert.False(patience.IsOver, what);
            await Task.Delay(50);
        }
    }

    /// <summary>What waits in a file system in memory meanwhile is whole afterwards, and so is what is written into memory that came back.</summary>
    private const string Script = "head -c 20000000 /dev/urandom >/tmp/kept; cp /tmp/kept /tmp/twin; "
        + "for n in 1 2 3 4 5 6 7 8 9; do cat /tmp/kept; done >/tmp/large; rm /tmp/large; echo freed; "
        + "while ! test -e /tmp/go; do sleep 1; test $(grep MemFree: /proc/meminfo | tr -dc 0-9) -gt 150000 || touch /tmp/go; done; echo small; "
        + "rm /tmp/go; while ! test -e /tmp/go; do sleep 1; test $(grep MemFree: /proc/meminfo | tr -dc 0-9) -lt 300000 || touch /tmp/go; done; echo large; "
        + "for n in 1 2 3 4 5 6 7 8 9; do cat /tmp/twin; done >/tmp/large; for n in 1 2 3 4 5 6 7 8 9; do cat /tmp/kept; done | cmp - /tmp/large; "
        + "cmp /tmp/kept /tmp/twin; echo whole";

    [Theory]
    [InlineData("bt")]
    [InlineData("interp")]
    public async Task Memory_goes_to_the_host_and_comes_back(string engine)
    {
        var output = new GuestOutput();
        await using Vm vm = Builder(engine, Script, output).Build();
        Task<VmResult> run = vm.RunAsync();
        await output.Until("freed", run);
        // Free memory is reported by itself, in large pieces, after a while.
        ulong most = vm.Statistics.GuestTouchedBytes;
        await Until(vm, () => vm.Statistics.GuestTouchedBytes < most - 100 * Megabyte, "free memory is not reported");
        Assert.InRange(vm.LookAtBalloon().Reported, 100 * Megabyte, ulong.MaxValue);

        vm.SetBalloon(200 * Megabyte);
        await Until(vm, () => vm.LookAtBalloon() is { } s && s.Given == s.Wanted, "the balloon is not filled");
        await output.Until("small", run);
        Assert.InRange(vm.Statistics.GuestTouchedBytes, Megabyte, 210 * Megabyte);
        BalloonState state = vm.LookAtBalloon();
        Assert.InRange(state.Statistics[BalloonStatistic.Free], Megabyte, 200 * Megabyte);
        string text = new MonitorShell(vm, () => 80, null, "").Execute("info balloon");
        Assert.StartsWith("balloon: actual=", text, StringComparison.Ordinal);

        vm.SetBalloon(512 * Megabyte);
        await output.Until("whole", run);
        Assert.Equal(0, (await run).ExitStatus);
        Assert.Equal("freed\nsmall\nlarge\nwhole\n", output.Text);
    }

    /// <summary>Memory of a snapshot's file, which a restored machine shows until it is written to, does not come back in place of zeros.</summary>
    [Theory]
    [InlineData(MemoryBacking.Lazy)]
    [InlineData(MemoryBacking.Copy)]
    public async Task A_restored_guest_gives_memory_back(MemoryBacking backing)
    {
        string folder = Directory.CreateTempSubdirectory("bunraku-balloon").FullName;
        try
        {
            string saved = Path.Combine(folder, "saved");
            var output = new GuestOutput();
            await using (Vm vm = Builder("bt", Script, output).Build())
            {
                Task<VmResult> run = vm.RunAsync();
                await output.Until("freed", run);
                await vm.SaveAsync(saved);
            }
            var rest = new GuestOutput();
            await using Vm copy = (Builder("bt", Script, rest) with { RestoreFrom = saved, MemoryBacking = backing }).Build();
            Task<VmResult> goesOn = copy.RunAsync();
            copy.SetBalloon(200 * Megabyte);
            await Until(copy, () => copy.LookAtBalloon() is { } s && s.Given == s.Wanted, "the balloon is not filled");
            await rest.Until("small", goesOn);
            copy.SetBalloon(512 * Megabyte);
            await rest.Until("whole", goesOn);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    [Fact]
    public async Task Without_a_balloon_the_monitor_says_so()
    {
        await using Vm vm = new VmBuilder(KnownEngines.All) { Guest = "hello", Engine = "interp" }.Build();
        MonitorException e = Assert.Throws<MonitorException>(() => vm.SetBalloon(Megabyte));
        Assert.Contains("the machine has no balloon", e.Message, StringComparison.Ordinal);
        Assert.Contains("the machine has no balloon", new MonitorShell(vm, () => 80, null, "").Execute("info balloon"), StringComparison.Ordinal);
    }
}
