using Bunraku.Cli.CommandLine;
using Bunraku.Machine.Virtio.Files;

namespace Bunraku.Cli.Tests;

/// <summary><c>--share</c>, and what it says when something is wrong.</summary>
public sealed class ShareArgumentTests
{
    [Theory]
    [InlineData("needs a folder", "")]
    [InlineData("needs a folder", "src=")]
    [InlineData("did you mean 'ro'", "/data,rw")]
    [InlineData("did you mean 'cache'", "/data,cach=auto")]
    [InlineData("did you mean 'always'", "/data,cache=alway")]
    [InlineData("kind of ids", "/data,ids=root")]
    [InlineData("neither on nor off", "/data,ro=maybe")]
    public void Wrong_words_are_named(string words, string text)
    {
        string message = Assert.Throws<UsageException>(() => CommandLineParser.Parse(["run", "--share", text])).Message;
        Assert.Contains(words, message, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', message);
    }

    [Fact]
    public void A_share_is_described_behind_its_folder()
    {
        var run = Assert.IsType<Request.Run>(CommandLineParser.Parse(["run", "--share", ".", "--share", "/data,ro,tag=data", "--share",
            "src=/a,,b,at=/mnt/data,ids=host,cache=always,ro=off"]));
        Assert.Equal([new VmShare("."), new VmShare("/data") { ReadOnly = true, Tag = "data" },
            new VmShare("/a,b") { At = "/mnt/data", Owners = FileOwners.Host, Cache = FileCache.Always }], run.Options.Shares);
    }

    [Theory]
    [InlineData("linux", "is no tag", "/tmp,tag=0123456789012345678901234567890123456")]
    [InlineData("linux", "is no tag", "/tmp,tag=")]
    [InlineData("linux", "say with 'at'", "/usr")]
    [InlineData("linux", "say with 'at'", "/")]
    [InlineData("linux", "choose another place", "/tmp,at=/proc/x")]
    [InlineData("linux", "choose another place", "/tmp,at=/mnt/../usr//bin/")]
    [InlineData("linux", "is no path", "/tmp,at=mnt")]
    [InlineData("linux", "two folders are to be at /m", "/tmp,at=/m", "/var,at=/m/")]
    [InlineData("linux", "two folders have the tag share1", "/tmp,tag=share1", "/var/tmp")]
    [InlineData("hello", "mounts by itself", "/tmp,at=/mnt")]
    public void What_cannot_be_is_said_before_anything_starts(string guest, string words, params string[] texts)
    {
        var builder = new VmBuilder(KnownEngines.All) { Guest = guest, Shares = [.. texts.Select(ShareArgument.Parse)] };
        string message = Assert.Throws<VmOptionException>(() => builder.Build()).Message;
        Assert.Contains(words, message, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', message);
    }

    [Theory]
    [InlineData("folder /nonexistent/folder: No such file or directory", "/nonexistent/folder")]
    [InlineData("folder /dev/null: Not a directory", "/dev/null")]
    public void A_run_without_its_folder_is_one_line(string expected, string folder)
    {
        var builder = new VmBuilder(KnownEngines.All) { Guest = "hello", Shares = [new VmShare(folder)] };
        Assert.Equal(expected, Assert.Throws<CannotStartException>(() => builder.Build()).Message);
    }
}
