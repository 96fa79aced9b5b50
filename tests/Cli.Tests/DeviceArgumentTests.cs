using Bunraku.Cli.CommandLine;

namespace Bunraku.Cli.Tests;

/// <summary><c>--vsock</c> and <c>--balloon</c>, and what they say when something is wrong.</summary>
public sealed class DeviceArgumentTests
{
    [Fact]
    public void Sockets_and_balloons_are_described()
    {
        var run = Assert.IsType<Request.Run>(CommandLineParser.Parse(["run", "--vsock", "/tmp/a,,b,cid=7", "--balloon", "on,deflate-on-oom=off",
            "--net", "user,model=e1000"]));
        Assert.Equal(new VmVsock("/tmp/a,b") { Cid = 7 }, run.Options.Vsock);
        Assert.Equal(new VmBalloon { DeflateOnOom = false }, run.Options.Balloon);
        Assert.Equal(NetworkModel.E1000, run.Options.Networks[0].Model);
        run = Assert.IsType<Request.Run>(CommandLineParser.Parse(["run", "--vsock", "v", "--balloon", "off"]));
        Assert.Equal(((uint?)null, null), (run.Options.Vsock!.Cid, run.Options.Balloon));
    }

    [Theory]
    [InlineData("needs the path", "--vsock", "")]
    [InlineData("did you mean 'cid'", "--vsock", "/tmp/v,cd=3")]
    [InlineData("'x' is no context ID", "--vsock", "/tmp/v,cid=x")]
    [InlineData("value of --balloon", "--balloon", "512")]
    [InlineData("did you mean 'reporting'", "--balloon", "on,report=on")]
    [InlineData("neither on nor off", "--balloon", "on,reporting=maybe")]
    public void Wrong_words_are_named(string words, string option, string text)
    {
        string message = Assert.Throws<UsageException>(() => CommandLineParser.Parse(["run", option, text])).Message;
        Assert.Contains(words, message, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', message);
    }
}
