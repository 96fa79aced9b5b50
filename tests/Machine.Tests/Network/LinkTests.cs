using System.Buffers.Binary;
using System.Net;
using System.Net.Sockets;
using Bunraku.Network;

namespace Bunraku.Machine.Tests.Network;

/// <summary>Cables between two machines.</summary>
public sealed class LinkTests
{
    private const int Mtu = 1500;

    private sealed class Receiver : IFrameReceiver
    {
        public List<byte[]> Frames { get; } = [];
        public int Changes { get; private set; }

        public void Receive(in FrameWork work, ReadOnlySpan<byte> frame) => Frames.Add(frame.ToArray());

        public void ConnectionChanged() => Changes++;
    }

    private static void Until(Func<bool> done, params (INetworkBackend End, Receiver Receiver)[] ends) => Assert.True(SpinWait.SpinUntil(() =>
    {
        foreach ((INetworkBackend end, Receiver receiver) in ends) end.Serve(receiver, waits: false);
        return done();
    }, TimeSpan.FromMinutes(1)));

    private static byte[] Random(Random random, int length)
    {
        byte[] frame = new byte[length];
        random.NextBytes(frame);
        return frame;
    }

    private static string TemporarySocket() => Path.Combine(Directory.CreateTempSubdirectory("bunraku-link").FullName, "socket");

    /// <summary>Frames of all lengths go from each end to the other.</summary>
    private static void CarryBothWays(Random random, (StreamLink Link, Receiver Receiver) one, (StreamLink Link, Receiver Receiver) other)
    {
        byte[][] sent = [.. Enumerable.Range(0, 50).Select(_ => Random(random, random.Next(14, 9000)))];
        foreach (byte[] frame in sent)
        {
            one.Link.Send(default, frame);
            other.Link.Send(default, frame);
            one.Link.Serve(one.Receiver, waits: false);
            other.Link.Serve(other.Receiver, waits: false);
        }
        Until(() => one.Receiver.Frames.Count == sent.Length && other.Receiver.Frames.Count == sent.Length, one, other);
        Assert.Equal(sent, one.Receiver.Frames);
        Assert.Equal(sent, other.Receiver.Frames);
    }

    [Fact]
    public void A_unix_cable_carries_frames_both_ways_and_can_be_plugged_in_again()
    {
        string path = TemporarySocket();
        var random = new Random(5);
        Receiver left = new(), right = new();
        using var first = StreamLink.Unix(path, Mtu);
        Assert.False(first.IsConnected);
        first.Send(default, new byte[60]); // nobody is there: it is lost
        for (int life = 0; life < 2; life++)
        {
            left.Frames.Clear();
            right.Frames.Clear();
            using (var second = StreamLink.Unix(path, Mtu))
            {
                Until(() => first.IsConnected, (first, left));
                Assert.Equal(2 * life + 1, left.Changes);
                CarryBothWays(random, (first, left), (second, right));
            }
            Until(() => !first.IsConnected, (first, left));
        }
    }

    /// <summary>The frames are QEMU's: a length of 32 bits, the most significant byte first. Who sends something else is not our peer any longer.</summary>
    [Fact]
    public void Frames_have_their_length_before_them()
    {
        string path = TemporarySocket();
        using var link = StreamLink.Unix(path, Mtu);
        using var peer = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        peer.Connect(new UnixDomainSocketEndPoint(path));
        var receiver = new Receiver();
        Until(() => link.IsConnected, (link, receiver));
        link.Send(default, new byte[64]);
        byte[] bytes = new byte[68];
        Assert.Equal(68, peer.Receive(bytes));
        Assert.Equal(64, BinaryPrimitives.ReadInt32BigEndian(bytes));
        peer.Send(new byte[] { 0, 0, 0, 20 });
        peer.Send(new byte[20]);
        Until(() => receiver.Frames.Count == 1, (link, receiver));
        Assert.Equal(20, receiver.Frames[0].Length);
        peer.Send(new byte[] { 0x7F, 0, 0, 0 });
        Until(() => !link.IsConnected, (link, receiver));
    }

