using System.Net;
using System.Net.Sockets;
using Bunraku.Platform;

namespace Bunraku.Cli.Qemu.Characters;

/// <summary>
/// A socket with one peer at a time, Unix or TCP. Who listens takes the next one when the first has gone; who connects may try again. What the guest sends
/// while nobody is there is lost.
/// </summary>
internal sealed class SocketCharacters : CharacterDevice
{
    private const int Buffer = 64 << 10, Backlog = 1;
    private static readonly TimeSpan s_lastWrite = TimeSpan.FromSeconds(1);

    private readonly Socket? _listener;
    private readonly CancellationTokenSource _end = new();
    private Thread? _thread;
    private volatile Peer? _peer;
    private volatile bool _released;

    /// <summary>Listens, or connects; waits for a peer where that was asked for.</summary>
    /// <param name="cancel">Ends that.</param>
    /// <exception cref="CannotStartException">It cannot.</exception>
    public SocketCharacters(CharacterSpec spec, CancellationToken cancel) : base(spec)
    {
        try
        {
            if (!spec.IsServer) Attach(spec.Reconnect > 0 ? TryConnect() : Connect());
            else _listener = spec.Path is { } path ? LocalSocket.Listen(path, Backlog) : LocalSocket.Listen(spec.Address!, Backlog);
            if (spec.Waits)
            {
                Console.Error.WriteLine($"bunraku: waiting for a connection to {Place}");
                Attach(_listener!.AcceptAsync(cancel).AsTask().GetAwaiter().GetResult());
            }
        }
        catch (Exception e) when (e is SocketException or IOException or UnauthorizedAccessException or ArgumentException)
        {
            _listener?.Dispose();
            throw new CannotStartException($"the socket {Place} of '{spec.Id}' cannot be had: {e.Message.ReplaceLineEndings(" ")}", e);
        }
    }

    private string Place => Spec.Path is { } path ? $"unix:{path}" : $"tcp:{Spec.Address}";

    private Socket Connect()
    {
        var socket = Spec.Path is null ? new Socket(Spec.Address!.AddressFamily, SocketType.Stream, ProtocolType.Tcp)
            : new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            socket.Connect(Spec.Path is { } path ? new UnixDomainSocketEndPoint(path) : Spec.Address!);
            return socket;
        }
        catch
        {
            socket.Dispose();
            throw;
        }
    }

    private Socket? TryConnect()
    {
        try
        {
            return Connect();
        }
        catch (SocketException)
        {
            return null;
        }
    }

    public override void Start()
    {
        _thread = new Thread(Run) { Name = $"input of {Spec.Id}", IsBackground = true };
        _thread.Start();
    }

    private void Run()
    {
        byte[] buffer = new byte[Buffer];
        while (!_end.IsCancellationRequested)
        {
            try
            {
                if ((_peer ?? Attach(Next())) is not { } peer) return;
                Connected?.Invoke();
                while (peer.Receive(buffer) is > 0 and int n && Take(buffer.AsSpan(0, n)))
                {
                }
                Flush(); // who has only ended its own direction still reads
            }
            catch (Exception e) when (e is SocketException or ObjectDisposedException or OperationCanceledException)
            {
                // It went away, or the end is near.
            }
            Drop();
            if (_listener is null && Spec.Reconnect == 0) return;
        }
    }

    private Socket? Next()
    {
        if (_listener is not null) return _listener.AcceptAsync(_end.Token).AsTask().GetAwaiter().GetResult();
        while (!_end.Token.WaitHandle.WaitOne(TimeSpan.FromSeconds(Spec.Reconnect)))
        {
            if (TryConnect() is { } socket) return socket;
        }
        return null;
    }

    private Peer? Attach(Socket? socket)
    {
        if (socket is null) return null;
        var peer = new Peer(socket);
        _peer = peer;
        Interlocked.MemoryBarrier(); // whoever releases or ends sees the peer, or is seen here
        if (_released) peer.Pump.Release();
        if (_end.IsCancellationRequested) peer.Close();
        return peer;
    }

    private void Drop()
    {
        if (_peer is not { } peer) return;
        Disconnected?.Invoke();
        _peer = null;
        peer.Dispose();
    }

    protected override void Send(ReadOnlySpan<byte> bytes)
    {
        if (_peer is { } peer && !(MayLose && peer.Pump.IsFull)) peer.Pump.Write(bytes);
    }

    public override bool IsFull => _peer is { Pump.IsFull: true };

    public override bool AwaitRoom()
    {
        if (MayLose) return true;
        if (_peer is not { } peer) return false;
        peer.Pump.Throttle();
        return !peer.Pump.IsFull; // else it waits no more: the end, or nobody is there
    }

    public override void Disconnect() => _peer?.Close();

    public override bool Throttle(int milliseconds) => MayLose || _peer?.Pump.Throttle(milliseconds) is not false;

    public override void Release()
    {
        _released = true;
        Interlocked.MemoryBarrier();
        _peer?.Pump.Release();
    }

    public override void Flush()
    {
        if (_peer is { } peer) Task.Run(peer.Pump.Flush).Wait(s_lastWrite);
    }

    public override void Dispose()
    {
        Flush();
        _end.Cancel();
        _listener?.Dispose();
        Interlocked.MemoryBarrier();
        Release();
        _peer?.Close();
        _thread?.Join();
        Drop();
        if (Spec is { IsServer: true, Path: { } path }) LocalSocket.Remove(path);
        _end.Dispose();
        base.Dispose();
    }

    /// <summary>Who is at the other end. What is queued for it goes with it: the next one gets nothing of that.</summary>
    private sealed class Peer : IDisposable
    {
        private readonly Socket _socket;

        public Peer(Socket socket)
        {
            _socket = socket;
            Pump = new OutputPump(SendAll, _ => { });
        }

        public OutputPump Pump { get; }

        public int Receive(byte[] buffer) => _socket.Receive(buffer);

        /// <summary>On the pump's thread.</summary>
        private int SendAll(ReadOnlyMemory<byte> bytes)
        {
            try
            {
                for (ReadOnlySpan<byte> rest = bytes.Span; rest.Length > 0;) rest = rest[_socket.Send(rest)..];
                return 0;
            }
            catch (Exception e) when (e is SocketException or ObjectDisposedException)
            {
                return 1; // the reader sees it, too, and makes room for the next one
            }
        }

        /// <summary>Ends a read and a write that wait. Any thread.</summary>
        public void Close()
        {
            try
            {
                _socket.Shutdown(SocketShutdown.Both);
            }
            catch (Exception e) when (e is SocketException or ObjectDisposedException)
            {
                // It is gone.
            }
        }

        public void Dispose()
        {
            Close();
            _socket.Dispose();
            Pump.Dispose();
        }
    }
}
