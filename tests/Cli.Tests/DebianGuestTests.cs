using System.Diagnostics;
using System.Text.Json;
using Bunraku.Cli.CommandLine;
using Bunraku.Machine;
using Bunraku.Sessions.Debugging;
using Bunraku.Storage;
using Bunraku.Storage.Qcow2;
using Bunraku.Testing;

namespace Bunraku.Cli.Tests;

/// <summary>What the guest 'debian' is given: defaults of the command line, and its disk.</summary>
public sealed class DebianGuestTests : IDisposable
{
    private const ulong Size = DebianImages.DiskSize;
    private readonly string _folder = Directory.CreateTempSubdirectory("bunraku-debian").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private static RunOptions Run(params string[] args) => Assert.IsType<Request.Run>(CommandLineParser.Parse(["run", .. args])).Options;

    [Fact]
    public void ItHasANetworkAndMoreMemoryUnlessTheUserSaysOtherwise()
    {
        RunOptions plain = Run("debian");
        Assert.IsType<UserNetwork>(Assert.Single(plain.Networks));
        Assert.Equal(1ul << 30, plain.Memory);
        RunOptions other = Run("debian", "--net", "none", "--memory", "2G", "--disk-size", "20G", "--keep", "x.qcow2");
        Assert.Empty(other.Networks);
        Assert.Equal((2ul << 30, 20ul << 30, "x.qcow2"), (other.Memory, other.DiskSize, other.KeepDisk));
        Assert.IsType<TapInterface>(Assert.Single(Run("debian", "--net", "tap:vm0").Networks));
        Assert.Equal("--net none goes with no other network", Assert.Throws<UsageException>(() => Run("debian", "--net", "none", "--net", "user")).Message);
    }

    [Theory]
    [InlineData("--disk-size: it is for the guest 'debian' alone", "linux", "--disk-size", "9G")]
    [InlineData("--keep: it is for the guest 'debian' alone", "hello", "--keep", "x")]
    [InlineData("--disk-size: 1073741824 bytes; the disk has at least 8G", "debian", "--disk-size", "1G")]
    public void WhatDoesNotGoTogetherIsSaidBeforeAnythingIsMade(string message, params string[] args)
    {
        var builder = new VmBuilder(KnownEngines.All, Run(args)) { Words = OptionWords.CommandLine };
        Assert.StartsWith(message, Assert.Throws<VmOptionException>(() => builder.Build()).Message);
    }

    private DebianFiles Image(string name)
    {
        string disk = Path.Combine(_folder, name);
        ImageTools.Create(disk, ImageFormat.Qcow2, Size, new Qcow2CreateOptions());
        return new DebianFiles(disk, "kernel", "initramfs", "busybox");
    }

    private static VmBuilder Builder(string? keep, ulong? size = null) =>
        new(KnownEngines.All) { Guest = DebianImages.Name, KeepDisk = keep, DiskSize = size, Words = OptionWords.CommandLine };

    [Fact]
    public void WithoutAFileTheDiskIsThrownAwayAndTheImageOnlyRead()
    {
        DebianFiles image = Image("disk-1.qcow2");
        VmDisk disk = DebianGuest.DiskOf(Builder(null, Size + (1ul << 30)), image);
        Assert.True(disk.Throwaway);
        byte[] before = File.ReadAllBytes(image.Disk);
        using (var open = new ThrowawayDisk(disk.Image, disk.Size))
        {
            Assert.Equal(Size + (1ul << 30), open.Length);
            open.Write(Size, new byte[512]);
            open.Write(0, [.. Enumerable.Repeat((byte)7, 512)]);
        }
        Assert.Equal(before, File.ReadAllBytes(image.Disk));
    }

    /// <summary>QEMU's own tool says what the file is.</summary>
    [Fact]
    public void AKeptDiskIsAnOverlayThatGrowsAndGoesWithItsImageAlone()
    {
        DebianFiles image = Image("disk-1.qcow2");
        string kept = Path.Combine(_folder, "kept.qcow2");
        VmDisk disk = DebianGuest.DiskOf(Builder(kept), image);
        Assert.False(disk.Throwaway);
        using (DiskImage.Open(disk.Image))
        {
        }
        JsonElement info = Qemu(kept);
        Assert.Equal((Size, image.Disk, "qcow2"), (info.GetProperty("virtual-size").GetUInt64(), info.GetProperty("backing-filename").GetString(),
            info.GetProperty("backing-filename-format").GetString()));

        DebianGuest.DiskOf(Builder(kept, 2 * Size), image);
        Assert.Equal(2 * Size, Qemu(kept).GetProperty("virtual-size").GetUInt64());
        DebianGuest.DiskOf(Builder(kept), image); // as large as it is
        Assert.Equal($"disk {kept}: has 16 GiB already, and is not made smaller", ErrorOf(Builder(kept, Size), image));
        Assert.StartsWith($"disk {kept}: was begun with another image of the guest 'debian' ({image.Disk})", ErrorOf(Builder(kept), Image("disk-2.qcow2")));
        Assert.StartsWith($"disk {image.Disk}: is none of the guest 'debian'; --disk takes other disks", ErrorOf(Builder(image.Disk), image));

        static string ErrorOf(VmBuilder builder, DebianFiles files) => Assert.Throws<CannotStartException>(() => DebianGuest.DiskOf(builder, files)).Message;
    }

    private static JsonElement Qemu(string path)
    {
        using var process = new TestProcess(new ProcessStartInfo("qemu-img", ["info", "--output=json", path]) { RedirectStandardOutput = true });
        string text = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        return JsonDocument.Parse(text).RootElement;
    }
}
