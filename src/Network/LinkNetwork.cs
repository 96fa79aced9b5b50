using System.Buffers.Binary;
using System.Net;
using System.Net.Sockets;
using Bunraku.Platform;

namespace Bunraku.Network;

/// <summary>
/// A cable between two machines: a Unix socket, on which the second one that comes connects to the first. Each frame goes behind its length, 32 bits, the
/// most significant first, as with QEMU's <c>-netdev stream</c>. Without a peer the link is down.
/// </summary>
public sealed class UnixLink : INetworkBackend
{
    private const int LengthBytes = 4, MostUnsent = 1 << 20, Backlog = 1;

    private readonly PollSet _poll = new();
    private readonly EventDescriptor _wake = new();
    private readonly string _path;
    private readonly byte[] _buffer = new byte[LengthBytes + Frame.Largest];
    private readonly List<byte> _unsent = []; // what the peer has not taken yet
    private Socket? _listener, _peer;
    private int _filled;

    /// <param name="path">Of the socket. Who finds nobody there listens.</param>
    /// <param name="mtu">Bytes.</param>
    /// <exception cref="NetworkException">It can neither connect nor listen.</exception>
    public UnixLink(string path, int mtu = 1500)
    {
        (_path, Mtu) = (path, mtu);
        try
        {
            var end = new UnixDomainSocketEndPoint(path);
            var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
            try
            {
                socket.Connect(end);
                socket.Blocking = false;
                _peer = socket;
                return;
            }
            // A file that is no socket refuses as well, and is not ours to delete.
            catch (SocketException) when (!File.Exists(path) || HostFile.IsSocket(path))
            {
                socket.Dispose();
            }
            _listener = LocalSocket.Listen(path, Backlog); // from here on the file is ours
            _listener.Blocking = false;
        }
        catch (Exception e) when (e is SocketException or IOException or UnauthorizedAccessException or ArgumentException)
        {
            Dispose();
            throw new NetworkException($"the link unix:{path} can neither be connected nor be listened on: {e.Message.ReplaceLineEndings(" ")}", e);
        }
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

    private bool _peerGone;

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
            _peer = _listener!.Accept();
            _peer.Blocking = false;
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
        if (_listener is not null)
        {
            _listener.Dispose();
            LocalSocket.Remove(_path);
        }
        _wake.Dispose();
    }
}

/// <summary>A cable made of UDP packets, one for each frame, as with QEMU's <c>-netdev dgram</c>. Whether anybody is there is not known.</summary>
public sealed class UdpLink : INetworkBackend
{
    private const int RoundsOfFrames = 64, BufferBytes = 4 << 20;

    private readonly PollSet _poll = new();
    private readonly EventDescriptor _wake = new();
    private readonly byte[] _buffer = new byte[Frame.Largest];
    private readonly Socket _socket;

    /// <param name="local">Where frames come in.</param>
    /// <param name="remote">Where they go; frames from elsewhere are not for us.</param>
    /// <param name="mtu">Bytes.</param>
    /// <exception cref="NetworkException">The address cannot be had.</exception>
    public UdpLink(IPEndPoint local, IPEndPoint remote, int mtu = 1500)
    {
        Mtu = mtu;
        _socket = new Socket(local.AddressFamily, SocketType.Dgram, ProtocolType.Udp) { ReceiveBufferSize = BufferBytes, SendBufferSize = BufferBytes };
        try
        {
            _socket.Bind(local);
            _socket.Connect(remote);
            _socket.Blocking = false;
        }
        catch (SocketException e)
        {
            Dispose();
            throw new NetworkException($"the link udp:{local}-{remote} cannot be had: {e.Message.ReplaceLineEndings(" ")}; choose another port or address", e);
        }
    }

    /// <inheritdoc/>
    public int Mtu { get; }

    /// <inheritdoc/>
    public bool HasOffloads => false;

    /// <inheritdoc/>
    public bool TakesLargeFrames => false;

    /// <inheritdoc/>
    public bool IsConnected => true;

    /// <inheritdoc/>
    public void Accept(bool checksums, bool segments4, bool segments6)
    {
    }

    /// <inheritdoc/>
    public void Send(in FrameWork work, ReadOnlySpan<byte> frame) => _socket.Send(frame, SocketFlags.None, out _); // refused, too long or full: it is lost

    /// <inheritdoc/>
    public void Serve(IFrameReceiver receiver, bool waits)
    {
        _poll.Clear();
        int wake = _poll.Add(_wake.Descriptor, PollEvents.In), socket = _poll.Add((int)_socket.Handle, PollEvents.In);
        _poll.Wait(waits ? -1 : 0);
        if (_poll.Result(wake) != 0) _wake.Take();
        if (_poll.Result(socket) == 0) return;
        for (int n = 0; n < RoundsOfFrames; n++)
        {
            int length = _socket.Receive(_buffer, SocketFlags.None, out SocketError error);
            if (error == SocketError.WouldBlock) return;
            if (error == SocketError.Success && length >= Frame.HeaderLength) receiver.Receive(default, _buffer.AsSpan(0, length));
        }
    }

    /// <inheritdoc/>
    public void Wake() => _wake.Signal();

    /// <summary>Ends the link. No other thread uses it.</summary>
    public void Dispose()
    {
        _socket.Dispose();
        _wake.Dispose();
    }
}
