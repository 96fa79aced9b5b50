using Bunraku.Cli.CommandLine;
using Bunraku.Network.Slirp;

namespace Bunraku.Cli.Tests;

/// <summary><c>--net</c>, and what it says when something is wrong.</summary>
public sealed class NetworkArgumentTests
{
    [Theory]
    [InlineData("did you mean 'user'", "usr")]
    [InlineData("tap:NAME", "tap:")]
    [InlineData("tap:NAME", "unix")]
    [InlineData("udp:7001-7002", "udp:7001")]
    [InlineData("did you mean 'hostfwd'", "user,hostfw=80-80")]
    [InlineData("did you mean 'mac'", "tap:t0,mc=1")]
    [InlineData("word behind --net", "tap:t0,restrict=on")]
    [InlineData("write listen:[ADDRESS:]PORT", "listen:")]
    [InlineData("write connect:[ADDRESS:]PORT", "connect:here:7001")]
    [InlineData("mcast:239.1.2.3:7001", "mcast:10.0.0.1:7001")]
    [InlineData("local=192.0.2.1", "mcast:239.1.2.3:7001,local=eth0")]
    [InlineData("did you mean 'local'", "mcast:239.1.2.3:7001,locl=127.0.0.1")]
    [InlineData("neither on nor off", "user,restrict=maybe")]
    [InlineData("does not lead anywhere", "user,hostfwd=tcp::80")]
    [InlineData("'http' is no port", "user,hostfwd=tcp::http-:80")]
    [InlineData("52:54:00:12:34:56", "user,mac=me")]
    [InlineData("is no number", "user,mtu=big")]
    [InlineData("did you mean 'e1000'", "user,model=e100")]
    public void Wrong_words_are_named(string words, string text)
    {
        string message = Assert.Throws<UsageException>(() => CommandLineParser.Parse(["run", "--net", text])).Message;
        Assert.Contains(words, message, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', message);
    }

    [Fact]
    public void A_network_is_described_behind_its_kind()
    {
        var run = Assert.IsType<Request.Run>(CommandLineParser.Parse(["run",
            "--net", "user,hostfwd=127.0.0.1:2222-:22,hostfwd=udp:0.0.0.0:53-:53,restrict,loopback=on,ipv6=off,mac=52:54:00:12:34:56,mtu=9000,queues=2",
            "--net", "tap:t0", "--net", "unix:/a,,b", "--net", "udp:7001-10.0.0.1:7002",
            "--net", "listen:7001", "--net", "connect:10.0.0.1:7002", "--net", "mcast:239.1.2.3:7003,local=10.0.0.2,mtu=1400",
            "--net", "mcast:239.1.2.3:7003"]));
        VmNetwork[] all = [.. run.Options.Networks];
        var user = Assert.IsType<UserNetwork>(all[0]);
        Assert.Equal(["tcp:127.0.0.1:2222-0.0.0.0:22", "udp:0.0.0.0:53-0.0.0.0:53"], user.Options.Forwards.Select(f => f.ToString()));
        Assert.Equal((true, true, false), (user.Options.Restricted, user.Options.HostLoopback, user.Options.Ip6));
        Assert.Equal(("525400123456", 9000, 2), (user.Mac!.ToString(), user.Mtu, user.Queues));
        Assert.Equal(("t0", "/a,b"), (Assert.IsType<TapInterface>(all[1]).Name, Assert.IsType<UnixCable>(all[2]).Path));
        var udp = Assert.IsType<UdpCable>(all[3]);
        Assert.Equal(("127.0.0.1:7001", "10.0.0.1:7002"), (udp.Local.ToString(), udp.Remote.ToString()));
        TcpCable listens = Assert.IsType<TcpCable>(all[4]), connects = Assert.IsType<TcpCable>(all[5]);
        Assert.Equal(("127.0.0.1:7001", true), (listens.Address.ToString(), listens.Listens));
        Assert.Equal(("10.0.0.1:7002", false), (connects.Address.ToString(), connects.Listens));
        MulticastCable group = Assert.IsType<MulticastCable>(all[6]), ours = Assert.IsType<MulticastCable>(all[7]);
        Assert.Equal(("239.1.2.3:7003", "10.0.0.2", 1400, "127.0.0.1"), (group.Group.ToString(), group.Local!.ToString(), group.Mtu, ours.Local!.ToString()));
    }

    [Theory]
    [InlineData("no address of a network card", "user,mac=01:00:00:00:00:01")]
    [InlineData("from 1280 to 65520", "user,mtu=100")]
    [InlineData("from 1 to 32", "user,queues=0")]
    [InlineData("one queue", "user,model=e1000,queues=2")]
    public void What_cannot_be_is_said_before_anything_starts(string words, string text)
    {
        var builder = new VmBuilder(KnownEngines.All) { Guest = "hello", Networks = [NetworkArgument.Parse(text)] };
        string message = Assert.Throws<VmOptionException>(() => builder.Build()).Message;
        Assert.Contains(words, message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_run_without_its_network_is_one_line()
    {
        var builder = new VmBuilder(KnownEngines.All) { Guest = "hello", Networks = [new UnixCable("/nonexistent/folder/socket")] };
        string message = Assert.Throws<CannotStartException>(() => builder.Build()).Message;
        Assert.StartsWith("the link unix:/nonexistent/folder/socket ", message, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', message);
    }
}
