using System.Globalization;
using System.Net.Sockets;
using System.Text;
using Bunraku.Platform;

namespace Bunraku.Machine.Virtio.Sockets;

/// <summary>
/// The host's side: a Unix socket by which programs reach ports of the guest, and those at which programs wait for the guest. The words are Firecracker's
/// (docs/vsock.md of its sources): who connects says <c>CONNECT PORT</c> and is answered <c>OK PORT</c>; the guest's port P of the host is the socket
/// PATH_P.
/// </summary>
public sealed class HostSockets : IDisposable
{
    private const int Backlog = 64, LongestGreeting = 32;
    private const string Greeting = "CONNECT ";

    private readonly string _path;

    /// <param name="path">Of the socket, which its owner alone may use. One that is there and that nobody listens on is replaced.</param>
    /// <exception cref="IOException">It cannot be listened on; why, in one line.</exception>
    public HostSockets(string path)
    {
        _path = path;
        try
        {
            _ = new UnixDomainSocketEndPoint(PathOf(uint.MaxValue)); // the longest of them
            Listener = LocalSocket.Listen(path, Backlog);
            Listener.Blocking = false;
        }
        catch (Exception e) when (e is SocketException or IOException or UnauthorizedAccessException or ArgumentException)
        {
            string reason = e is ArgumentException ? "the path is too long for a socket, to which _PORT is added"
                : e is DirectoryNotFoundException ? "there is no such folder" : e.Message.ReplaceLineEndings(" ");
            throw new IOException($"socket {path}: it cannot be listened on: {reason}", e);
        }
    }

    /// <summary>Where programs of the host come; never blocks.</summary>
    internal Socket Listener { get; }

    private string PathOf(uint port) => string.Create(CultureInfo.InvariantCulture, $"{_path}_{port}");

    /// <summary>Who has come; null: nobody, it has gone again, or there are no descriptors.</summary>
    internal Socket? Accept()
    {
        try
        {
            Socket socket = Listener.Accept();
            socket.Blocking = false;
            return socket;
        }
        catch (SocketException)
        {
            return null;
        }
    }

    /// <summary>Connects to a port of the host; null: nobody is there, or somebody else's, or there is no room in the queue.</summary>
    /// <remarks>Where others may write into the folder, one of them could wait there for what the guest has to say to its own user.</remarks>
    internal Socket? Connect(uint port)
    {
        string path = PathOf(port);
        if (!HostFile.IsSocket(path)) return null; // the usual case, without an exception
        Socket? socket = null;
        try
        {
            socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified) { Blocking = false };
            socket.Connect(new UnixDomainSocketEndPoint(path));
            if (LocalSocket.IsOurs(socket)) return socket;
            socket.Dispose();
            return null;
        }
        catch (SocketException) // no descriptors, too
        {
            socket?.Dispose();
            return null;
        }
    }

    /// <summary>Reads where a program of the host wants to go.</summary>
    /// <param name="waiting">What it has said so far.</param>
    /// <param name="length">Of the line with its end; 0: it is not complete.</param>
    /// <returns>The port of the guest; null: it is not complete, or, with a length, none.</returns>
    internal static uint? ReadGreeting(ReadOnlySpan<byte> waiting, out int length)
    {
        int end = waiting[..Math.Min(waiting.Length, LongestGreeting)].IndexOf((byte)'\n');
        length = end >= 0 ? end + 1 : waiting.Length >= LongestGreeting ? LongestGreeting : 0;
        if (end < 0) return null;
        string line = Encoding.ASCII.GetString(waiting[..end]);
        return line.StartsWith(Greeting, StringComparison.Ordinal)
            && uint.TryParse(line.AsSpan(Greeting.Length), NumberStyles.None, CultureInfo.InvariantCulture, out uint port) ? port : null;
    }

    /// <summary>Says that the guest has accepted.</summary>
    /// <param name="port">Of the host's end, as the guest sees it.</param>
    internal static byte[] Welcome(uint port) => Encoding.ASCII.GetBytes(string.Create(CultureInfo.InvariantCulture, $"OK {port}\n"));

    /// <summary>Nobody comes any more, and the socket's file is gone.</summary>
    public void Dispose()
    {
        Listener.Dispose();
        LocalSocket.Remove(_path);
    }
}
