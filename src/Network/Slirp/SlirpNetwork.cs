using System.Buffers.Binary;
using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using Bunraku.Platform;

namespace Bunraku.Network.Slirp;

/// <summary>
/// A network that needs no privileges: libslirp, a TCP/IP stack in this process, turns what the guest sends into sockets of the host. The guest is 10.0.2.15
/// (by DHCP) and fec0::/64 (by router advertisements), the host 10.0.2.2 and fec0::2, the name server 10.0.2.3 and fec0::3, as with QEMU, unless others
/// are asked for.
/// </summary>
/// <remarks>
/// The library is the distribution's. What the guest sends it is any bytes; we give it whole frames of bounded length, and none that is for an address of the
/// host's loopback. Invariant: <see cref="_slirp"/> is used by one thread at a time, and the handle that its callbacks get leads to this object until the
/// library has forgotten it.
/// </remarks>
public sealed unsafe class SlirpNetwork : INetworkBackend
{
    private static readonly IPAddress s_mask = IPAddress.Parse("255.255.255.0"), s_prefix6 = IPAddress.Parse("fec0::"),
        s_host6 = IPAddress.Parse("fec0::2"), s_nameServer6 = IPAddress.Parse("fec0::3");

    /// <summary>The library sets up its own statics when the first network is made.</summary>
    private static readonly Lock s_making = new();

    private const int PollIn = 1, PollOut = 2, PollUrgent = 4, PollError = 8, PollHangup = 16; // SLIRP_POLL_IN and so on

    private readonly LibslirpFunctions _library;
    private readonly PollSet _poll = new();
    private readonly EventDescriptor _wake = new();
    private readonly List<Alarm?> _alarms = [];
    private GCHandle _self;
    private void* _slirp;
    private SlirpCallbacks* _callbacks;
    private IFrameReceiver? _receiver;

    /// <exception cref="NetworkException">The library is missing, or a port cannot be had.</exception>
    public SlirpNetwork(SlirpOptions options)
    {
        if (options.Problem is { } problem) throw new NetworkException($"network user: {problem}");
        _library = new LibslirpFunctions();
        Mtu = options.Mtu;
        _self = GCHandle.Alloc(this);
        _callbacks = (SlirpCallbacks*)NativeMemory.AllocZeroed((nuint)sizeof(SlirpCallbacks));
        *_callbacks = new SlirpCallbacks
        {
            SendPacket = &SendPacket,
            GuestError = &GuestError,
            Clock = &Clock,
            NewTimer = &NewTimer,
            FreeTimer = &FreeTimer,
            SetTimer = &SetTimer,
            Register = &Nothing,
            Unregister = &Nothing,
            Notify = &Notify,
        };
        var configuration = new SlirpConfiguration
        {
            Version = 1,
            Restricted = options.Restricted ? 1 : 0,
            Ip4 = 1,
            Network = Ip4(options.Network),
            Mask = Ip4(s_mask),
            Host = Ip4(options.HostAddress),
            Ip6 = (byte)(options.Ip6 ? 1 : 0),
            Prefix = Ip6Address.Of(s_prefix6),
            PrefixLength = 64,
            Host6 = Ip6Address.Of(s_host6),
            FirstDhcp = Ip4(options.FirstDhcpAddress),
            NameServer = Ip4(options.NameServerAddress),
            NameServer6 = Ip6Address.Of(s_nameServer6),
            Mtu = (nuint)options.Mtu,
            Mru = SlirpOptions.DefaultMtu, // segments of the guest's that its card would have cut
            NoHostLoopback = (byte)(options.HostLoopback ? 0 : 1),
        };
        lock (s_making) _slirp = _library.New(&configuration, _callbacks, (void*)GCHandle.ToIntPtr(_self));
        if (_slirp == null)
        {
            Dispose();
            throw new NetworkException("libslirp makes no network, and does not say why");
        }
        foreach (HostForward forward in options.Forwards) Add(forward);
    }

    private static uint Ip4(IPAddress address) => MemoryMarshal.Read<uint>(address.GetAddressBytes());

    private void Add(HostForward forward)
    {
        const int udp = 1, only6 = 2;
        SocketAddress host = forward.Host.Serialize(), guest = forward.Guest.Serialize();
        int result;
        fixed (byte* h = host.Buffer.Span, g = guest.Buffer.Span)
        {
            int flags = (forward.IsUdp ? udp : 0) | (forward.Host.AddressFamily == AddressFamily.InterNetworkV6 ? only6 : 0);
            Marshal.SetLastSystemError(0);
            result = _library.AddHostForward(_slirp, h, host.Size, g, guest.Size, flags);
        }
        if (result == 0) return;
        int errno = Marshal.GetLastSystemError();
        Dispose();
        string reason = errno == 0 ? "libslirp refuses it" : HostError.Reason(errno);
        throw new NetworkException($"hostfwd={forward}: the host does not listen on {forward.Host}: {reason}; choose another port or address");
    }

    /// <inheritdoc/>
    public int Mtu { get; }

    /// <inheritdoc/>
    public bool HasOffloads => false;

    /// <inheritdoc/>
    public bool TakesLargeFrames => true;

    /// <inheritdoc/>
    public bool IsConnected => true;

    /// <inheritdoc/>
    public void Accept(bool checksums, bool segments4, bool segments6)
    {
    }

    /// <inheritdoc/>
    public void Send(in FrameWork work, ReadOnlySpan<byte> frame)
    {
        if (frame.Length > Frame.Largest || IsForLoopback(frame)) return;
        fixed (byte* p = frame) _library.Input(_slirp, p, frame.Length);
    }

