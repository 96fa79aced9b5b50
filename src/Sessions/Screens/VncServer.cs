using System.Net;
using System.Net.Sockets;
using System.Text;
using Bunraku.Machine.Display;
using Bunraku.Machine.Input;
using Bunraku.Platform;

namespace Bunraku.Sessions.Screens;

/// <summary>
/// Shows a VM's screen to viewers of VNC, several at a time, and gives their keys and pointers to the guest: the Remote Framebuffer Protocol, RFC 6143. Who
/// breaks the protocol loses the connection, and nothing else happens. Ends with its disposal.
/// </summary>
public sealed class VncServer : IDisposable
{
    private const int Backlog = 8, MostViewers = 8, MostStrangers = 8, LongestPassword = 1024;

    private readonly VgaController _display;
    private readonly UserInput _input;
    private volatile byte[]? _password; // replaced, never changed; null: nobody knows it
    private readonly string _name;
    private readonly Socket _listener;
    private readonly CancellationTokenSource _cancel = new();
    private readonly Task _accepting;
    private readonly Lock _lock = new();
    private readonly List<Connection> _connections = []; // with the lock held, in their order

    /// <summary>Somebody at the other end.</summary>
    private sealed class Connection(Socket socket)
    {
        public Socket Socket => socket;
        public bool IsViewer { get; set; } // with the lock held: it has passed the handshake
        public Task Session { get; set; } = Task.CompletedTask; // never fails
    }

    /// <param name="display">What is shown.</param>
    /// <param name="input">Takes what is typed and pointed at.</param>
    /// <param name="where">Where it listens.</param>
    /// <param name="name">What viewers call the screen.</param>
    /// <exception cref="CannotStartException">It cannot listen there, or the password cannot be read.</exception>
    public VncServer(VgaController display, UserInput input, VncEndpoint where, string name)
    {
        (_display, _input, _name, AsksForPassword) = (display, input, name, where.AsksForPassword);
        if (where.PasswordFile is { } file) _password = ReadPassword(file);
        try
        {
            // An address that others reach comes with a password (VncEndpoint).
            _listener = where.Path is { } path ? LocalSocket.Listen(path, Backlog) : LocalSocket.ListenAnywhere(where.Address!, Backlog);
        }
        catch (Exception e) when (e is SocketException or IOException or UnauthorizedAccessException or ArgumentException)
        {
            throw new CannotStartException($"viewers cannot be listened for at {where}: {HostError.Reason(e)}", e);
        }
        _path = where.Path;
        EndPoint = _listener.LocalEndPoint as IPEndPoint;
        _accepting = Task.Run(AcceptAsync);
    }

    private readonly string? _path;

    /// <summary>Where it listens, with the port that was chosen; null: at a Unix socket.</summary>
    public IPEndPoint? EndPoint { get; }

    /// <summary>What viewers that come from now on must know. VNC goes by 8 bytes of it.</summary>
    /// <param name="word">Null or empty: nobody is let in.</param>
    /// <exception cref="InvalidOperationException">Viewers are not asked for one.</exception>
    public void SetPassword(string? word)
    {
        if (!AsksForPassword) throw new InvalidOperationException("viewers are not asked for a password");
        _password = string.IsNullOrEmpty(word) ? null : Encoding.UTF8.GetBytes(word);
    }

    /// <summary>See <see cref="VncEndpoint.AsksForPassword"/>.</summary>
    public bool AsksForPassword { get; }

    private static byte[] ReadPassword(string file)
    {
        string line;
        try
        {
            using var reader = new StreamReader(file);
            char[] text = new char[LongestPassword];
            line = new string(text, 0, reader.ReadBlock(text, 0, text.Length)).Split('\n')[0].TrimEnd('\r');
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ArgumentException)
        {
            throw new CannotStartException($"the viewers' password cannot be read from {file}: {HostError.Reason(e)}", e);
        }
        return line.Length > 0 ? Encoding.UTF8.GetBytes(line) : throw new CannotStartException($"the first line of {file}, the viewers' password, is empty");
    }

    private async Task AcceptAsync()
    {
        while (await LocalSocket.AcceptAsync(_listener, _cancel.Token).ConfigureAwait(false) is { } socket)
        {
            lock (_lock)
            {
                _connections.RemoveAll(c => c.Session.IsCompleted);
                // Those who say nothing take no viewer's place: the oldest goes.
                Connection[] strangers = [.. _connections.Where(c => !c.IsViewer)];
                for (int n = 0; n <= strangers.Length - MostStrangers; n++) strangers[n].Socket.Dispose();
                var added = new Connection(socket);
                _connections.Add(added);
                added.Session = Task.Run(() => ServeAsync(added));
            }
        }
    }

    /// <summary>It has passed the handshake. False: there are viewers enough.</summary>
    private bool Admit(Connection connection)
    {
        lock (_lock) return connection.IsViewer = _connections.Count(c => c.IsViewer && !c.Session.IsCompleted) < MostViewers;
    }

    private async Task ServeAsync(Connection connection)
    {
        try
        {
            await using var stream = new NetworkStream(connection.Socket, ownsSocket: true);
            if (connection.Socket.AddressFamily != AddressFamily.Unix) connection.Socket.NoDelay = true;
            using var session = new VncSession(stream, _display, _input, AsksForPassword ? () => _password : null, _name, () => Admit(connection));
            await session.RunAsync(_cancel.Token).ConfigureAwait(false);
        }
        catch (Exception) // whatever it is
        {
            // The viewer is gone, or has to go; the VM has nothing to do with it, and waits for this when it ends.
        }
    }

    /// <summary>Listens no more, and parts from all viewers.</summary>
    public void Dispose()
    {
        if (_cancel.IsCancellationRequested) return;
        _cancel.Cancel();
        _listener.Dispose();
        if (_path is { } path) LocalSocket.Remove(path);
        _accepting.Wait();
        Task[] sessions;
        lock (_lock) sessions = [.. _connections.Select(c => c.Session)];
        Task.WaitAll(sessions);
        _cancel.Dispose();
    }
}
