using System.Net;
using System.Net.Sockets;
using Bunraku.Platform;

namespace Bunraku.Network;

/// <summary>
/// A cable made of UDP packets, one for each frame, as with QEMU's <c>-netdev dgram</c> and <c>-netdev socket</c> with <c>udp=</c> or <c>mcast=</c>: between
/// two machines, or among all that are in a multicast group. Whether anybody is there is not known.
/// </summary>
public sealed class DatagramLink : INetworkBackend
{
    private const int RoundsOfFrames = 64, BufferBytes = 4 << 20;

    private readonly PollSet _poll = new();
    private readonly EventDescriptor _wake = new();
    private readonly byte[] _buffer = new byte[Frame.Largest];
    private readonly Socket _in, _out;
    private readonly SocketAddress? _own; // where our own frames come from, which a group gives back
    private readonly SocketAddress _from;

    private DatagramLink(Socket @in, Socket @out, int mtu)
    {
        (_in, _out, Mtu) = (@in, @out, mtu);
        (_in.Blocking, _out.Blocking) = (false, false);
        if (@in != @out) _own = @out.LocalEndPoint!.Serialize();
        _from = new SocketAddress(@in.AddressFamily);
    }

    /// <summary>Between two machines.</summary>
    /// <param name="local">Where frames come in.</param>
    /// <param name="remote">Where they go; frames from elsewhere are not for us.</param>
    /// <param name="mtu">Bytes.</param>
    /// <exception cref="NetworkException">The address cannot be had.</exception>
    public static DatagramLink Pair(IPEndPoint local, IPEndPoint remote, int mtu)
    {
        Socket socket = NewSocket(local.AddressFamily);
        try
        {
            socket.Bind(local);
            socket.Connect(remote);
            return new DatagramLink(socket, socket, mtu);
        }
        catch (SocketException e)
        {
            socket.Dispose();
            throw new NetworkException($"the link udp:{local}-{remote} cannot be had: {e.Message.ReplaceLineEndings(" ")}; choose another port or address", e);
        }
    }

    /// <summary>Among all machines of a multicast group, which are on one wire.</summary>
    /// <param name="group">Of IPv4, with its port.</param>
    /// <param name="local">Address of the interface on which the group is; null: the host's choice.</param>
    /// <param name="mtu">Bytes.</param>
    /// <exception cref="NetworkException">The group cannot be had there.</exception>
    public static DatagramLink Multicast(IPEndPoint group, IPAddress? local, int mtu)
    {
        Socket incoming = NewSocket(AddressFamily.InterNetwork), outgoing = NewSocket(AddressFamily.InterNetwork);
        try
        {
            // Others of this host are in the group as well.
            incoming.SetSocketOption(SocketOptionLevel.Socket, SocketOptionName.ReuseAddress, true);
            incoming.Bind(group);
            incoming.SetSocketOption(SocketOptionLevel.IP, SocketOptionName.AddMembership, new MulticastOption(group.Address, local ?? IPAddress.Any));
            // A socket of its own, so that our frames can be told from those of others of this host. They go no further than the next router.
            if (local is not null) outgoing.SetSocketOption(SocketOptionLevel.IP, SocketOptionName.MulticastInterface, local.GetAddressBytes());
            outgoing.Connect(group);
            return new DatagramLink(incoming, outgoing, mtu);
        }
        catch (SocketException e)
        {
            incoming.Dispose();
            outgoing.Dispose();
            string reason = e.Message.ReplaceLineEndings(" ");
            throw new NetworkException($"the link mcast:{group} cannot be had: {reason}; choose another group, port or interface", e);
        }
    }

    private static Socket NewSocket(AddressFamily family) =>
        new(family, SocketType.Dgram, ProtocolType.Udp) { ReceiveBufferSize = BufferBytes, SendBufferSize = BufferBytes };

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
    public void Send(in FrameWork work, ReadOnlySpan<byte> frame) => _out.Send(frame, SocketFlags.None, out _); // refused, too long or full: it is lost

    /// <inheritdoc/>
    public void Serve(IFrameReceiver receiver, bool waits)
    {
        _poll.Clear();
        int wake = _poll.Add(_wake.Descriptor, PollEvents.In), socket = _poll.Add((int)_in.Handle, PollEvents.In);
        _poll.Wait(waits ? -1 : 0);
        if (_poll.Result(wake) != 0) _wake.Take();
        if (_poll.Result(socket) == 0) return;
        for (int n = 0; n < RoundsOfFrames; n++)
        {
            if (n > 0 && _in.Available == 0 || Take() is not { } length) return;
            if (length >= Frame.HeaderLength) receiver.Receive(default, _buffer.AsSpan(0, length));
        }
    }

    /// <summary>Length of the next frame; 0: it is not for us, or went wrong. Null: there is none.</summary>
    private int? Take()
    {
        try
        {
            if (_own is null)
            {
                int length = _in.Receive(_buffer, SocketFlags.None, out SocketError error);
                return error == SocketError.WouldBlock ? null : error == SocketError.Success ? length : 0;
            }
            int received = _in.ReceiveFrom(_buffer, SocketFlags.None, _from);
            return _from.Equals(_own) ? 0 : received;
        }
        catch (SocketException e)
        {
            return e.SocketErrorCode == SocketError.WouldBlock ? null : 0;
        }
    }

    /// <inheritdoc/>
    public void Wake() => _wake.Signal();

    /// <summary>Ends the link. No other thread uses it.</summary>
    public void Dispose()
    {
        _in.Dispose();
        _out.Dispose();
        _wake.Dispose();
    }
}
