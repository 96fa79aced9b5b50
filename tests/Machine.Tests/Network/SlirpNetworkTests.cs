using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using Bunraku.Network;
using Bunraku.Network.Slirp;

namespace Bunraku.Machine.Tests.Network;

/// <summary>The user-mode network as a guest sees it that sends frames by hand, and who can reach whom.</summary>
public sealed class SlirpNetworkTests
{
    private const byte Syn = 2, Ack = 16, Reset = 4;
    private static readonly IPAddress s_guest = IPAddress.Parse("10.0.2.15"), s_host = IPAddress.Parse("10.0.2.2");

    private sealed class Receiver : IFrameReceiver
    {
        public List<byte[]> Frames { get; } = [];

        public void Receive(in FrameWork work, ReadOnlySpan<byte> frame) => Frames.Add(frame.ToArray());

        public void ConnectionChanged()
        {
        }
    }

    /// <summary>Serves until a frame comes of which it is so; null after the time.</summary>
    private static byte[]? Await(SlirpNetwork network, Receiver receiver, Func<byte[], bool> wanted, int seconds = 60)
    {
        var watch = Stopwatch.StartNew();
        while (watch.Elapsed < TimeSpan.FromSeconds(seconds))
        {
            if (receiver.Frames.Find(f => wanted(f)) is { } found) return found;
            network.Serve(receiver, waits: false);
            Thread.Sleep(1);
        }
        return null;
    }

    private static bool IsTcpTo(byte[] frame, ushort port) => frame.Length >= 54 && frame[12] == 8 && frame[13] == 0 && frame[23] == 6
        && (frame[36] << 8 | frame[37]) == port;

    /// <summary>The library must have seen the guest before it sends it anything: it asks for its address.</summary>
    private static void Introduce(SlirpNetwork network, Receiver receiver)
    {
        network.Serve(receiver, waits: false);
        network.Send(default, TestFrames.Ethernet(TestFrames.Everybody, 0x0806,
        [0, 1, 8, 0, 6, 4, 0, 1, .. TestFrames.Guest, 10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 10, 0, 2, 2]));
    }

    private static byte[]? Connect(SlirpOptions options, IPAddress to, int port, int seconds)
    {
        using var network = new SlirpNetwork(options);
        var receiver = new Receiver();
        Introduce(network, receiver);
        Assert.NotNull(Await(network, receiver, f => f[12] == 8 && f[13] == 6));
        network.Send(default, TestFrames.Tcp(s_guest, to, 4000, (ushort)port, Syn, []));
        return Await(network, receiver, f => IsTcpTo(f, 4000), seconds);
    }

    private static TcpListener Listen(IPAddress address)
    {
        var listener = new TcpListener(address, 0);
        listener.Start();
        return listener;
    }

    /// <summary>The host's loopback is reached as 10.0.2.2 if that was asked for.</summary>
    [Fact]
    public void The_hosts_loopback_can_be_opened()
    {
        using TcpListener listener = Listen(IPAddress.Loopback);
        int port = ((IPEndPoint)listener.LocalEndpoint).Port;
        byte[]? answer = Connect(new SlirpOptions { HostLoopback = true }, s_host, port, 60);
        Assert.NotNull(answer);
        Assert.Equal(Syn | Ack, answer[47] & (Syn | Ack | Reset));
    }

    /// <summary>Else it is not, by whatever name a guest calls it: Linux takes 0.0.0.0/8 for itself as well.</summary>
    [Theory]
    [InlineData("10.0.2.2", false)]
    [InlineData("127.0.0.1", false)]
    [InlineData("127.0.0.1", true)]
    [InlineData("127.3.2.1", true)]
    [InlineData("0.0.0.0", true)]
    [InlineData("0.0.0.1", true)]
    [InlineData("255.255.255.255", false)]
    public void Nobody_reaches_the_hosts_loopback_unasked(string name, bool loopback)
    {
        using TcpListener listener = Listen(IPAddress.Any);
        int port = ((IPEndPoint)listener.LocalEndpoint).Port;
        byte[]? answer = Connect(new SlirpOptions { HostLoopback = loopback }, IPAddress.Parse(name), port, 1);
        Assert.True(answer is null || (answer[47] & Reset) != 0);
        Assert.False(listener.Pending());
    }

    /// <summary>RFC 4291, sections 2.5.2, 2.5.3 and 2.5.5.2.</summary>
    [Theory]
    [InlineData("::1", true)]
    [InlineData("::", true)]
    [InlineData("::ffff:127.0.0.1", true)]
    [InlineData("::ffff:0.0.0.0", true)]
    [InlineData("fec0::2", false)]
    [InlineData("::ffff:10.1.1.1", false)]
    [InlineData("127.0.0.1", true)]
    [InlineData("0.1.2.3", true)]
    [InlineData("128.0.0.1", false)]
    [InlineData("1.0.0.127", false)]
    public void Addresses_of_the_loopback_are_known(string address, bool known)
    {
        var to = IPAddress.Parse(address);
        IPAddress from = to.AddressFamily == AddressFamily.InterNetwork ? s_guest : IPAddress.Parse("fec0::15");
        byte[] frame = TestFrames.Tcp(from, to, 1, 2, Syn, []);
        Assert.Equal(known, SlirpNetwork.IsForLoopback(frame));
        byte[] tagged = [.. frame[..12], 0x81, 0, 0, 5, .. frame[12..]];
        Assert.Equal(known, SlirpNetwork.IsForLoopback(tagged));
    }

