using System.Net;
using System.Net.Sockets;
using Bunraku.Platform;

namespace Bunraku.Sessions.Migration;

/// <summary>
/// Where a VM that is moved is waited for: a Unix socket, or a TCP port of this host. Whoever can connect there decides what runs. Immutable.
/// </summary>
public sealed record MigrationAddress
{
    /// <summary>What can be written, for messages.</summary>
    public const string Forms = "write unix:PATH or tcp:127.0.0.1:PORT";

    private const string UnixPrefix = "unix:", TcpPrefix = "tcp:";
    private static readonly TimeSpan s_connectLimit = TimeSpan.FromSeconds(5);

    private MigrationAddress(string? path, IPEndPoint? port) => (Path, Port) = (path, port);

    /// <summary>Of a Unix socket; null: it is a port.</summary>
    public string? Path { get; }

    /// <summary>On a loopback address; null: it is a Unix socket.</summary>
    public IPEndPoint? Port { get; }

    /// <summary>The same for a process in another folder.</summary>
    public MigrationAddress Absolute => Path is { } path ? new(System.IO.Path.GetFullPath(path), null) : this;

    /// <summary>Reads unix:PATH or tcp:ADDRESS:PORT.</summary>
    /// <exception cref="MigrationException">It is neither; the message is one line.</exception>
    public static MigrationAddress Parse(string text)
    {
        if (text.StartsWith(UnixPrefix, StringComparison.Ordinal) && text.Length > UnixPrefix.Length)
            return new(text[UnixPrefix.Length..], null);
        if (text.StartsWith(TcpPrefix, StringComparison.Ordinal) && IPEndPoint.TryParse(text[TcpPrefix.Length..], out IPEndPoint? port) && port.Port != 0)
        {
            return IPAddress.IsLoopback(port.Address) ? new(null, port)
                : throw new MigrationException($"'{text}' is not of this host: what is sent is not encrypted, so that only loopback addresses are taken");
        }
        throw new MigrationException($"'{text}' is no place for a VM that is moved; {Forms}");
    }

    private EndPoint EndPoint
    {
        get
        {
            try
            {
                return Path is { } path ? new UnixDomainSocketEndPoint(path) : Port!;
            }
            catch (ArgumentOutOfRangeException e)
            {
                throw new MigrationException($"{this}: the path is too long for a socket", e);
            }
        }
    }

    private Socket Create() => Path is null ? new Socket(Port!.AddressFamily, SocketType.Stream, ProtocolType.Tcp) { NoDelay = true }
        : new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);

    /// <summary>Connects with who waits there.</summary>
    /// <exception cref="MigrationException">Nobody does.</exception>
    internal async Task<Stream> ConnectAsync(CancellationToken cancel)
    {
        Socket socket = Create();
        try
        {
            using var limit = CancellationTokenSource.CreateLinkedTokenSource(cancel);
            limit.CancelAfter(s_connectLimit);
            await socket.ConnectAsync(EndPoint, limit.Token).ConfigureAwait(false);
            return new NetworkStream(socket, ownsSocket: true);
        }
        catch (Exception e)
        {
            socket.Dispose();
            if (e is SocketException or OperationCanceledException && !cancel.IsCancellationRequested)
                throw new MigrationException($"nobody waits at {this}; start 'bunraku receive {this}' first", e);
            throw;
        }
    }

    /// <summary>Waits for one connection; nobody else can connect afterwards. A Unix socket has the rights 0600 and is removed.</summary>
    /// <exception cref="MigrationException">It cannot be listened there.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    public Stream Accept(CancellationToken cancel)
    {
        Socket? listener = null;
        try
        {
            listener = Path is { } path ? LocalSocket.Listen(path, 1) : LocalSocket.Listen(Port!, 1);
            return new NetworkStream(listener.AcceptAsync(cancel).AsTask().GetAwaiter().GetResult(), ownsSocket: true);
        }
        catch (Exception e) when (e is SocketException or IOException or UnauthorizedAccessException or ArgumentException)
        {
            throw new MigrationException($"a VM cannot be waited for at {this}: {e.Message.ReplaceLineEndings(" ")}", e);
        }
        finally
        {
            listener?.Dispose();
            if (listener is not null && Path is not null) LocalSocket.Remove(Path);
        }
    }

    /// <inheritdoc/>
    public override string ToString() => Path is { } path ? UnixPrefix + path : $"{TcpPrefix}{Port}";
}
