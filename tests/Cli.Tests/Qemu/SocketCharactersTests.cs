using System.Net.Sockets;
using Bunraku.Cli.Qemu;
using Bunraku.Cli.Qemu.Characters;

namespace Bunraku.Cli.Tests.Qemu;

/// <summary>Sockets of QEMU's words, whose peers come and go and do not always read.</summary>
public sealed class SocketCharactersTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("bunraku-socket").FullName;
    private readonly SocketCharacters _device;
    private readonly SemaphoreSlim _connected = new(0);

    public SocketCharactersTests() => _device = new SocketCharacters(new CharacterSpec("c", CharacterKind.Unix) { Path = PathName, IsServer = true }, default);

    private string PathName => Path.Combine(_folder, "s");

    public void Dispose()
    {
        _device.Dispose();
        _connected.Dispose();
        Directory.Delete(_folder, recursive: true);
    }

    private Socket Connect()
    {
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified) { ReceiveTimeout = 60_000 };
        socket.Connect(new UnixDomainSocketEndPoint(PathName));
        return socket;
    }

    private static string Read(Socket socket, int count)
    {
        byte[] buffer = new byte[count];
        for (int at = 0; at < count;)
        {
            int n = socket.Receive(buffer.AsSpan(at));
            Assert.True(n > 0);
            at += n;
        }
        return System.Text.Encoding.ASCII.GetString(buffer);
    }

    [Fact]
    public void The_next_peer_gets_nothing_of_what_the_last_one_left()
    {
        _device.Connected = () => _connected.Release();
        _device.Start();
        Socket peer = Connect();
        _connected.Wait();
        for (int n = 0; n < 50; n++)
        {
            Socket next = Connect(); // waits behind the first
            _device.Write("old"u8);
            peer.Dispose();
            _connected.Wait();
            _device.Write("new"u8);
            Assert.Equal("new", Read(next, 3));
            peer = next;
        }
        peer.Dispose();
    }

    [Fact]
    public void What_a_taker_cannot_take_closes_the_connection_and_no_more()
    {
        _device.Connected = () => _connected.Release();
        _device.Received = bytes =>
        {
            if (bytes[0] == 'x') throw new InvalidOperationException("it is an x");
            _device.Write(bytes);
        };
        _device.Start();
        using Socket first = Connect();
        first.Send("x"u8);
        Assert.Equal(0, first.Receive(new byte[1]));
        using Socket second = Connect();
        second.Send("y"u8);
        Assert.Equal("y", Read(second, 1));
    }

    [Fact]
    public void Events_that_nobody_reads_end_the_connection()
    {
        const int events = 100_000, most = 4 << 20;
        var server = new QmpServer(null!, _device, null!, isPretty: false); // what is asked here has nothing to do with a machine
        _device.Start();
        using Socket client = Connect();
        using var stream = new NetworkStream(client);
        using var reader = new StreamReader(stream);
        Assert.Contains("QMP", reader.ReadLine(), StringComparison.Ordinal);
        client.Send("{\"execute\":\"qmp_capabilities\"}"u8);
        Assert.Contains("return", reader.ReadLine(), StringComparison.Ordinal);
        for (int n = 0; n < events; n++) server.Tell("RESET");
        int characters = 0;
        while (reader.ReadLine() is { } line) characters += line.Length;
        Assert.InRange(characters, 1, most);
        using Socket next = Connect();
        Assert.StartsWith("{\"QMP\"", Read(next, 6), StringComparison.Ordinal);
    }
}
