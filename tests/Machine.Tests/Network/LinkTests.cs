using System.Buffers.Binary;
using System.Net;
using System.Net.Sockets;
using Bunraku.Network;

namespace Bunraku.Machine.Tests.Network;

/// <summary>Cables between two machines.</summary>
public sealed class LinkTests
{
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

    [Fact]
    public void A_unix_cable_carries_frames_both_ways_and_can_be_plugged_in_again()
    {
        string path = TemporarySocket();
        var random = new Random(5);
        Receiver left = new(), right = new();
        using var first = new UnixLink(path);
        Assert.False(first.IsConnected);
        first.Send(default, new byte[60]); // nobody is there: it is lost
        for (int life = 0; life < 2; life++)
        {
            left.Frames.Clear();
            right.Frames.Clear();
            using (var second = new UnixLink(path))
            {
                Until(() => first.IsConnected, (first, left));
                Assert.Equal(2 * life + 1, left.Changes);
                byte[][] sent = [.. Enumerable.Range(0, 50).Select(_ => Random(random, random.Next(14, 9000)))];
                foreach (byte[] frame in sent)
                {
                    first.Send(default, frame);
                    second.Send(default, frame);
                    first.Serve(left, waits: false);
                    second.Serve(right, waits: false);
                }
                Until(() => left.Frames.Count == sent.Length && right.Frames.Count == sent.Length, (first, left), (second, right));
                Assert.Equal(sent, left.Frames);
                Assert.Equal(sent, right.Frames);
            }
            Until(() => !first.IsConnected, (first, left));
        }
    }

    /// <summary>The frames are QEMU's: a length of 32 bits, the most significant byte first. Who sends something else is not our peer any longer.</summary>
    [Fact]
    public void Frames_have_their_length_before_them()
    {
        string path = TemporarySocket();
        using var link = new UnixLink(path);
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
        var e = Assert.Throws<NetworkException>(() => new UnixLink("/nonexistent/folder/socket"));
        Assert.StartsWith("the link unix:/nonexistent/folder/socket ", e.Message, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', e.Message);
    }

    [Fact]
    public void A_file_that_is_no_socket_stays()
    {
        string path = Path.GetTempFileName();
        Assert.Throws<NetworkException>(() => new UnixLink(path));
        Assert.True(File.Exists(path));
        File.Delete(path);
    }

    [Fact]
    public void A_udp_cable_carries_frames_of_its_peer_alone()
    {
        (int here, int there) = (FreePort(), FreePort());
        IPEndPoint a = new(IPAddress.Loopback, here), b = new(IPAddress.Loopback, there);
        using UdpLink first = new(a, b), second = new(b, a);
        Receiver left = new(), right = new();
        using (var stranger = new UdpClient()) stranger.Send(new byte[50], a);
        first.Send(default, new byte[100]);
        second.Send(default, new byte[200]);
        Until(() => left.Frames.Count == 1 && right.Frames.Count == 1, (first, left), (second, right));
        Assert.Equal((200, 100), (left.Frames[0].Length, right.Frames[0].Length));
    }

    private static int FreePort()
    {
        using var socket = new UdpClient(new IPEndPoint(IPAddress.Loopback, 0));
        return ((IPEndPoint)socket.Client.LocalEndPoint!).Port;
    }
}