    /// <summary>
    /// The library connects to whatever address a packet is for. The host's loopback is refused here, whatever <see cref="SlirpOptions.HostLoopback"/>: that
    /// is about 10.0.2.2. Linux takes all of 0.0.0.0/8 for itself as well, and ::.
    /// </summary>
    internal static bool IsForLoopback(ReadOnlySpan<byte> frame)
    {
        (ushort type, int packet) = Frame.Packet(frame);
        ReadOnlySpan<byte> to = type switch
        {
            Frame.Ip4 when frame.Length >= packet + 20 => frame.Slice(packet + 16, 4),
            Frame.Ip6 when frame.Length >= packet + 40 => frame.Slice(packet + 24, 16),
            _ => [],
        };
        if (to.Length == 16)
        {
            // ::, ::1, and IPv4 addresses inside IPv6: RFC 4291 section 2.5.5.
            if (to[..10].ContainsAnyExcept((byte)0)) return false;
            ushort word = BinaryPrimitives.ReadUInt16BigEndian(to[10..]);
            if (word is not 0 and not 0xFFFF) return false;
            return to[12] is 0 or 127;
        }
        return to.Length == 4 && to[0] is 0 or 127;
    }

    /// <inheritdoc/>
    public void Serve(IFrameReceiver receiver, bool waits)
    {
        _receiver = receiver;
        const uint longest = 60_000;
        uint timeout = waits ? longest : 0;
        _poll.Clear();
        _poll.Add(_wake.Descriptor, PollEvents.In);
        _library.PollFill(_slirp, &timeout, &AddPoll, (void*)GCHandle.ToIntPtr(_self));
        long now = Milliseconds;
        foreach (Alarm? alarm in _alarms)
        {
            if (alarm?.At is { } at) timeout = (uint)Math.Clamp(at - now, 0, timeout);
        }
        bool failed = !_poll.Wait(waits ? (int)Math.Min(timeout, longest) : 0);
        if (!failed && _poll.Result(0) != 0) _wake.Take();
        _library.PollDone(_slirp, failed ? 1 : 0, &Result, (void*)GCHandle.ToIntPtr(_self));
        now = Milliseconds;
        foreach (Alarm? alarm in _alarms)
        {
            if (alarm?.At is not { } at || at > now) continue;
            alarm.At = null;
            alarm.Ring();
        }
    }

    /// <inheritdoc/>
    public void Wake() => _wake.Signal();

    /// <summary>Closes all connections. No other thread uses it.</summary>
    public void Dispose()
    {
        if (_slirp != null) _library.Cleanup(_slirp);
        _slirp = null;
        if (_self.IsAllocated) _self.Free();
        NativeMemory.Free(_callbacks);
        _callbacks = null;
        _wake.Dispose();
    }

    private static long Milliseconds => Stopwatch.GetTimestamp() / (Stopwatch.Frequency / 1000);

    private static SlirpNetwork Self(void* opaque) => (SlirpNetwork)GCHandle.FromIntPtr((nint)opaque).Target!;

    /// <summary>A timer of the library's.</summary>
    private sealed class Alarm(delegate* unmanaged<void*, void> call, nint opaque)
    {
        private readonly delegate* unmanaged<void*, void> _call = call;

        /// <summary>When it rings, in ms; null: not.</summary>
        public long? At { get; set; }

        public void Ring() => _call((void*)opaque);
    }

    [UnmanagedCallersOnly]
    private static nint SendPacket(byte* bytes, nuint length, void* opaque)
    {
        if (length is >= Frame.HeaderLength and <= Frame.Largest)
            Self(opaque)._receiver?.Receive(new FrameWork(FrameFlags.ChecksumValid, default, 0, 0, 0, 0), new ReadOnlySpan<byte>(bytes, (int)length));
        return (nint)length;
    }

    [UnmanagedCallersOnly]
    private static void GuestError(byte* message, void* opaque)
    {
    }

    /// <summary>The host's time for all: the library keeps it in a variable that all its networks share.</summary>
    [UnmanagedCallersOnly]
    private static long Clock(void* opaque) => Milliseconds * 1_000_000;

    [UnmanagedCallersOnly]
    private static void* NewTimer(delegate* unmanaged<void*, void> call, void* argument, void* opaque)
    {
        SlirpNetwork self = Self(opaque);
        self._alarms.Add(new Alarm(call, (nint)argument));
        return (void*)self._alarms.Count; // never null
    }

    [UnmanagedCallersOnly]
    private static void FreeTimer(void* timer, void* opaque) => Self(opaque)._alarms[(int)timer - 1] = null;

    [UnmanagedCallersOnly]
    private static void SetTimer(void* timer, long at, void* opaque) => Self(opaque)._alarms[(int)timer - 1]!.At = at;

    [UnmanagedCallersOnly]
    private static void Nothing(int descriptor, void* opaque)
    {
    }

    [UnmanagedCallersOnly]
    private static void Notify(void* opaque)
    {
    }

    [UnmanagedCallersOnly]
    private static int AddPoll(int descriptor, int events, void* opaque)
    {
        PollEvents wanted = ((events & PollIn) != 0 ? PollEvents.In : 0) | ((events & PollOut) != 0 ? PollEvents.Out : 0)
            | ((events & PollUrgent) != 0 ? PollEvents.Urgent : 0);
        return Self(opaque)._poll.Add(descriptor, wanted);
    }

    [UnmanagedCallersOnly]
    private static int Result(int index, void* opaque)
    {
        PollEvents found = Self(opaque)._poll.Result(index);
        return (found.HasFlag(PollEvents.In) ? PollIn : 0) | (found.HasFlag(PollEvents.Out) ? PollOut : 0) | (found.HasFlag(PollEvents.Urgent) ? PollUrgent : 0)
            | (found.HasFlag(PollEvents.Error) ? PollError : 0) | (found.HasFlag(PollEvents.Hangup) ? PollHangup : 0);
    }
}
