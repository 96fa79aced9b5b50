using System.Runtime.InteropServices;
using System.Text;
using Bunraku.Platform;

namespace Bunraku.Network;

/// <summary>
/// A network interface of the host, of the kind "tap": what the guest sends comes out of it, for the host to route or bridge. Linux,
/// Documentation/networking/tuntap.rst. The host's kernel does checksums and segments where it has to.
/// </summary>
public sealed unsafe class TapNetwork : INetworkBackend
{
    // include/uapi/linux/if_tun.h
    private const uint SetInterface = 0x400454CA, SetOffload = 0x400454D0, SetHeaderLength = 0x400454D8;
    private const ushort Tap = 2, NoPacketInformation = 0x1000, HasHeader = 0x4000;
    private const uint OffloadChecksum = 1, OffloadTcp4 = 2, OffloadTcp6 = 4;
    private const int NameLength = 16, RequestLength = 40, RoundsOfFrames = 64;

    private readonly DeviceFile _file;
    private readonly PollSet _poll = new();
    private readonly EventDescriptor _wake = new();
    private readonly byte[] _buffer = new byte[FrameWork.Length + Frame.Largest], _sending = new byte[FrameWork.Length + Frame.Largest];

    /// <param name="name">Of the interface, which is made if it is not there.</param>
    /// <param name="mtu">Bytes; the interface has its own.</param>
    /// <exception cref="NetworkException">It cannot be had.</exception>
    public TapNetwork(string name, int mtu = 1500)
    {
        Mtu = mtu;
        if (name.Length is 0 or >= NameLength || name.AsSpan().ContainsAnyExceptInRange('!', '~') || name.Contains('/'))
            throw new NetworkException($"'{name}' is no name of a network interface: it has 1 to {NameLength - 1} printable characters");
        const string path = "/dev/net/tun";
        _file = DeviceFile.TryOpen(path, out int errno)
            ?? throw new NetworkException($"tap:{name} needs {path}: {HostError.Reason(errno)}; 'user' needs no device of the host");
        byte* request = stackalloc byte[RequestLength];
        new Span<byte>(request, RequestLength).Clear();
        Encoding.ASCII.GetBytes(name, new Span<byte>(request, NameLength));
        *(ushort*)(request + NameLength) = Tap | NoPacketInformation | HasHeader;
        int headerLength = FrameWork.Length;
        long result = _file.Control(SetInterface, (nuint)request);
        if (result >= 0) result = _file.Control(SetHeaderLength, (nuint)(&headerLength));
        if (result >= 0 && _file.TrySetNonBlocking()) return;
        _file.Dispose();
        string advice = -result == Errno.NotPermitted
            ? $"make the interface for this user before ('ip tuntap add dev {name} mode tap user $USER'), or use 'user'" : "another program may have it";
        throw new NetworkException($"the network interface tap:{name} cannot be had: {HostError.Reason((int)-result)}; {advice}");
    }

    /// <inheritdoc/>
    public int Mtu { get; }

    /// <inheritdoc/>
    public bool HasOffloads => true;

    /// <inheritdoc/>
    public bool TakesLargeFrames => true;

    /// <inheritdoc/>
    public bool IsConnected => true;

    /// <inheritdoc/>
    public void Accept(bool checksums, bool segments4, bool segments6)
    {
        uint offloads = !checksums ? 0 : OffloadChecksum | (segments4 ? OffloadTcp4 : 0) | (segments6 ? OffloadTcp6 : 0);
        _ = _file.Control(SetOffload, offloads);
    }

    /// <inheritdoc/>
    public void Send(in FrameWork work, ReadOnlySpan<byte> frame)
    {
        work.Write(_sending, 0);
        frame.CopyTo(_sending.AsSpan(FrameWork.Length));
        // One write is one frame. A full queue loses it, as a cable does.
        _ = _file.Write(_sending.AsSpan(0, FrameWork.Length + frame.Length));
    }

    /// <inheritdoc/>
    public void Serve(IFrameReceiver receiver, bool waits)
    {
        _poll.Clear();
        int wake = _poll.Add(_wake.Descriptor, PollEvents.In), tap = _poll.Add(_file.Descriptor, PollEvents.In);
        _poll.Wait(waits ? -1 : 0);
        if (_poll.Result(wake) != 0) _wake.Take();
        if ((_poll.Result(tap) & PollEvents.In) == 0) return;
        for (int n = 0; n < RoundsOfFrames && _file.Read(_buffer) is >= FrameWork.Length + Frame.HeaderLength and int length; n++)
            receiver.Receive(FrameWork.Read(_buffer), _buffer.AsSpan(FrameWork.Length, length - FrameWork.Length));
    }

    /// <inheritdoc/>
    public void Wake() => _wake.Signal();

    /// <summary>Gives the interface back. No other thread uses it.</summary>
    public void Dispose()
    {
        _file.Dispose();
        _wake.Dispose();
    }
}
