using System.Net.Sockets;
using System.Text;
using Bunraku.Sessions.Debugging;

namespace Bunraku.Cli.Tests;

/// <summary>A debugger of the tests: packets of the remote protocol over a Unix socket.</summary>
internal sealed class RemoteClient : IDisposable
{
    private static readonly TimeSpan s_longest = TimeSpan.FromSeconds(60);

    private readonly Socket _socket = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
    private readonly PacketReader _reader = new(RemoteProtocol.LongestPacket);
    private readonly byte[] _buffer = new byte[4096];
    private byte[] _rest = [];

    public RemoteClient(string path)
    {
        _socket.ReceiveTimeout = (int)s_longest.TotalMilliseconds;
        _socket.Connect(new UnixDomainSocketEndPoint(path));
    }

    public void SendRaw(ReadOnlySpan<byte> bytes) => _socket.Send(bytes);

    /// <summary>Sends a packet. Requests have escapes but no run lengths.</summary>
    public void Send(string packet)
    {
        var bytes = new List<byte>();
        foreach (byte b in Encoding.Latin1.GetBytes(packet))
        {
            if (b is (byte)'$' or (byte)'#' or (byte)'}') bytes.AddRange([(byte)'}', (byte)(b ^ 0x20)]);
            else bytes.Add(b);
        }
        byte sum = bytes.Aggregate((byte)0, (s, b) => (byte)(s + b));
        SendRaw([(byte)'$', .. bytes, .. Encoding.ASCII.GetBytes($"#{sum:x2}")]);
    }

    /// <summary>The next packet, with its run lengths resolved; null: the connection has ended.</summary>
    public string? Receive()
    {
        while (true)
        {
            ReadOnlySpan<byte> bytes = _rest;
            PacketKind? kind = _reader.Take(ref bytes);
            _rest = bytes.ToArray();
            if (kind == PacketKind.Packet) return Expand(Encoding.Latin1.GetString(_reader.Payload));
            if (kind is not null) continue;
            int n;
            try
            {
                n = _socket.Receive(_buffer);
            }
            catch (SocketException e) when (e.SocketErrorCode == SocketError.ConnectionReset)
            {
                return null;
            }
            if (n == 0) return null;
            _rest = _buffer[..n];
        }
    }

    private static string Expand(string payload)
    {
        var text = new StringBuilder();
        for (int n = 0; n < payload.Length; n++)
        {
            if (payload[n] == '*' && n + 1 < payload.Length) text.Append(text[^1], payload[++n] - 29);
            else text.Append(payload[n]);
        }
        return text.ToString();
    }

    /// <summary>Sends a packet and returns the answer.</summary>
    public string Ask(string packet)
    {
        Send(packet);
        return Receive() ?? throw new InvalidOperationException("the connection has ended");
    }

    /// <summary>What a command of the monitor prints.</summary>
    public string Monitor(string line)
    {
        Send("qRcmd," + Hex.OfText(line));
        var text = new StringBuilder();
        while (Receive() is { } reply && reply != "OK")
        {
            Assert.StartsWith("O", reply);
            text.Append(Encoding.UTF8.GetString(Convert.FromHexString(reply[1..])));
        }
        return text.ToString();
    }

    public void Dispose() => _socket.Dispose();
}
