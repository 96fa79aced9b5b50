using System.Text;

namespace Bunraku.Cli.Tests;

/// <summary>The guest's kernel gets its modules from the host, whether a person, a script or the kernel itself asks for one.</summary>
public sealed class LinuxModuleTests : IClassFixture<LinuxGuestFiles>
{
    private static async Task<string> Run(VmBuilder builder, string script)
    {
        var output = new MemoryStream();
        await using Vm vm = (builder with { Command = ["sh", "-c", script + " 2>&1"], Output = output, Timeout = TimeSpan.FromMinutes(9) }).Build();
        VmResult result = await vm.RunAsync();
        string text = Encoding.UTF8.GetString(output.ToArray());
        Assert.True(result.ExitStatus == 0, $"status {result.ExitStatus}: {text}");
        return text;
    }

    [Theory]
    [InlineData("bt", false)]
    [InlineData("bt", true)] // goes on from a guest that was kept when it had booted
    [InlineData("interp", false)]
    public async Task Modules_come_when_they_are_wanted(string engine, bool kept)
    {
        var builder = new VmBuilder(KnownEngines.All) { Engine = engine, KeepBooted = kept };
        string text = await Run(builder, """
            {
                modprobe -v btrfs && grep -c '^nodev' /proc/filesystems >/dev/null && grep -w btrfs /proc/filesystems
                modprobe dummy numdummies=3 && ip link | grep -c dummy
                modprobe -r dummy && ip link | grep -c dummy
                dd if=/dev/zero of=/tmp/image bs=1M count=4 2>/dev/null && mke2fs -F /tmp/image >/dev/null 2>&1
                mkdir /tmp/on && mount -o loop /tmp/image /tmp/on && grep -c '^/dev/loop0 /tmp/on ext' /proc/mounts
                for n in 1 2 3 4; do modprobe dm-crypt & done; wait; lsmod | grep -c ^dm_crypt
                modprobe nosuch; echo status $?
                modprobe -q nosuch; echo status $?
                modinfo -F license btrfs
                modprobe -l | grep -cx -e xfs -e btrfs
                modprobe
                modprobe -a ext4 nosuch xfs; grep -c -w -e xfs -e ext4 /proc/filesystems
                true
            }
            """);
        string[] lines = text.Split('\n', StringSplitOptions.RemoveEmptyEntries);
        Assert.Contains("insmod btrfs", lines);
        string version = text.Split("of kernel ")[1].Split('\n')[0];
        Assert.Equal(
            [
                "\tbtrfs", "3", "0", "1", "1", $"modprobe: the host has no module 'nosuch' of kernel {version}", "status 1", "status 1", "GPL", "2",
                "modprobe: no module is named (modprobe [-alnqrvD] MODULE [NAME=VALUE...])", $"modprobe: the host has no module 'nosuch' of kernel {version}",
                "2"
            ],
            lines.Where(l => !l.StartsWith("insmod ", StringComparison.Ordinal)));
    }
}
