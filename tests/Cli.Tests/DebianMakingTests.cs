using System.Globalization;
using System.Text;
using Bunraku.Machine;
using Bunraku.Network.Slirp;

namespace Bunraku.Cli.Tests;

/// <summary>
/// The image of the guest 'debian' made in small, from essential packages and systemd, and a command in it: about a minute. The whole one is made in the same
/// way from more packages.
/// </summary>
public sealed class DebianMakingTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("bunraku-making").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    /// <summary>dpkg says whether it finds its record in order, and systemd whether all units are well.</summary>
    [Fact]
    public async Task ItIsMadeFromPackagesAndRunsCommands()
    {
        var cache = new GuestCache(_folder);
        var images = new DebianImages(cache, null, "") { Small = true };
        var builder = new VmBuilder(KnownEngines.All) { Guest = DebianImages.Name, Memory = 1ul << 30 };
        DebianFiles files;
        using (images.Hold(CancellationToken.None)) files = DebianGuest.Make(images, builder, CancellationToken.None);
        Assert.Equal(files, images.Find());
        Assert.DoesNotContain(Directory.GetDirectories(_folder), d => Path.GetFileName(d).StartsWith(".debian", StringComparison.Ordinal));

        const string script = """
            dpkg --audit
            dpkg-query -W -f '${Status}\n' | sort | uniq -c | sed 's/^ *[0-9]* //'
            systemctl is-system-running --wait
            systemctl --failed --no-legend
            stat -c '%u %g %a' /bin/su /tmp /usr/bin/chage
            [ -e /dev/fuse ] && modprobe -n loop && echo modules
            cat /root/copied
            pwd; echo there >said
            read -r line; echo "$line" >&2
            sleep 1000 &
            exit 7
            """;
        string shared = Directory.CreateDirectory(Path.Combine(_folder, "shared")).FullName;
        string copied = Path.Combine(_folder, "copied");
        File.WriteAllText(copied, "copied\n");
        using var output = new MemoryStream();
        using var errors = new MemoryStream();
        using Vm vm = new VmBuilder(KnownEngines.All)
        {
            Guest = DebianImages.Name,
            Memory = 1ul << 30,
            Debian = files,
            Disks = [DebianGuest.DiskOf(builder, files)],
            Command = ["sh", "-c", script],
            Shares = [new VmShare(shared) { At = "/from/outside" }],
            Copies = [new VmCopy(copied)],
            Input = new MemoryStream(Encoding.UTF8.GetBytes("a line\n")),
            Output = output,
            Errors = errors,
        }.Build();
        VmResult result = await vm.RunAsync();
        Assert.Equal("a line\n", Encoding.UTF8.GetString(errors.ToArray()));
        Assert.Equal("install ok installed\nrunning\n0 0 4755\n0 0 1777\n0 42 2755\nmodules\ncopied\n/from/outside\n",
            Encoding.UTF8.GetString(output.ToArray()));
        Assert.Equal(7, result.ExitStatus);
        Assert.Equal("there\n", File.ReadAllText(Path.Combine(shared, "said")));
        await IsKeptAndIsAnotherOneEachTime(builder, files);
    }

    /// <summary>
    /// The second command and the third go on from a system that booted once, on disks of their own that fit what it has in its memory. What they are asked has
    /// no answer in common but what is on the image.
    /// </summary>
    private async Task IsKeptAndIsAnotherOneEachTime(VmBuilder builder, DebianFiles files)
    {
        const string script = """
            cat /usr/bin/* | md5sum
            [ -e /root/written ] && echo again
            head -c 20000000 /dev/urandom >/root/written; a=$(md5sum </root/written); sync; echo 3 >/proc/sys/vm/drop_caches
            [ "$a" = "$(md5sum </root/written)" ] && echo same
            systemctl --failed --no-legend
            /run/bunraku/busybox ip -4 -o addr show eth0 | grep -o 'inet [^ ]*'
            cat /etc/machine-id /proc/sys/kernel/random/boot_id /sys/class/net/eth0/address
            echo "$a"; date +%s; exit 5
            """;
        var kept = new List<string>();
        var runs = new List<string[]>();
        for (int n = 0; n < 3; n++)
        {
            var output = new MemoryStream();
            await using Vm vm = (builder with
            {
                Debian = files,
                Disks = [DebianGuest.DiskOf(builder, files)],
                Networks = [new UserNetwork(new SlirpOptions())],
                Command = ["sh", "-c", script],
                KeepBooted = true,
                KeptFolder = Path.Combine(_folder, "kept"),
                Kept = kept.Add,
                Output = output,
                Timeout = TimeSpan.FromMinutes(4),
            }).Build();
            VmResult result = await vm.RunAsync();
            Assert.Equal(5, result.ExitStatus);
            string[] lines = Encoding.UTF8.GetString(output.ToArray()).Split('\n');
            Assert.Equal(["same", "inet 10.0.2.15/24"], lines[1..3]);
            Assert.InRange(DateTimeOffset.UtcNow.ToUnixTimeSeconds() - long.Parse(lines[7], CultureInfo.InvariantCulture), -2, 20);
            runs.Add(lines);
        }
        Assert.Contains("is kept in", Assert.Single(kept));
        Assert.Single(runs.Select(r => r[0]).Distinct());
        foreach (int line in (int[])[3, 4, 5, 6]) Assert.Equal(runs.Count, runs.Select(r => r[line]).Distinct().Count());

        // Without its disk it is of no use.
        string[] left = Directory.GetFiles(Path.Combine(_folder, "kept"));
        Assert.Equal(2, left.Length);
        File.Delete(left.Single(f => f.EndsWith(".disk", StringComparison.Ordinal)));
        string alone = left.Single(f => f.EndsWith(".snap", StringComparison.Ordinal));
        Assert.Contains("is not beside it",
            Assert.Throws<CannotStartException>(() => new VmBuilder(KnownEngines.All) { RestoreFrom = alone, Command = ["true"] }.Build()).Message);
    }
}
