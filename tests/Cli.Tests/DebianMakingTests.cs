using System.Text;
using Bunraku.Machine;

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
            pwd; echo there >said
            read -r line; echo "$line" >&2
            sleep 1000 &
            exit 7
            """;
        string shared = Directory.CreateDirectory(Path.Combine(_folder, "shared")).FullName;
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
            Input = new MemoryStream(Encoding.UTF8.GetBytes("a line\n")),
            Output = output,
            Errors = errors,
        }.Build();
        VmResult result = await vm.RunAsync();
        Assert.Equal("a line\n", Encoding.UTF8.GetString(errors.ToArray()));
        Assert.Equal("install ok installed\nrunning\n0 0 4755\n0 0 1777\n0 42 2755\nmodules\n/from/outside\n", Encoding.UTF8.GetString(output.ToArray()));
        Assert.Equal(7, result.ExitStatus);
        Assert.Equal("there\n", File.ReadAllText(Path.Combine(shared, "said")));
    }
}
