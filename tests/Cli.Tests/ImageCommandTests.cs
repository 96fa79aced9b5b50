using System.Diagnostics;
using System.Text.Json;
using Bunraku.Cli.CommandLine;
using Bunraku.Storage;
using Bunraku.Testing;

namespace Bunraku.Cli.Tests;

/// <summary><c>bunraku image</c> and <c>--disk</c>, and what they say when something is wrong.</summary>
public sealed class ImageCommandTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("bunraku-image").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private string File(string name) => Path.Combine(_folder, name);

    private static string Image(params string[] words)
    {
        var output = new StringWriter();
        var request = Assert.IsType<Request.Image>(CommandLineParser.Parse(["image", .. words]));
        Assert.Equal(0, ImageCommands.Run(request.What, output));
        return output.ToString();
    }

    private static JsonElement Qemu(string path)
    {
        using var process = new TestProcess(new ProcessStartInfo("qemu-img", ["info", "--output=json", path]) { RedirectStandardOutput = true });
        string text = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        return JsonDocument.Parse(text).RootElement;
    }

    /// <summary>What we make is to QEMU what we were asked for, and we say the same of it.</summary>
    [Fact]
    public void Images_are_what_was_asked_for()
    {
        string path = File("disk"), copy = File("copy");
        Image("create", path, "3G", "--cluster-size", "4K", "--refcount-bits", "8");
        Image("snapshot", path, "--create", "first");
        Image("resize", path, "+1G");
        JsonElement there = Qemu(path);
        Assert.Equal(("qcow2", 4L << 30, 4096), (there.GetProperty("format").GetString(), there.GetProperty("virtual-size").GetInt64(),
            there.GetProperty("cluster-size").GetInt32()));
        Assert.Equal("first", there.GetProperty("snapshots")[0].GetProperty("name").GetString());
        JsonElement ours = JsonDocument.Parse(Image("info", path, "--json")).RootElement;
        Assert.Equal((4L << 30, 4096, 8, "first"), (ours.GetProperty("size").GetInt64(), ours.GetProperty("cluster_size").GetInt32(),
            ours.GetProperty("refcount_bits").GetInt32(), ours.GetProperty("snapshots")[0].GetProperty("name").GetString()));
        Assert.Contains("first", Image("snapshot", path), StringComparison.Ordinal);
        Image("snapshot", path, "--apply", "first");
        Assert.Equal(3L << 30, Qemu(path).GetProperty("virtual-size").GetInt64());
        Image("snapshot", path, "--delete", "first");
        Assert.Equal("no errors\n", Image("check", path).ReplaceLineEndings("\n"));
        Image("create", copy, "--backing", "disk", "--backing-format", "qcow2");
        Assert.Equal("disk", Qemu(copy).GetProperty("backing-filename").GetString());
        Image("convert", copy, File("raw"), "--format", "raw", "--allow-backing");
        Assert.Equal(3L << 30, new FileInfo(File("raw")).Length);
        Image("resize", File("raw"), "512K", "--shrink");
        Assert.Equal(512L << 10, new FileInfo(File("raw")).Length);
    }

    [Theory]
    [InlineData("no such file", "info", "FOLDER/none")]
    [InlineData("exists already", "create", "FOLDER/there", "1G")]
    [InlineData("no snapshot 'x'", "snapshot", "FOLDER/disk", "--apply", "x")]
    [InlineData("--shrink allows", "resize", "FOLDER/disk", "1K")]
    [InlineData("is a raw disk", "check", "FOLDER/there")]
    [InlineData("multiple of 512", "create", "FOLDER/new", "513")]
    [InlineData("at most", "create", "FOLDER/new", "8000T", "--cluster-size", "512")]
    [InlineData("power of two", "create", "FOLDER/new", "1G", "--cluster-size", "5000")]
    [InlineData("no such file", "create", "FOLDER/new", "--backing", "none", "--backing-format", "raw")]
    [InlineData("raw disk is not compressed", "convert", "FOLDER/disk", "FOLDER/new", "--format", "raw", "--compress")]
    public void What_goes_wrong_is_one_line_and_leaves_nothing(string words, params string[] command)
    {
        System.IO.File.WriteAllBytes(File("there"), new byte[512]);
        Image("create", File("disk"), "1M");
        string message = Assert.Throws<DiskException>(() => Image([.. command.Select(c => c.Replace("FOLDER", _folder, StringComparison.Ordinal))])).Message;
        Assert.Contains(words, message, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', message);
        Assert.False(System.IO.File.Exists(File("new")));
    }

    [Theory]
    [InlineData("a size is missing", "image", "create", "x")]
    [InlineData("--backing-format", "image", "create", "x", "--backing", "y")]
    [InlineData("not a size", "image", "create", "x", "huge")]
    [InlineData("did you mean 'qcow2'", "image", "create", "x", "1G", "--format", "qcow")]
    [InlineData("did you mean 'convert'", "image", "covert")]
    [InlineData("TARGET is missing", "image", "convert", "x")]
    [InlineData("give one of", "image", "snapshot", "x", "--create", "a", "--delete", "b")]
    [InlineData("needs a file", "run", "--disk", "")]
    [InlineData("did you mean 'readonly'", "run", "--disk", "x,readonyl=on")]
    [InlineData("neither on nor off", "run", "--disk", "x,readonly=maybe")]
    [InlineData("not both", "run", "--disk", "x,readonly=on,snapshot=on")]
    public void Wrong_words_are_named(string words, params string[] command)
    {
        string message = Assert.Throws<UsageException>(() => CommandLineParser.Parse(command)).Message;
        Assert.Contains(words, message, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', message);
    }

    [Fact]
    public void A_disk_is_described_behind_its_file()
    {
        var run = Assert.IsType<Request.Run>(CommandLineParser.Parse(
            ["run", "--disk", "a,,b.img,format=raw,serial=S1,readonly", "--disk", "file=c,snapshot=on,backing=on,discard=off", "--rng"]));
        Assert.True(run.Options.Rng);
        VmDisk[] disks = [.. run.Options.Disks];
        Assert.Equal(2, disks.Length);
        Assert.Equal(("a,b.img", ImageFormat.Raw, true, "S1"), (disks[0].Image.Path, disks[0].Image.Format!.Value, disks[0].Image.ReadOnly, disks[0].Serial));
        Assert.Equal(("c", true, true, false), (disks[1].Image.Path, disks[1].Throwaway, disks[1].Image.AllowBacking, disks[1].Image.Discard));
        Assert.Null(disks[1].Image.Format);
    }

    /// <summary>A machine whose disk cannot be had says so and does not start.</summary>
    [Fact]
    public void A_run_without_its_disk_is_one_line()
    {
        var builder = new VmBuilder(KnownEngines.All) { Guest = "hello", Disks = [new VmDisk(new DiskOptions(File("none")))] };
        Assert.Equal($"disk {File("none")}: no such file", Assert.Throws<CannotStartException>(() => builder.Build()).Message);
        // A new disk of one's own is what an installation begins with, and the command line says how it is made.
        var run = Assert.IsType<Request.Run>(CommandLineParser.Parse(["run", "hello", "--disk", File("none")]));
        Assert.Equal($"disk {File("none")}: no such file; 'bunraku image create' makes an empty one",
            Assert.Throws<CannotStartException>(() => new VmBuilder(KnownEngines.All, run.Options).Build()).Message);
        Image("create", File("disk"), "1M");
        using Vm first = (builder with { Disks = [new VmDisk(new DiskOptions(File("disk")))] }).Build();
        Assert.Contains("is in use", Assert.Throws<CannotStartException>(
            () => (builder with { Disks = [new VmDisk(new DiskOptions(File("disk")))] }).Build()).Message, StringComparison.Ordinal);
    }
}
