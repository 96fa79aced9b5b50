using System.Buffers.Binary;
using System.Net.Sockets;
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
public sealed partial class SocketDevice : VirtioDevice, IDisposable
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
