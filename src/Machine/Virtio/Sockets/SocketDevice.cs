using System.Buffers.Binary;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Platform;

namespace Bunraku.Machine.Virtio.Sockets;

/// <summary>
/// The socket device: Virtual I/O Device (VIRTIO) Version 1.3, section 5.10 "Socket Device". Streams between sockets of the guest (AF_VSOCK in Linux) and Unix
/// sockets of the host. A thread of its own waits for the host; what it does then it does with the device's lock held, and none of it waits.
/// </summary>
/// <remarks>
/// Connections are this process's: they are not saved, and a guest that goes on from a state is told that all of them have ended (section 5.10.6.7 "Device
/// Events"). While the machine is paused, both ends wait. There are at most <see cref="MostConnections"/>, each with a bounded number of bytes under way.
/// </remarks>
public sealed class SocketDevice : VirtioDevice, IDisposable
{
    /// <summary>Context IDs that are nobody's of a guest: section 5.10.4 "Device configuration layout".</summary>
    public const uint SmallestCid = 3, LargestCid = uint.MaxValue - 1;

    /// <summary>Connections at a time, those that are not accepted yet included.</summary>
    public const int MostConnections = 256;

    private const ulong HostCid = 2;
    private const int QueueSize = 256, EventQueueSize = 16, Receive = 0, Transmit = 1, Events = 2; // section 5.10.2
    private const ulong StreamFeature = 1; // section 5.10.3
    private const int MostOfRound = 256, MostHanded = 32, MostResets = 256;
    private const uint TransportReset = 0, FirstHostPort = 1 << 30;
    private const byte StateEventOwed = 1;
    private const int Pause = 100, UsualGreeting = 10_000, LongestFarewell = 1000; // ms

    private readonly HostSockets? _host;
    private readonly byte[] _configuration = new byte[8];
    private readonly byte[] _payload = new byte[SocketConnection.BufferSize], _packet = new byte[SocketPacket.Length];
    private readonly Dictionary<(uint Host, uint Guest), SocketConnection> _byPorts = [];
    private readonly List<SocketConnection> _all = [];
    private readonly List<Socket> _closing = []; // closed by the thread, which may be waiting for them
    private readonly Queue<(uint Host, uint Guest)> _resets = new();
    private readonly List<DescriptorChain> _filled = [];
    private readonly List<uint> _written = [];
    private readonly PollSet _poll = new();
    private readonly List<(SocketConnection Connection, int Index)> _polled = [];
    private readonly EventDescriptor _wake = new();
    private readonly Action _serve, _work, _takePackets;
    private DeviceLock? _lock;
    private IoThread? _thread;
    private uint _nextHostPort = FirstHostPort;
    private bool _hasEnded, _owesEvent, _more, _listenerHasSomebody;
    private long _listensFrom; // after somebody could not be let in

