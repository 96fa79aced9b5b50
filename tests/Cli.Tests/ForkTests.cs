using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Runtime.Versioning;
using System.Text;
using Bunraku.Cli.CommandLine;
using Bunraku.Sessions.Control;
using Bunraku.Storage;
using Bunraku.Testing;

namespace Bunraku.Cli.Tests;

/// <summary>Copies of VMs that run: docs/snapshots.md, "Forks".</summary>
[SupportedOSPlatform("linux")]
public sealed class ForkTests : IClassFixture<LinuxGuestFiles>, IDisposable
{
    private static readonly TimeSpan s_limit = TimeSpan.FromMinutes(1);

    private readonly string _folder = Directory.CreateTempSubdirectory("bunraku-fork-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private string In(string name) => Path.Combine(_folder, name);

    private static VmBuilder Builder(string engine, Stream output) => new(KnownEngines.All)
    {
        Engine = engine,
        Memory = 192 << 20,
        Output = output,
        Timeout = TimeSpan.FromMinutes(4),
    };

    private static string[] Lines(string text) => text.TrimEnd('\n').Split('\n');

    private static async Task<string> GoOn(string path, string engine)
    {
        var output = new GuestOutput();
        await using Vm copy = (Builder(engine, output) with { RestoreFrom = path }).Build();
        VmResult result = await copy.RunAsync();
        Assert.True(result.ExitStatus == 0, $"status {result.ExitStatus}: {output.Text}");
        return output.Text;
    }

    /// <summary>
    /// A guest that computes, prints and writes memory goes on, and so do its copies on other engines: nothing is lost, nothing comes twice, and what each
    /// draws at random is its own.
    /// </summary>
    [Theory]
    [InlineData("bt", "interp", 2)]
    [InlineData("interp", "bt", 1)]
    public async Task A_VM_and_its_copies_go_on(string engine, string second, int cpus)
    {
        const int last = 40;
        var output = new GuestOutput();
        string script = $"head -c 2000000 /dev/urandom >/tmp/f; i=0; while [ $i -lt {last} ]; do i=$((i + 1)); echo n $i; head -c 100000 /dev/zero >/tmp/g; "
            + "usleep 20000; done; sha256sum </tmp/f; date +%s; cat /proc/sys/kernel/random/uuid";
        VmBuilder builder = Builder(engine, output) with { Cpus = cpus, Command = ["sh", "-c", script], KeepBooted = true, KeptFolder = In("kept") };
        await using Vm vm = builder.Build();
        Assert.Throws<InvalidOperationException>(() => vm.Fork());
        Task<VmResult> run = vm.RunAsync();
        await output.Until("n 5\n", run);
        using VmFork fork = await vm.ForkAsync();
        Assert.Equal(VmState.Running, vm.State);
        Assert.True(fork.LongestStop <= fork.StoodStill && fork.Bytes > 1 << 20);
        int seen = Lines(output.Text).Length;
        Task<string>[] copies = [GoOn(fork.Path, second), GoOn(fork.Path, engine)];
        Assert.Equal(0, (await run).ExitStatus);
        string[] own = Lines(output.Text);
        Assert.Equal(Enumerable.Range(1, last).Select(n => $"n {n}"), own[..last]);
        var drawn = new List<string> { own[^1] };
        foreach (string text in await Task.WhenAll(copies))
        {
            string[] lines = Lines(text);
            int begin = int.Parse(lines[0].Split(' ')[^1], CultureInfo.InvariantCulture);
            Assert.InRange(begin, 1, seen + 1);
            Assert.Equal([.. Enumerable.Range(begin, last + 1 - begin).Select(n => $"n {n}"), own[last]], lines[..^2]);
            long now = DateTimeOffset.UtcNow.ToUnixTimeSeconds(), theirs = long.Parse(lines[^2], CultureInfo.InvariantCulture);
            Assert.InRange(theirs, now - (long)s_limit.TotalSeconds, now + 2); // the clock did not stand still while the copy was made
            drawn.Add(lines[^1]);
        }
        Assert.Equal(drawn.Count, drawn.Distinct().Count());
    }

    /// <summary>
    /// The original and its copies write to the same place of a disk, each to its own: all of them, and e2fsck at the end, find what each has written, though
    /// the original is saved meanwhile and goes on from the file, and a copy begins when its disk is gone. A cable to others is the original's.
    /// </summary>
    [Fact]
    public async Task Each_copy_has_the_disk_as_it_was_and_writes_its_own()
    {
        const int last = 24;
        string disk = In("disk");
        ImageTools.Create(disk, ImageFormat.Qcow2, 24 << 20, new Storage.Qcow2.Qcow2CreateOptions());
        var output = new GuestOutput();
        string script = $$"""
            mke2fs -F /dev/vda >/dev/null 2>&1; mkdir /m; mount -t ext4 /dev/vda /m; ip link set eth0 up; echo carrier $(cat /sys/class/net/eth0/carrier)
            i=0; while [ $i -lt {{last}} ]; do i=$((i + 1)); head -c 100000 /dev/urandom >/m/f$i; sha256sum </m/f$i >>/m/sums; sync; echo n $i
            [ $i != 12 ] || read -r rest; done
            echo 3 >/proc/sys/vm/drop_caches; [ $(wc -l </m/sums) = {{last}} ] || exit 1; i=0
            while read sum rest; do i=$((i + 1)); [ "$(sha256sum </m/f$i)" = "$sum  -" ] || exit $((100 + i)); done </m/sums
            umount /m; echo carrier $(cat /sys/class/net/eth0/carrier); echo whole
            """;
        VmFork fork;
        // The original waits half way for a word that does not come: it has not ended before it is ended. Who goes on from it finds its input at its end.
        await using (Vm vm = (Builder("bt", output) with
        {
            Input = new System.IO.Pipelines.Pipe().Reader.AsStream(),
            Disks = [new VmDisk(new DiskOptions(disk))],
            Networks = [new UdpCable(new IPEndPoint(IPAddress.Loopback, 0), new IPEndPoint(IPAddress.Loopback, 9))],
            Command = ["sh", "-c", script],
            SaveTo = In("saved"),
        }).Build())
        {
            Task<VmResult> run = vm.RunAsync();
            await output.Until("n 6\n", run);
            fork = vm.Fork();
            await output.Until("n 9\n", run);
            vm.End(HostEnd.TimedOut);
            Assert.Equal(ExitStatus.TimedOut, (await run).ExitStatus);
        }
        Assert.EndsWith("carrier 0\nwhole\n", await GoOn(fork.Path, "bt"), StringComparison.Ordinal);
        string all = output.Text + await GoOn(In("saved"), "interp");
        Assert.Equal(["carrier 1", .. Enumerable.Range(1, last).Select(n => $"n {n}"), "carrier 1", "whole"], Lines(all));
        string raw = In("raw");
        ImageTools.Convert(new DiskOptions(disk), raw, ImageFormat.Raw, new Storage.Qcow2.Qcow2CreateOptions(), compress: false, null);
        using (var check = new TestProcess(new ProcessStartInfo("e2fsck", ["-f", "-n", raw]) { RedirectStandardOutput = true, RedirectStandardError = true }))
        {
            string said = await check.StandardOutput.ReadToEndAsync();
            check.WaitForExit();
            Assert.True(check.ExitCode == 0, said);
        }
        File.Delete(disk);
        using (fork) Assert.EndsWith("whole\n", await GoOn(fork.Path, "bt"), StringComparison.Ordinal);
        Assert.Throws<ObjectDisposedException>(() => fork.Path);
    }

    /// <summary>Whatever is written, zeroed or discarded before the copy is complete, it is the disk as it was.</summary>
    [Fact]
    public void A_disk_that_changes_while_it_is_copied_is_copied_as_it_was()
    {
        const int piece = 128 << 10, length = 9 * piece + 512;
        string path = In("raw.img");
        byte[] old = System.Security.Cryptography.RandomNumberGenerator.GetBytes(length);
        old.AsSpan(piece / 2, 2 * piece).Clear();
        File.WriteAllBytes(path, old);
        using var disk = new GuestDisk(path, () => DiskImage.Open(new DiskOptions(path) { Format = ImageFormat.Raw }));
        using Sessions.Snapshots.DiskCopy copy = disk.BeginCopy();
        disk.Write(512, Enumerable.Repeat((byte)1, 3 * piece).ToArray());
        disk.WriteZeroes(5 * piece - 512, 1024, unmap: true);
        disk.Discard(7 * piece, 4096);
        disk.Write(length - 512, new byte[512]);
        copy.Complete();
        disk.Write(8 * piece, new byte[512]);
        Assert.Equal(old, File.ReadAllBytes(copy.Path));
    }

    /// <summary>A copy that nobody needs any more goes while the next one is made, which still is the disk as it was.</summary>
    [Fact]
    public void A_copy_that_is_thrown_away_leaves_the_next_one_alone()
    {
        const int length = 1 << 20;
        string path = In("raw.img");
        byte[] old = System.Security.Cryptography.RandomNumberGenerator.GetBytes(length);
        File.WriteAllBytes(path, old);
        using var disk = new GuestDisk(path, () => DiskImage.Open(new DiskOptions(path) { Format = ImageFormat.Raw }));
        Sessions.Snapshots.DiskCopy first = disk.BeginCopy();
        first.Complete();
        using Sessions.Snapshots.DiskCopy second = disk.BeginCopy();
        first.Dispose();
        disk.Write(512, new byte[512]);
        second.Complete();
        Assert.Equal(old, File.ReadAllBytes(second.Path));
    }

    /// <summary>The command, with processes: copies have names, consoles and lives of their own.</summary>
    [Fact]
    public void The_command_starts_copies_in_processes_of_their_own()
    {
        using var kernel = new TemporaryFile(TestKernel.Assemble(a =>
        {
            TestKernel.Out(a, 0x3FC, 3); // DTR and RTS
            TestKernel.Print(a, "waiting\n");
            TestKernel.Receive(a);
            TestKernel.Print(a, "received\n");
            TestKernel.Loop(a);
        }));
        using TestProcess vm = Launch("run", "--name", "v", "--engine", "interp", "--memory", "16M", "--kernel", kernel.Path);
        Assert.Equal("waiting", vm.StandardOutput.ReadLine());
        var folder = new ControlFolder(In("bunraku"));
        try
        {
            Assert.Matches("^v stood still for .* ms, at most .* ms at a time; .* shared\nv-1 to v-2 run\n$",
                Run(0, "fork", "v", "-n", "2", "--serial", $"file:{_folder}/{{name}}.log"));
            Assert.Equal(["v", "v-1", "v-2"], folder.Names());
            Assert.Contains("'v-1' runs already; --prefix", Run(1, "fork", "v"), StringComparison.Ordinal);
            Assert.Contains("0 of 1 copies run; w-1: --serial: cannot write",
                Run(1, "fork", "v", "--prefix", "w", "--serial", "file:/nowhere/x"), StringComparison.Ordinal);
            // Where nothing is said of their consoles, they are those of a VM in the background.
            Assert.EndsWith("u-1 runs\n", Run(0, "fork", "v", "--prefix", "u"), StringComparison.Ordinal);
            Run(0, "monitor", "u-1", "--", "sysrq x");
            for (long start = Stopwatch.GetTimestamp(); !Run(0, "logs", "u-1").Contains("received", StringComparison.Ordinal); Thread.Sleep(10))
                Assert.True(Stopwatch.GetElapsedTime(start) < s_limit);
            vm.Kill(); // copies live on
            vm.WaitForExit();
            Assert.Contains("no VM named 'v'", Run(1, "fork", "v"), StringComparison.Ordinal);
            using (ControlClient copy = ControlClient.Connect(folder, "v-2"))
            {
                Assert.NotEqual(vm.Id, copy.Ask(new ControlRequest("status"), s_limit).Status!.Pid);
                copy.Ask(new ControlRequest("monitor", "sysrq x"), s_limit);
                for (long start = Stopwatch.GetTimestamp(); !File.ReadAllText(In("v-2.log")).Contains("received", StringComparison.Ordinal); Thread.Sleep(10))
                    Assert.True(Stopwatch.GetElapsedTime(start) < s_limit);
            }
            Assert.Equal(("", "received\n"), (File.ReadAllText(In("v-1.log")), File.ReadAllText(In("v-2.log"))));
        }
        finally
        {
            foreach (string name in folder.Names().Where(folder.IsTaken)) Run(0, "kill", name);
        }
        Assert.DoesNotContain(folder.Names(), folder.IsTaken);
    }

    [Theory]
    [InlineData("the VM's name is missing", "fork")]
    [InlineData("no number of copies", "fork", "v", "-n", "0")]
    [InlineData("no number of copies", "fork", "v", "--count", "many")]
    [InlineData("2 copies would write one file", "fork", "v", "-n", "2", "--serial", "file:x")]
    [InlineData("copies have no terminal", "fork", "v", "--serial", "stdio")]
    [InlineData("no name of a VM", "fork", "v", "--prefix", "a/b")]
    [InlineData("goes with 'run', 'restore' and 'monitor'", "fork", "v", "--", "x")]
    public void Wrong_words_are_named(string says, params string[] arguments) =>
        Assert.Contains(says, Assert.Throws<UsageException>(() => CommandLineParser.Parse(arguments)).Message, StringComparison.Ordinal);

    private TestProcess Launch(params string[] arguments) => new(BunrakuProgram.Prepare(_folder, arguments));

    private string Run(int status, params string[] arguments) => BunrakuProgram.Run(_folder, status, arguments);
}