    [Fact]
    public void A_place_where_no_socket_can_be_is_named()
    {
        var e = Assert.Throws<NetworkException>(() => StreamLink.Unix("/nonexistent/folder/socket", Mtu));
        Assert.StartsWith("the link unix:/nonexistent/folder/socket ", e.Message, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', e.Message);
    }

    [Fact]
    public void A_file_that_is_no_socket_stays()
    {
        string path = Path.GetTempFileName();
        Assert.Throws<NetworkException>(() => StreamLink.Unix(path, Mtu));
        Assert.True(File.Exists(path));
        File.Delete(path);
    }

    [Fact]
    public void A_udp_cable_carries_frames_of_its_peer_alone()
    {
        (int here, int there) = (FreePort(), FreePort());
        IPEndPoint a = new(IPAddress.Loopback, here), b = new(IPAddress.Loopback, there);
        using DatagramLink first = DatagramLink.Pair(a, b, Mtu), second = DatagramLink.Pair(b, a, Mtu);
        Receiver left = new(), right = new();
        using (var stranger = new UdpClient()) stranger.Send(new byte[50], a);
        first.Send(default, new byte[100]);
        second.Send(default, new byte[200]);
        Until(() => left.Frames.Count == 1 && right.Frames.Count == 1, (first, left), (second, right));
        Assert.Equal((200, 100), (left.Frames[0].Length, right.Frames[0].Length));
    }

    /// <summary>TCP: the one that listens is there before and after the other one; the one that connects has lost its cable when that has gone.</summary>
    [Fact]
    public void A_tcp_cable_carries_frames_both_ways_and_the_listener_waits_for_the_next_one()
    {
        var random = new Random(6);
        Receiver left = new(), right = new();
        using StreamLink first = StreamLink.Listen(new IPEndPoint(IPAddress.Loopback, 0), Mtu);
        for (int life = 0; life < 2; life++)
        {
            left.Frames.Clear();
            right.Frames.Clear();
            using (StreamLink second = StreamLink.Connect(first.EndPoint!, Mtu))
            {
                Until(() => first.IsConnected, (first, left));
                CarryBothWays(random, (first, left), (second, right));
            }
            Until(() => !first.IsConnected, (first, left));
        }
        IPEndPoint where = first.EndPoint!;
        using StreamLink last = StreamLink.Connect(where, Mtu);
        first.Dispose();
        Until(() => !last.IsConnected, (last, right));
        string message = Assert.Throws<NetworkException>(() => StreamLink.Connect(where, Mtu)).Message;
        Assert.StartsWith($"the link connect:{where} cannot be had: ", message, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', message);
    }

    [Fact]
    public void All_of_a_multicast_group_get_a_frame_but_the_one_that_sent_it()
    {
        var group = new IPEndPoint(IPAddress.Parse("239.192.77.1"), FreePort());
        DatagramLink[] ends = [.. Enumerable.Range(0, 3).Select(_ => DatagramLink.Multicast(group, IPAddress.Loopback, Mtu))];
        Receiver[] receivers = [.. ends.Select(_ => new Receiver())];
        (INetworkBackend, Receiver)[] all = [.. ends.Zip(receivers)];
        for (int n = 0; n < ends.Length; n++) ends[n].Send(default, new byte[100 + n]);
        Until(() => receivers.All(r => r.Frames.Count == 2), all);
        for (int n = 0; n < ends.Length; n++)
            Assert.Equal(Enumerable.Range(0, ends.Length).Where(k => k != n).Select(k => 100 + k), receivers[n].Frames.Select(f => f.Length).Order());
        foreach ((INetworkBackend end, Receiver receiver) in all) end.Serve(receiver, waits: false);
        Assert.All(receivers, r => Assert.Equal(2, r.Frames.Count));
        foreach (DatagramLink end in ends) end.Dispose();
    }

    /// <summary>QEMU's own <c>-netdev socket</c> at the other end, in each way that it can be one: the boot ROM of its card asks for an address.</summary>
    [Theory]
    [InlineData("listen")]
    [InlineData("connect")]
    [InlineData("mcast")]
    public void Frames_of_QEMU_come_by(string kind)
    {
        const string mac = "52:54:00:11:22:33";
        var receiver = new Receiver();
        int port = FreePort();
        var where = new IPEndPoint(IPAddress.Loopback, port);
        using INetworkBackend? waits = kind switch
        {
            "connect" => StreamLink.Listen(where, Mtu),
            "mcast" => DatagramLink.Multicast(new IPEndPoint(IPAddress.Parse("239.192.77.2"), port), IPAddress.Loopback, Mtu),
            _ => null,
        };
        string words = kind == "mcast" ? $"mcast=239.192.77.2:{port},localaddr=127.0.0.1" : $"{kind}=127.0.0.1:{port}";
        using var qemu = new Qemu(null, ["-netdev", $"socket,id=n,{words}", "-device", $"virtio-net-pci,netdev=n,mac={mac}", "-boot", "n"]);
        INetworkBackend? end = waits;
        Assert.True(SpinWait.SpinUntil(() =>
        {
            try
            {
                end ??= StreamLink.Connect(where, Mtu);
            }
            catch (NetworkException)
            {
                return false; // it does not listen yet
            }
            end.Serve(receiver, waits: false);
            return receiver.Frames.Exists(IsDhcp);
        }, TimeSpan.FromMinutes(1)));
        byte[] request = receiver.Frames.First(IsDhcp);
        Assert.Equal(mac, string.Join(':', request[6..12].Select(b => b.ToString("x2", System.Globalization.CultureInfo.InvariantCulture))));
        if (waits is null) end!.Dispose();

        // UDP from port 68 to port 67, to all.
        static bool IsDhcp(byte[] frame) => frame.Length > 42 && frame.AsSpan(0, 6).SequenceEqual(Broadcast)
            && frame[23] == 17 && BinaryPrimitives.ReadUInt16BigEndian(frame.AsSpan(36)) == 67;
    }

    private static byte[] Broadcast { get; } = [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF];

    private static int FreePort()
    {
        using var socket = new UdpClient(new IPEndPoint(IPAddress.Loopback, 0));
        return ((IPEndPoint)socket.Client.LocalEndPoint!).Port;
    }
}