    /// <param name="id">Its name in the machine.</param>
    /// <param name="cid">The guest's, from <see cref="SmallestCid"/> to <see cref="LargestCid"/>.</param>
    /// <param name="host">Closed by who made it, after the machine's end. Null: whom the guest connects to refuses, and nobody comes.</param>
    public SocketDevice(string id, uint cid, HostSockets? host) : base(id, VirtioType.Socket, QueueSize, QueueSize, EventQueueSize)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(cid, SmallestCid);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(cid, LargestCid);
        _host = host;
        BinaryPrimitives.WriteUInt64LittleEndian(_configuration, cid);
        (_serve, _work, _takePackets) = (Serve, Work, TakePackets);
    }

    /// <inheritdoc/>
    protected override ulong DeviceFeatures => StreamFeature;

    /// <inheritdoc/>
    protected override ReadOnlySpan<byte> Configuration => _configuration;

    /// <summary>So many ms a program of the host has for saying where it wants to go; then its place is another one's.</summary>
    internal int LongestGreeting { get; init; } = UsualGreeting;

    private ulong GuestCid => BinaryPrimitives.ReadUInt64LittleEndian(_configuration);

    /// <summary>How many connections there are. Any thread.</summary>
    internal int Connections
    {
        get
        {
            lock (_lock!) return _all.Count;
        }
    }

    /// <inheritdoc/>
    protected internal override void AttachTo(X86Machine machine, DeviceLock @lock)
    {
        _lock = @lock;
        _thread = machine.CreateIoThread(Id, _wake.Signal);
        _thread.Post(_serve);
    }

    /// <summary>
    /// The guest runs no more: who is connected must not wait for it. What it had sent is on its way, also after <see cref="Dispose"/> for a moment.
    /// </summary>
    /// <remarks>Before the machine is disposed of: its memory is read.</remarks>
    public void GuestEnded()
    {
        lock (_lock!)
        {
            _hasEnded = true;
            do
            {
                _more = false;
                _resets.Clear(); // nobody is there to be told
                Guarded(_takePackets);
            }
            while (_more || _resets.Count >= MostResets);
            for (int n = _all.Count - 1; n >= 0; n--)
            {
                _all[n].GuestEnded = true;
                Forget(_all[n]);
            }
            _wake.Signal();
        }
    }

    /// <inheritdoc/>
    protected override void Notified(int queue)
    {
        if (queue == Events) TellEvent();
        else _wake.Signal();
    }

    /// <inheritdoc/>
    protected override void DeviceReset()
    {
        while (_all.Count > 0) Close(_all[^1]);
        _resets.Clear();
        _filled.Clear();
        _written.Clear();
        _owesEvent = false;
    }

    /// <summary>One round of the thread; the next one follows at once.</summary>
    private void Serve()
    {
        int listener = -1, rest, limit;
        lock (_lock!)
        {
            _more = false;
            if (_listenerHasSomebody && _all.Count < MostConnections) Welcome();
            limit = GreetAll();
            Guarded(_work);
            _poll.Clear();
            _poll.Add(_wake.Descriptor, PollEvents.In);
            rest = _host is null ? 0 : (int)Math.Clamp(_listensFrom - Environment.TickCount64, 0, Pause);
            if (_host is not null && _all.Count < MostConnections && rest == 0) listener = _poll.Add((int)_host.Listener.Handle, PollEvents.In);
            _polled.Clear();
            foreach (SocketConnection c in _all)
            {
                PollEvents wanted = (WantsInput(c) ? PollEvents.In : 0) | (c.WantsOutput ? PollEvents.Out : 0);
                if (wanted != 0 || c.WatchesEnd) _polled.Add((c, _poll.Add((int)c.Socket.Handle, wanted)));
            }
            foreach (Socket socket in _closing) socket.Dispose();
            _closing.Clear();
        }
        if (rest > 0 && (limit < 0 || rest < limit)) limit = rest;
        _poll.Wait(_more ? 0 : limit);
        _wake.Take(); // not before: who pauses the machine wakes once, and waits
        lock (_lock)
        {
            _listenerHasSomebody = _poll.Result(listener) != 0;
            foreach ((SocketConnection c, int index) in _polled)
            {
                PollEvents result = _poll.Result(index);
                if (result == 0 || c.IsGone) continue;
                c.MayRead |= (result & ~PollEvents.Out) != 0;
                c.MayWrite |= (result & ~PollEvents.In) != 0;
                if ((result & (PollEvents.Hangup | PollEvents.Error)) == 0) continue;
                if (c.Phase is ConnectionPhase.Requested or ConnectionPhase.Draining) End(c);
                else if (c.Phase == ConnectionPhase.Established) c.Deafen(); // what it had sent before is still to be read
            }
        }
        _thread!.Post(_serve);
    }

    /// <summary>Hears who has not said yet where it wants to go. Returns in how many ms the time of one of them is over; −1: there are none.</summary>
    private int GreetAll()
    {
        long now = Environment.TickCount64, first = long.MaxValue;
        for (int n = _all.Count - 1; n >= 0; n--)
        {
            SocketConnection c = _all[n];
            if (c.Phase != ConnectionPhase.Greeting) continue;
            bool isLate = c.GreetsUntil <= now;
            c.MayRead |= isLate; // what was said while the machine was paused counts
            Greet(c);
            if (c.IsGone || c.Phase != ConnectionPhase.Greeting) continue;
            if (isLate) Close(c);
            else first = long.Min(first, c.GreetsUntil);
        }
        return first == long.MaxValue ? -1 : (int)(first - now);
    }

    private void Welcome()
    {
        if (_host!.Accept() is { } visitor)
            _all.Add(new SocketConnection(visitor, ConnectionPhase.Greeting) { GreetsUntil = Environment.TickCount64 + LongestGreeting });
        else _listensFrom = Environment.TickCount64 + Pause; // who waits there would be told of again at once
    }

    private bool WantsInput(SocketConnection c) => c.WantsInput && (c.Phase == ConnectionPhase.Greeting || IsReady);

    private void Work()
    {
        TellEvent();
        TakePackets();
        for (int n = _all.Count - 1; n >= 0; n--)
        {
            SocketConnection c = _all[n];
            if (c.WantsOutput && c.MayWrite) Write(c);
            if (c.Phase != ConnectionPhase.Greeting && WantsInput(c) && c.MayRead) Read(c, SocketConnection.LargestRead);
            if (!c.IsGone) EndWhereBothHave(c);
        }
        bool isHeldUp = _resets.Count >= MostResets;
        GivePackets();
        _more |= isHeldUp && _resets.Count < MostResets; // packets may wait of which the driver does not tell again
    }

    // ---- from the guest

    private void TakePackets()
    {
        for (int n = 0; _resets.Count < MostResets && Live(Transmit) is { } live; n++)
        {
            if (n == MostOfRound)
            {
                _more = true;
                return;
            }
            if (live.Take() is not { } buffer)
            {
                if (live.EnableNotifications()) continue;
                return;
            }
            if (!buffer.TryRead(Dma, 0, _packet)) throw new VirtqueueException("a buffer is not in RAM, or too short for a packet's header");
            SocketPacket packet = SocketPacket.Read(_packet);
            // Section 5.10.6.4.1 "Driver Requirements": the guest speaks for itself.
            if (packet.SourceCid == GuestCid) Take(packet, buffer);
            Complete(Transmit, buffer, 0);
        }
    }

    private void Take(in SocketPacket packet, DescriptorChain buffer)
    {
        (uint Host, uint Guest) ports = (packet.DestinationPort, packet.SourcePort);
        _byPorts.TryGetValue(ports, out SocketConnection? c);
        if (packet.Operation == SocketOperation.Reset)
        {
            if (c is not null) Forget(c);
            return;
        }
        bool known = packet.DestinationCid == HostCid && packet.Type == SocketPacket.Stream;
        if (known && packet.Operation == SocketOperation.Request && c is null && Open(ports) is { } opened)
        {
            opened.TakeCredit(packet);
            return;
        }
        // Section 5.10.6.4.2: what is for nobody, or makes no sense, is answered by a reset.
        if (!known || c is null || !TryTake(c, packet, buffer))
        {
            if (c is null) _resets.Enqueue(ports);
            else End(c);
        }
    }

    private SocketConnection? Open((uint Host, uint Guest) ports)
    {
        if (_all.Count >= MostConnections || _host?.Connect(ports.Host) is not { } socket) return null;
        var c = new SocketConnection(socket, ConnectionPhase.Established) { HostPort = ports.Host, GuestPort = ports.Guest, OwesFirstPacket = true };
        _all.Add(c);
        _byPorts.Add(ports, c);
        return c;
    }

    /// <summary>False: the packet has no place in this connection.</summary>
    private bool TryTake(SocketConnection c, in SocketPacket packet, DescriptorChain buffer)
    {
        c.TakeCredit(packet);
        if (packet.Operation == SocketOperation.Response)
        {
            if (c.Phase != ConnectionPhase.Requested) return false;
            c.Phase = ConnectionPhase.Established;
            byte[] welcome = HostSockets.Welcome(c.HostPort);
            return c.Socket.Send(welcome, SocketFlags.None, out SocketError error) == welcome.Length && error == SocketError.Success;
        }
        if (c.Phase != ConnectionPhase.Established) return false;
        switch (packet.Operation)
        {
            case SocketOperation.Data: return TryTakeData(c, packet, buffer);
            case SocketOperation.CreditUpdate: return true;
            case SocketOperation.CreditRequest:
                c.OwesCredit = true;
                return true;
            case SocketOperation.Shutdown:
                var ends = (SocketShutdownFlags)packet.Flags;
                c.GuestEnded |= ends.HasFlag(SocketShutdownFlags.Send);
                if (ends.HasFlag(SocketShutdownFlags.Receive) && !c.GuestIsDeaf)
                {
                    c.GuestIsDeaf = true;
                    c.Inbound.Clear();
                    Shut(c, SocketShutdown.Receive); // who writes there finds out
                }
                if (c.Outbound.Count == 0) EndOutput(c);
                return true;
            default: return false;
        }
    }

    private bool TryTakeData(SocketConnection c, in SocketPacket packet, DescriptorChain buffer)
    {
        // More than the guest may send, or than there is.
        if (c.GuestEnded || packet.Size > SocketConnection.BufferSize - c.Outbound.Count) return false;
        Span<byte> bytes = _payload.AsSpan(0, (int)packet.Size);
        if (!buffer.TryRead(Dma, SocketPacket.Length, bytes)) return false;
        if (c.HostIsDeaf)
        {
            c.Forward(bytes.Length);
            return true;
        }
        int sent = c.Outbound.Count == 0 ? Send(c, bytes) : 0;
        if (c.HostIsDeaf) return true;
        ReadOnlySpan<byte> rest = bytes[sent..];
        if (rest.IsEmpty) return true;
        rest.CopyTo(c.Outbound.Room(rest.Length));
        c.Outbound.Added(rest.Length);
        return true;
    }

    /// <summary>How many of the bytes the host has taken, of which the guest will be told.</summary>
    private static int Send(SocketConnection c, ReadOnlySpan<byte> bytes)
    {
        int sent = c.Socket.Send(bytes, SocketFlags.None, out SocketError error);
        if (error == SocketError.WouldBlock)
        {
            c.MayWrite = false;
            return 0;
        }
        if (error != SocketError.Success)
        {
            c.Forward(bytes.Length - c.Outbound.Count);
            c.Deafen();
            return 0;
        }
        c.Forward(sent);
        return sent;
    }

    private void Write(SocketConnection c)
    {
        int sent = Send(c, c.Outbound.Waiting);
        if (!c.HostIsDeaf) c.Outbound.Taken(sent);
        if (c.Outbound.Count > 0) return;
        c.Outbound.Clear();
        if (c.Phase == ConnectionPhase.Draining) Close(c);
        else EndOutput(c);
    }

    /// <summary>All that the guest had sent is with the host.</summary>
    private static void EndOutput(SocketConnection c)
    {
        if (c.GuestEnded && !c.HostIsDeaf) Shut(c, SocketShutdown.Send);
    }

    private static void Shut(SocketConnection c, SocketShutdown side)
    {
        try
        {
            c.Socket.Shutdown(side);
        }
        catch (SocketException)
        {
            // It is gone already.
        }
    }

    // ---- from the host

    private void Read(SocketConnection c, int most)
    {
        int got = c.Socket.Receive(c.Inbound.Room(most), SocketFlags.None, out SocketError error);
        if (error == SocketError.WouldBlock) c.MayRead = false;
        else if (error != SocketError.Success || got == 0) c.HostEnded = true;
        else c.Inbound.Added(got);
    }

    /// <summary>A program of the host says where it wants to go.</summary>
    private void Greet(SocketConnection c)
    {
        if (!c.MayRead) return;
        Read(c, SocketConnection.LargestRead);
        uint? port = HostSockets.ReadGreeting(c.Inbound.Waiting, out int length);
        if (port is null && length == 0 && !c.HostEnded) return;
        if (port is null || !IsReady || _owesEvent || _hasEnded)
        {
            Close(c);
            return;
        }
        c.Inbound.Taken(length); // what comes behind it is for the guest
        (c.Phase, c.OwesFirstPacket, c.GuestPort) = (ConnectionPhase.Requested, true, port.Value);
        do
        {
            c.HostPort = _nextHostPort;
            _nextHostPort = _nextHostPort == uint.MaxValue - 1 ? FirstHostPort : _nextHostPort + 1;
        }
        while (!_byPorts.TryAdd((c.HostPort, c.GuestPort), c));
    }

    /// <summary>Gives the guest what there is for it, a packet of each connection in turn.</summary>
    private void GivePackets()
    {
        int given = 0;
        bool some = true;
        while (some && given < MostOfRound)
        {
            some = false;
            if (_resets.TryPeek(out (uint Host, uint Guest) ports))
            {
                if (!TryGive(null, ports)) break;
                _resets.Dequeue();
                given++;
                some = true;
            }
            for (int n = 0; n < _all.Count; n++)
            {
                SocketConnection c = _all[n];
                if (!c.HasPacket) continue;
                if (!TryGive(c, (c.HostPort, c.GuestPort)))
                {
                    Hand();
                    return;
                }
                given++;
                some = true;
            }
        }
        _more |= some;
        Hand();
    }

    /// <summary>False: there is no buffer for it.</summary>
    private bool TryGive(SocketConnection? c, (uint Host, uint Guest) ports)
    {
        DescriptorChain? buffer = null;
        while (Live(Receive) is { } live && (buffer = live.Take()) is null)
        {
            Hand(); // the driver may wait for these before it gives others
            if (!live.EnableNotifications()) return false;
        }
        if (buffer is null) return false;
        if (buffer.WritableLength < SocketPacket.Length) throw new VirtqueueException("a buffer has no room for a packet's header");
        int room = (int)Math.Min(buffer.WritableLength - SocketPacket.Length, SocketConnection.LargestRead);
        (SocketOperation operation, uint flags, int size) = c is null ? (SocketOperation.Reset, 0u, 0) : Next(c, room);
        if (size > 0 && !buffer.TryWrite(Dma, SocketPacket.Length, c!.Inbound.Waiting[..size])) throw new VirtqueueException("a buffer is not in RAM");
        new SocketPacket(HostCid, GuestCid, ports.Host, ports.Guest, (uint)size, SocketPacket.Stream, operation, flags,
            c is null ? 0 : (uint)SocketConnection.BufferSize, c?.Forwarded ?? 0).Write(_packet);
        if (!buffer.TryWrite(Dma, 0, _packet)) throw new VirtqueueException("a buffer is not in RAM");
        c?.CreditIsTold();
        if (size > 0)
        {
            c!.Inbound.Taken(size);
            c.Sent(size);
        }
        _filled.Add(buffer);
        _written.Add((uint)(SocketPacket.Length + size));
        if (_filled.Count == MostHanded) Hand();
        return true;
    }

    /// <summary>The next packet of a connection that has one, which is on its way then.</summary>
    private static (SocketOperation Operation, uint Flags, int Size) Next(SocketConnection c, int room)
    {
        if (c.OwesFirstPacket)
        {
            c.OwesFirstPacket = false;
            return (c.Phase == ConnectionPhase.Requested ? SocketOperation.Request : SocketOperation.Response, 0, 0);
        }
        int size = (int)Math.Min((uint)Math.Min(room, c.Inbound.Count), c.Credit);
        if (size > 0 && !c.GuestIsDeaf) return (SocketOperation.Data, 0, size);
        if (c.ToTell is not 0 and { } ends)
        {
            c.Told |= ends;
            return (SocketOperation.Shutdown, (uint)c.Told, 0);
        }
        if (!c.WantsCredit) return (SocketOperation.CreditUpdate, 0, 0);
        c.CreditIsAskedFor();
        return (SocketOperation.CreditRequest, 0, 0);
    }

    /// <summary>Gives the driver what is filled, with one interrupt.</summary>
    private void Hand()
    {
        if (_filled.Count == 0) return;
        Complete(Receive, CollectionsMarshal.AsSpan(_filled), CollectionsMarshal.AsSpan(_written));
        _filled.Clear();
        _written.Clear();
    }

    /// <summary>Section 5.10.6.7 "Device Events".</summary>
    private void TellEvent()
    {
        Span<byte> e = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(e, TransportReset);
        while (_owesEvent && Live(Events) is { } live)
        {
            if (live.Take() is { } buffer)
            {
                if (!buffer.TryWrite(Dma, 0, e)) throw new VirtqueueException("a buffer is no place for an event");
                Complete(Events, buffer, (uint)e.Length);
                _owesEvent = false;
            }
            else if (!live.EnableNotifications()) return;
        }
    }

    // ---- ends

    /// <summary>The guest will neither send nor receive: when the host has what was sent, both forget the connection.</summary>
    private void EndWhereBothHave(SocketConnection c)
    {
        if (c.Phase == ConnectionPhase.Established && c is { GuestEnded: true, GuestIsDeaf: true, OwesFirstPacket: false } && !c.WantsOutput) End(c);
    }

    /// <summary>The guest knows nothing of it any more. What it has sent, and said to be all, reaches the host.</summary>
    private void Forget(SocketConnection c)
    {
        if (!c.GuestEnded || !c.WantsOutput)
        {
            Close(c);
            return;
        }
        _byPorts.Remove((c.HostPort, c.GuestPort));
        c.Phase = ConnectionPhase.Draining;
        c.OwesFirstPacket = false;
    }

    /// <summary>Ends a connection, and says so to the guest where it knows of it.</summary>
    private void End(SocketConnection c)
    {
        bool knows = c.Phase == ConnectionPhase.Established || c is { Phase: ConnectionPhase.Requested, OwesFirstPacket: false };
        if (knows) _resets.Enqueue((c.HostPort, c.GuestPort));
        Close(c);
    }

    private void Close(SocketConnection c)
    {
        c.IsGone = true;
        _all.Remove(c);
        if (_byPorts.TryGetValue((c.HostPort, c.GuestPort), out SocketConnection? known) && known == c) _byPorts.Remove((c.HostPort, c.GuestPort));
        _closing.Add(c.Socket);
        _wake.Signal();
    }

    /// <summary>Closes what is open. Behind the machine's end.</summary>
    public void Dispose()
    {
        if (_lock is not null)
        {
            lock (_lock) _hasEnded = true;
        }
        SayFarewell();
        while (_all.Count > 0) Close(_all[^1]);
        foreach (Socket socket in _closing) socket.Dispose();
        _closing.Clear();
        _wake.Dispose();
    }

    /// <summary>Gives the host what the guest had sent, as long as somebody takes it and it does not take too long. The thread has ended.</summary>
    private void SayFarewell()
    {
        long end = Environment.TickCount64 + LongestFarewell;
        for (int rest; (rest = (int)(end - Environment.TickCount64)) > 0;)
        {
            _poll.Clear();
            _polled.Clear();
            foreach (SocketConnection c in _all)
            {
                if (c.WantsOutput) _polled.Add((c, _poll.Add((int)c.Socket.Handle, PollEvents.Out)));
            }
            if (_polled.Count == 0) return;
            _poll.Wait(rest);
            foreach ((SocketConnection c, int index) in _polled)
            {
                if (_poll.Result(index) != 0) Write(c);
            }
        }
    }

    // ---- state

    /// <inheritdoc/>
    protected override byte[] SaveOwn() => [_owesEvent ? StateEventOwed : (byte)0];

    /// <inheritdoc/>
    protected override void RestoreOwn(byte[] state)
    {
        StateCheck.Length(state, 1, Id);
        DeviceReset();
        _owesEvent = IsReady || state[0] == StateEventOwed;
    }
}
