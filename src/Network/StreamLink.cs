using System.Buffers.Binary;
using System.Net;
using System.Net.Sockets;
using Bunraku.Platform;

namespace Bunraku.Network;

/// <summary>
/// A cable between two machines: a stream, of a Unix socket or of TCP. Each frame goes behind its length, 32 bits, the most significant first, as with QEMU's
/// <c>-netdev stream</c> and <c>-netdev socket</c>. Without a peer the link is down.
/// </summary>
public sealed class StreamLink : INetworkBackend
{
    private const int LengthBytes = 4, MostUnsent = 1 << 20, Backlog = 1;
    private static readonly TimeSpan s_connecting = TimeSpan.FromSeconds(10);

    private readonly PollSet _poll = new();
    private readonly EventDescriptor _wake = new();
    private readonly string? _path; // of the Unix socket that is ours
    private readonly byte[] _buffer = new byte[LengthBytes + Frame.Largest];
    private readonly List<byte> _unsent = []; // what the peer has not taken yet
    private readonly Socket? _listener;
    private Socket? _peer;
    private int _filled;
    private bool _peerGone;

    private StreamLink(Socket? listener, Socket? peer, string? path, int mtu)
    {
        (_listener, _peer, _path, Mtu) = (listener, peer, path, mtu);
        _listener?.Blocking = false;
        if (peer is not null) Prepare(peer);
    }

    /// <summary>By a Unix socket, at which who finds nobody there listens, and the second one connects.</summary>
    /// <param name="path">Of the socket.</param>
    /// <param name="mtu">Bytes.</param>
    /// <exception cref="NetworkException">It can neither connect nor listen.</exception>
    public static StreamLink Unix(string path, int mtu)
    {
        try
        {
            var end = new UnixDomainSocketEndPoint(path);
            var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
            try
            {
                socket.Connect(end);
                return new StreamLink(null, socket, null, mtu);
            }
            // A file that is no socket refuses as well, and is not ours to delete.
            catch (SocketException) when (!File.Exists(path) || HostFile.IsSocket(path))
            {
                socket.Dispose();
            }
            return new StreamLink(LocalSocket.Listen(path, Backlog), null, path, mtu);
        }
        catch (Exception e) when (e is SocketException or IOException or UnauthorizedAccessException or ArgumentException)
        {
            throw new NetworkException($"the link unix:{path} can neither be connected nor be listened on: {e.Message.ReplaceLineEndings(" ")}", e);
        }
    }

    /// <summary>By TCP: waits at a port for the other one, and again when that has gone.</summary>
    /// <param name="where">Port 0: any that is free.</param>
    /// <param name="mtu">Bytes.</param>
    /// <exception cref="NetworkException">The address cannot be had.</exception>
    public static StreamLink Listen(IPEndPoint where, int mtu)
    {
        try
        {
            return new StreamLink(LocalSocket.ListenAnywhere(where, Backlog), null, null, mtu);
        }
        catch (SocketException e)
        {
            throw new NetworkException($"the link listen:{where} cannot be listened on: {HostError.Reason(e)}; choose another port or address", e);
        }
    }

    /// <summary>By TCP: connects to the other one, which must be there. When that goes, the link stays down.</summary>
    /// <param name="where">The other one listens there.</param>
    /// <param name="mtu">Bytes.</param>
    /// <exception cref="NetworkException">Nobody answers.</exception>
    public static StreamLink Connect(IPEndPoint where, int mtu)
    {
        var socket = new Socket(where.AddressFamily, SocketType.Stream, ProtocolType.Tcp);
        try
        {
            using var cancel = new CancellationTokenSource(s_connecting);
            socket.ConnectAsync(where, cancel.Token).AsTask().GetAwaiter().GetResult();
            return new StreamLink(null, socket, null, mtu);
        }
        catch (Exception e) when (e is SocketException or OperationCanceledException)
        {
            socket.Dispose();
            string reason = e is SocketException ? HostError.Reason(e) : "nobody answers";
            throw new NetworkException($"the link connect:{where} cannot be had: {reason}; start the machine that listens there first", e);
        }
    }

    /// <summary>Where it listens by TCP, with the port that was chosen; null: it does not.</summary>
    public IPEndPoint? EndPoint => _listener?.LocalEndPoint as IPEndPoint;