    /// <summary>A forwarded port is on 127.0.0.1 unless something else is asked for; it comes to the guest's address.</summary>
    [Fact]
    public void A_forwarded_port_leads_to_the_guest()
    {
        int port = FreePort(), udpPort = FreePort();
        HostForward[] forwards = [HostForward.Parse($"{port}-:22"), HostForward.Parse($"udp::{udpPort}-:53")];
        using var network = new SlirpNetwork(new SlirpOptions { Forwards = forwards, Restricted = true });
        var receiver = new Receiver();
        Introduce(network, receiver);
        using var client = new TcpClient();
        client.Connect(IPAddress.Loopback, port);
        byte[]? frame = Await(network, receiver, f => IsTcpTo(f, 22));
        Assert.NotNull(frame);
        Assert.Equal(s_guest.GetAddressBytes(), frame[30..34]);
        Assert.Equal(Syn, frame[47]);
        using var datagrams = new UdpClient();
        datagrams.Send("word"u8.ToArray(), new IPEndPoint(IPAddress.Loopback, udpPort));
        byte[]? datagram = Await(network, receiver, f => f.Length >= 46 && f[23] == 17 && (f[36] << 8 | f[37]) == 53);
        Assert.Equal("word"u8.ToArray(), datagram![42..46]);
        using TcpListener other = new(IPAddress.Parse("127.0.0.2"), port); // only 127.0.0.1 is taken
        other.Start();
    }

    private static int FreePort()
    {
        using TcpListener listener = Listen(IPAddress.Loopback);
        return ((IPEndPoint)listener.LocalEndpoint).Port;
    }

    [Fact]
    public void A_port_that_is_taken_is_named()
    {
        using TcpListener listener = Listen(IPAddress.Loopback);
        string forward = $"tcp:{listener.LocalEndpoint}-:80";
        var e = Assert.Throws<NetworkException>(() => new SlirpNetwork(new SlirpOptions { Forwards = [HostForward.Parse(forward)] }));
        Assert.Contains($"127.0.0.1:{((IPEndPoint)listener.LocalEndpoint).Port}: Address already in use", e.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("tcp:127.0.0.1:2222-:22", "tcp:127.0.0.1:2222-0.0.0.0:22")]
    [InlineData("tcp::2222-:22", "tcp:127.0.0.1:2222-0.0.0.0:22")]
    [InlineData(":2222-22", "tcp:127.0.0.1:2222-0.0.0.0:22")]
    [InlineData("udp:0.0.0.0:53-10.0.2.15:53", "udp:0.0.0.0:53-10.0.2.15:53")]
    [InlineData("tcp:[::1]:80-[fec0::15]:80", "tcp:[::1]:80-[fec0::15]:80")]
    public void A_forward_is_read(string text, string meant) => Assert.Equal(meant, HostForward.Parse(text).ToString());

    [Theory]
    [InlineData("2222")]
    [InlineData("2222-")]
    [InlineData("2222-0")]
    [InlineData("tcp:x:2222-:22")]
    [InlineData("70000-:22")]
    [InlineData("[::1]:80-:80")]
    public void What_is_no_forward_is_refused(string text) => Assert.Throws<FormatException>(() => HostForward.Parse(text));

    /// <summary>Whatever a guest sends, the library and we go on. It is the distribution's, and this is the part of it that sees any bytes.</summary>
    [Fact]
    public void Any_bytes_are_frames()
    {
        using var network = new SlirpNetwork(new SlirpOptions { Restricted = true });
        var receiver = new Receiver();
        Introduce(network, receiver);
        var random = new Random(11);
        byte[] good = TestFrames.Tcp(s_guest, s_host, 5, 6, Syn, new byte[50]);
        for (int n = 0; n < 100_000; n++)
        {
            byte[] frame = new byte[random.Next(Frame.HeaderLength, 200)];
            random.NextBytes(frame);
            good.AsSpan(0, Math.Min(good.Length, random.Next(frame.Length + 1))).CopyTo(frame);
            if (random.Next(4) == 0)
                (frame[12], frame[13]) = random.Next(3) switch { 0 => ((byte)0x86, (byte)0xDD), 1 => ((byte)8, (byte)6), _ => ((byte)8, (byte)0) };
            network.Send(default, frame);
            if (n % 64 == 0) network.Serve(receiver, waits: false);
        }
        receiver.Frames.Clear();
        Introduce(network, receiver);
        Assert.NotNull(Await(network, receiver, f => f[12] == 8 && f[13] == 6));
    }
}
