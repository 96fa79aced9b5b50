using System.Net;
using System.Net.Sockets;
using Bunraku.Platform;

namespace Bunraku.Cli.Qemu.Characters;

/// <summary>
/// A socket with one peer at a time, Unix or TCP. Who listens takes the next one when the first has gone; who connects may try again. What the guest sends
/// while
/// nobody is there is lost.
/// </summary>
internal sealed class SocketCharacters : CharacterDevice
{
    private const int Buffer = 64 << 10, Backlog = 1;
    private static readonly TimeSpan s_lastWrite = TimeSpan.FromSeconds(1);

    private readonly Socket? _listener;
    private readonly OutputPump _pump;
    private readonly CancellationTokenSource _end = new();
    private Thread? _thread;
    private volatile Socket? _peer;

    /// <summary>Listens, or connects; waits for a peer where that was asked for.</summary>
    /// <param name="cancel">Ends that.</param>
    /// <exception cref="CannotStartException">It cannot.</exception>
    public SocketCharacters(CharacterSpec spec, CancellationToken cancel) : base(spec)
    {
        try
        {
            if (!spec.IsServer) _peer = spec.Reconnect > 0 ? TryConnect() : Connect();
            else _listener = spec.Path is { } path ? LocalSocket.Listen(path, Backlog) : LocalSocket.Listen(spec.Address!, Backlog);
            if (spec.Waits)
            {
                Console.Error.WriteLine($"bunraku: waiting for a connection to {Place}");
                _peer = _listener!.AcceptAsync(cancel).AsTask().GetAwaiter().GetResult();
            }
        }
        catch (Exception e) when (e is SocketException or IOException or UnauthorizedAccessException or ArgumentException)
        {
            _listener?.Dispose();
            throw new CannotStartException($"the socket {Place} of '{spec.Id}' cannot be had: {e.Message.ReplaceLineEndings(" ")}", e);
        }
        _pump = new OutputPump(SendAll, _ => { });
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
                if ((_peer ??= Next()) is not { } peer) return;
                Connected?.Invoke();
                while (peer.Receive(buffer) is > 0 and int n && Take(buffer.AsSpan(0, n)))
                {
                }
            }
            catch (Exception e) when (e is SocketException or ObjectDisposedException or OperationCanceledException)
            {
                // It went away, or the end is near.
            }
            Drop(_peer);
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

    private void Drop(Socket? peer)
    {
        if (peer is null || Interlocked.CompareExchange(ref _peer!, null, peer) != peer) return;
        peer.Dispose();
    }

    /// <summary>On the pump's thread.</summary>
    private int SendAll(ReadOnlyMemory<byte> bytes)
    {
        if (_peer is not { } peer) return 0;
        try
        {
            for (ReadOnlySpan<byte> rest = bytes.Span; rest.Length > 0;) rest = rest[peer.Send(rest)..];
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            // The reader sees it, too, and makes room for the next one.
        }
        return 0;
    }

    protected override void Send(ReadOnlySpan<byte> bytes)
    {
        if (_peer is not null && !(MayLose && _pump.IsFull)) _pump.Write(bytes);
    }

    public override void Throttle()
    {
        if (!MayLose) _pump.Throttle();
    }

    public override void Release() => _pump.Release();

    public override void Flush() => Task.Run(_pump.Flush).Wait(s_lastWrite);

    public override void Dispose()
    {
        Flush();
        _end.Cancel();
        _listener?.Dispose();
        if (_peer is { } peer)
        {
            try
            {
                peer.Shutdown(SocketShutdown.Both); // ends a read and a write that wait
            }
            catch (Exception e) when (e is SocketException or ObjectDisposedException)
            {
                // It is gone.
            }
            Drop(peer);
        }
        _thread?.Join();
        _pump.Dispose();
        if (Spec is { IsServer: true, Path: { } path }) LocalSocket.Remove(path);
        _end.Dispose();
        base.Dispose();
    }
}