    private static void Prepare(Socket peer)
    {
        peer.Blocking = false;
        if (peer.AddressFamily != AddressFamily.Unix) peer.NoDelay = true;
    }

    /// <inheritdoc/>
    public int Mtu { get; }

    /// <inheritdoc/>
    public bool HasOffloads => false;

    /// <inheritdoc/>
    public bool TakesLargeFrames => false;

    /// <inheritdoc/>
    public bool IsConnected => _peer is not null;

    /// <inheritdoc/>
    public void Accept(bool checksums, bool segments4, bool segments6)
    {
    }

    /// <inheritdoc/>
    public void Send(in FrameWork work, ReadOnlySpan<byte> frame)
    {
        if (_peer is null || _unsent.Count > MostUnsent) return;
        Span<byte> length = stackalloc byte[LengthBytes];
        BinaryPrimitives.WriteInt32BigEndian(length, frame.Length);
        _unsent.AddRange(length);
        _unsent.AddRange(frame);
        Flush();
    }

    private void Flush()
    {
        if (_peer is null || _unsent.Count == 0) return;
        int sent = _peer.Send(System.Runtime.InteropServices.CollectionsMarshal.AsSpan(_unsent), SocketFlags.None, out SocketError error);
        if (error == SocketError.Success) _unsent.RemoveRange(0, sent);
        else if (error != SocketError.WouldBlock) _peerGone = true;
    }

    /// <inheritdoc/>
    public void Serve(IFrameReceiver receiver, bool waits)
    {
        _poll.Clear();
        int wake = _poll.Add(_wake.Descriptor, PollEvents.In), peer = -1, listener = -1;
        if (_peer is not null) peer = _poll.Add((int)_peer.Handle, PollEvents.In | (_unsent.Count > 0 ? PollEvents.Out : 0));
        else if (_listener is not null) listener = _poll.Add((int)_listener.Handle, PollEvents.In);
        _poll.Wait(waits && !_peerGone ? -1 : 0);
        if (_poll.Result(wake) != 0) _wake.Take();
        if (_poll.Result(listener) != 0) Welcome(receiver);
        if (_poll.Result(peer).HasFlag(PollEvents.Out)) Flush();
        if (_poll.Result(peer) != 0 && (_poll.Result(peer) & ~PollEvents.Out) != 0) Read(receiver);
        if (_peerGone) Part(receiver);
    }

    private void Welcome(IFrameReceiver receiver)
    {
        try
        {
            Socket peer = _listener!.Accept();
            Prepare(peer);
            _peer = peer;
            receiver.ConnectionChanged();
        }
        catch (SocketException)
        {
            // It went away before.
        }
    }

    private void Read(IFrameReceiver receiver)
    {
        int n = _peer!.Receive(_buffer.AsSpan(_filled), SocketFlags.None, out SocketError error);
        if (error == SocketError.WouldBlock) return;
        if (error != SocketError.Success || n == 0)
        {
            _peerGone = true;
            return;
        }
        _filled += n;
        int at = 0;
        while (_filled - at >= LengthBytes)
        {
            uint length = BinaryPrimitives.ReadUInt32BigEndian(_buffer.AsSpan(at));
            if (length > Frame.Largest)
            {
                _peerGone = true; // whoever it is, it does not send frames
                return;
            }
            if (_filled - at < LengthBytes + (int)length) break;
            if (length >= Frame.HeaderLength) receiver.Receive(default, _buffer.AsSpan(at + LengthBytes, (int)length));
            at += LengthBytes + (int)length;
        }
        _buffer.AsSpan(at, _filled - at).CopyTo(_buffer);
        _filled -= at;
    }

    private void Part(IFrameReceiver receiver)
    {
        _peer?.Dispose();
        (_peer, _peerGone, _filled) = (null, false, 0);
        _unsent.Clear();
        receiver.ConnectionChanged();
    }

    /// <inheritdoc/>
    public void Wake() => _wake.Signal();

    /// <summary>Ends the link. No other thread uses it.</summary>
    public void Dispose()
    {
        _peer?.Dispose();
        _listener?.Dispose();
        if (_path is not null) LocalSocket.Remove(_path);
        _wake.Dispose();
    }
}
