using System.Net.Sockets;
using System.Text;
using Bunraku.Hypervisor;
using Bunraku.Machine.Tests.State;
using Bunraku.Machine.Virtio;
using Bunraku.Machine.Virtio.Sockets;
using Bunraku.Platform;

namespace Bunraku.Machine.Tests.Virtio;

/// <summary>The socket device against a driver that is written from Virtual I/O Device (VIRTIO) Version 1.3, section 5.10, and programs of the host.</summary>
public sealed class SocketDeviceTests : IDisposable
{
    private const int Slot = 5, Receive = 0, Transmit = 1, Events = 2;
    private const uint Cid = 7, Port = 1234;
    private const ulong Host = 2, Rings = 0x10_0000, RingStride = 0x3_0000, Data = 0x20_0000;
    private const VirtioFeatures Plain = VirtioFeatures.Version1, Packed = Plain | VirtioFeatures.RingPacked | VirtioFeatures.EventIndex;
    private static readonly TimeSpan s_patience = TimeSpan.FromMinutes(1);

    private readonly string _folder = Directory.CreateTempSubdirectory("vsock").FullName;

    private string Place => Path.Combine(_folder, "v");

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private sealed class Guest : IDisposable
    {
        private readonly Dictionary<int, TestQueue> _queues = [];
        private readonly Dictionary<(int Queue, int Id), ulong> _given = [];
        private readonly HostSockets _host;
        private readonly SocketDevice _device;
        private ulong _next = Data;

        public Guest(string path, VirtioFeatures ring = Plain, int? longestGreeting = null)
        {
            _host = new HostSockets(path);
            _device = longestGreeting is { } limit ? new SocketDevice("vsock", Cid, _host) { LongestGreeting = limit } : new SocketDevice("vsock", Cid, _host);
            Rig = new BoardRig(0, new VirtioPart(_device, Slot));
            Driver = new VirtioDriver(Rig, Slot);
            Start(ring);
            Rig.Machine.Resume();
        }

        public void Start(VirtioFeatures ring)
        {
            Rig.Machine.Memory.Write(Rings, new byte[3 * RingStride]); // as a driver that begins
            Assert.True(Driver.Negotiate((ulong)ring | 1));
            for (int n = 0; n < 3; n++) _queues[n] = Driver.SetUp(n, 16, Rings + (ulong)n * RingStride, ring);
            Driver.SetDriverOk();
        }

        public BoardRig Rig { get; }
        public VirtioDriver Driver { get; }
        public SocketDevice Device => _device;

        private ulong Next(uint length)
        {
            ulong at = _next;
            _next = at + 2 * length < BoardRig.Memory ? at + length : Data;
            return at;
        }

        public void Give(int queue = Receive, uint length = 44 + 4096)
        {
            ulong at = Next(0x2000);
            _given[(queue, _queues[queue].Add([(at, length, true)]))] = at;
            Driver.Notify(queue);
        }

        public byte[] Await(int queue)
        {
            int id = 0;
            uint written = 0;
            Assert.True(SpinWait.SpinUntil(() => _queues[queue].TryTakeUsed(out id, out written), s_patience), "nothing comes");
            byte[] bytes = new byte[written];
            Rig.Machine.Memory.Read(_given[(queue, id)], bytes);
            return bytes;
        }

        /// <summary>The next packet of the device.</summary>
        public (SocketPacket Header, byte[] Data) Hear(bool gives = true)
        {
            if (gives) Give();
            byte[] bytes = Await(Receive);
            SocketPacket header = SocketPacket.Read(bytes);
            Assert.Equal((Host, Cid), (header.SourceCid, header.DestinationCid));
            Assert.Equal(header.Size, (uint)bytes.Length - SocketPacket.Length);
            return (header, bytes[SocketPacket.Length..]);
        }

        public SocketPacket Hear(SocketOperation operation, uint hostPort, uint guestPort)
        {
            (SocketPacket header, _) = Hear();
            Assert.Equal((operation, hostPort, guestPort), (header.Operation, header.SourcePort, header.DestinationPort));
            return header;
        }

        public void Say(SocketPacket packet, byte[]? data = null)
        {
            byte[] bytes = new byte[SocketPacket.Length];
            packet.Write(bytes);
            data ??= [];
            ulong at = Next((uint)(bytes.Length + data.Length));
            Rig.Machine.Memory.Write(at, [.. bytes, .. data]);
            _queues[Transmit].Add([(at, (uint)(bytes.Length + data.Length), false)]);
            Driver.Notify(Transmit);
            Assert.True(SpinWait.SpinUntil(() => _queues[Transmit].TryTakeUsed(out _, out _), s_patience), "a packet is not taken");
        }

        public void Say(
            SocketOperation operation, uint hostPort, uint guestPort, byte[]? data = null, uint flags = 0, uint room = 1 << 16, uint forwarded = 0) =>
            Say(new SocketPacket(Cid, Host, guestPort, hostPort, (uint)(data?.Length ?? 0), SocketPacket.Stream, operation, flags, room, forwarded), data);

        public void Dispose()
        {
            Rig.Dispose();
            _device.Dispose();
            _host.Dispose();
        }
    }

    private Socket Listen(uint port)
    {
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        socket.Bind(new UnixDomainSocketEndPoint($"{Place}_{port}"));
        socket.Listen(4);
        return socket;
    }

    private Socket Connect(string greeting)
    {
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified) { ReceiveTimeout = 60_000, SendTimeout = 60_000 };
        socket.Connect(new UnixDomainSocketEndPoint(Place));
        socket.Send(Encoding.ASCII.GetBytes(greeting));
        return socket;
    }

    private static byte[] ReadExactly(Socket socket, int count)
    {
        byte[] bytes = new byte[count];
        for (int n = 0; n < count;)
        {
            int got = socket.Receive(bytes.AsSpan(n));
            Assert.NotEqual(0, got);
            n += got;
        }
        return bytes;
    }

    private static string ReadLine(Socket socket)
    {
        var line = new StringBuilder();
        while (line.Length == 0 || line[^1] != '\n') line.Append((char)ReadExactly(socket, 1)[0]);
        return line.ToString();
    }

    /// <summary>A connection that the guest began: the host's end.</summary>
    private Socket Accepted(Guest guest, Socket listener, uint hostPort, uint guestPort, uint room = 1 << 16)
    {
        guest.Say(SocketOperation.Request, hostPort, guestPort, room: room);
        SocketPacket response = guest.Hear(SocketOperation.Response, hostPort, guestPort);
        Assert.Equal((uint)SocketConnection.BufferSize, response.BufferSize);
        Socket accepted = listener.Accept();
        accepted.ReceiveTimeout = 60_000;
        return accepted;
    }

    [Fact]
    public void Section_5_10_4_the_configuration_has_the_guests_context_id()
    {
        using var guest = new Guest(Place);
        Assert.Equal(Cid, guest.Driver.Device(0, 8));
        Assert.Equal(1ul, guest.Driver.Offered & 3); // stream sockets, no other ones
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(Place));
    }

    /// <summary>Section 5.10.6.5 "Stream Sockets": a request, a response, data, and both ends' ends.</summary>
    [Theory]
    [InlineData(Plain)]
    [InlineData(Packed)]
    public void The_guest_connects_to_a_program_of_the_host(VirtioFeatures ring)
    {
        using var guest = new Guest(Place, ring);
        using Socket listener = Listen(52);
        using Socket host = Accepted(guest, listener, 52, Port);
        guest.Say(SocketOperation.Data, 52, Port, "hello"u8.ToArray());
        Assert.Equal("hello"u8.ToArray(), ReadExactly(host, 5));
        host.Send("world"u8);
        (SocketPacket header, byte[] data) = guest.Hear();
        Assert.Equal((SocketOperation.Data, 5u), (header.Operation, header.Forwarded));
        Assert.Equal("world"u8.ToArray(), data);

        host.Shutdown(SocketShutdown.Send); // half of it ends
        Assert.Equal((uint)SocketShutdownFlags.Send, guest.Hear(SocketOperation.Shutdown, 52, Port).Flags);
        guest.Say(SocketOperation.Data, 52, Port, "more"u8.ToArray());
        Assert.Equal("more"u8.ToArray(), ReadExactly(host, 4));
        guest.Say(SocketOperation.Shutdown, 52, Port, flags: (uint)SocketShutdownFlags.Both);
        guest.Hear(SocketOperation.Reset, 52, Port);
        Assert.Equal(0, host.Receive(new byte[1]));
        Assert.Equal(0, guest.Device.Connections);
    }

    [Theory]
    [InlineData(Plain)]
    [InlineData(Packed)]
    public void A_program_of_the_host_connects_to_the_guest(VirtioFeatures ring)
    {
        using var guest = new Guest(Place, ring);
        using Socket host = Connect($"CONNECT {Port}\nfirst"); // with what it has to say
        (SocketPacket request, _) = guest.Hear();
        Assert.Equal((SocketOperation.Request, Port), (request.Operation, request.DestinationPort));
        guest.Say(SocketOperation.Response, request.SourcePort, Port);
        Assert.Equal($"OK {request.SourcePort}\n", ReadLine(host));
        (SocketPacket header, byte[] data) = guest.Hear();
        Assert.Equal(SocketOperation.Data, header.Operation);
        Assert.Equal("first"u8.ToArray(), data);
        guest.Say(SocketOperation.Data, request.SourcePort, Port, "answer"u8.ToArray());
        Assert.Equal("answer"u8.ToArray(), ReadExactly(host, 6));
        guest.Say(SocketOperation.Shutdown, request.SourcePort, Port, flags: (uint)SocketShutdownFlags.Send);
        Assert.Equal(0, host.Receive(new byte[1]));
        host.Send("late"u8); // the other half goes on
        Assert.Equal("late"u8.ToArray(), guest.Hear().Data);
        host.Dispose();
        Assert.Equal((uint)SocketShutdownFlags.Both, Until(guest, SocketShutdownFlags.Both));
        guest.Say(SocketOperation.Reset, request.SourcePort, Port);
        Assert.True(SpinWait.SpinUntil(() => guest.Device.Connections == 0, s_patience));
    }

    /// <summary>The host's end may be seen in two steps.</summary>
    private static uint Until(Guest guest, SocketShutdownFlags wanted)
    {
        uint seen = 0;
        while (seen != (uint)wanted)
        {
            (SocketPacket header, _) = guest.Hear();
            Assert.Equal(SocketOperation.Shutdown, header.Operation);
            seen = header.Flags;
        }
        return seen;
    }

    [Theory]
    [InlineData("CONNECT\n")]
    [InlineData("CONNECT 99999999999\n")]
    [InlineData("CONNECT -1\n")]
    [InlineData("connect me please to somewhere else\n")]
    [InlineData("\n")]
    public void Who_says_something_else_is_let_go(string greeting)
    {
        using var guest = new Guest(Place);
        using Socket host = Connect(greeting);
        Assert.Equal(0, host.Receive(new byte[1]));
        Assert.True(SpinWait.SpinUntil(() => guest.Device.Connections == 0, s_patience));
    }

    /// <summary>All places are taken by programs that say nothing, or not all: they lose them, and the others come.</summary>
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Who_says_nothing_is_let_go(bool hasDriver)
    {
        using var guest = new Guest(Place, longestGreeting: 50);
        if (!hasDriver) guest.Driver.Status = 0;
        Socket[] silent = [.. Enumerable.Range(0, SocketDevice.MostConnections + 20).Select(n => Connect(n % 2 == 0 ? "" : "CONN"))];
        foreach (Socket socket in silent)
        {
            Assert.Equal(0, socket.Receive(new byte[1]));
            socket.Dispose();
        }
        Assert.Equal(0, guest.Device.Connections);
        if (!hasDriver) return;
        using Socket host = Connect("CONNECT 5\n");
        Assert.Equal(5u, guest.Hear().Header.DestinationPort);
    }

    /// <summary>The time goes on while the machine stands still, and what was said meanwhile counts.</summary>
    [Fact]
    public void Who_spoke_while_the_machine_stood_still_is_heard()
    {
        using var guest = new Guest(Place, longestGreeting: 1);
        guest.Rig.Machine.Pause();
        using Socket host = Connect("CONNECT 5\n");
        guest.Rig.Machine.Resume();
        Assert.Equal(5u, guest.Hear().Header.DestinationPort);
    }

    /// <summary>A socket of another user at the place of a port, who may be anybody where the folder is not ours alone, is nobody's.</summary>
    [Theory]
    [InlineData(1000, 1000, true)]
    [InlineData(0, 1000, true)]
    [InlineData(1001, 1000, false)]
    [InlineData(65534, 0, false)]
    public void Another_users_socket_is_nobodys(uint listens, uint connects, bool trusted) => Assert.Equal(trusted, LocalSocket.IsTrusted(listens, connects));

    [Fact]
    public void A_socket_of_ones_own_is_known_as_such()
    {
        using var guest = new Guest(Place);
        using Socket listener = Listen(52);
        Assert.True(LocalSocket.IsOurs(Accepted(guest, listener, 52, Port)));
    }

    [Fact]
    public void Whom_the_guest_refuses_is_let_go()
    {
        using var guest = new Guest(Place);
        using Socket host = Connect("CONNECT 5\n");
        (SocketPacket request, _) = guest.Hear();
        guest.Say(SocketOperation.Reset, request.SourcePort, 5);
        Assert.Equal(0, host.Receive(new byte[1]));
    }

    [Fact]
    public void Without_a_driver_nobody_is_let_in()
    {
        using var guest = new Guest(Place);
        guest.Driver.Status = 0;
        using Socket host = Connect("CONNECT 5\n");
        Assert.Equal(0, host.Receive(new byte[1]));
    }

    /// <summary>Section 5.10.6.4.2 and 5.10.6.5: a request that nobody takes, an unknown type, and packets of no connection are answered by a reset.</summary>
    [Fact]
    public void What_is_for_nobody_is_reset()
    {
        using var guest = new Guest(Place);
        guest.Say(SocketOperation.Request, 77, Port); // nobody listens
        guest.Hear(SocketOperation.Reset, 77, Port);
        File.WriteAllText($"{Place}_78", "no socket");
        guest.Say(SocketOperation.Request, 78, Port);
        guest.Hear(SocketOperation.Reset, 78, Port);
        foreach (SocketOperation operation in (SocketOperation[])[SocketOperation.Data, SocketOperation.Shutdown, SocketOperation.CreditUpdate,
            SocketOperation.Response, (SocketOperation)99, 0])
        {
            guest.Say(operation, 52, Port);
            guest.Hear(SocketOperation.Reset, 52, Port);
        }
        using Socket listener = Listen(52);
        guest.Say(new SocketPacket(Cid, Host, Port, 52, 0, 2, SocketOperation.Request, 0, 1 << 16, 0)); // SEQPACKET
        guest.Hear(SocketOperation.Reset, 52, Port);
        guest.Say(new SocketPacket(Cid, 9, Port, 52, 0, SocketPacket.Stream, SocketOperation.Request, 0, 1 << 16, 0)); // another guest
        guest.Hear(SocketOperation.Reset, 52, Port);
        guest.Say(new SocketPacket(Cid + 1, Host, Port, 52, 0, SocketPacket.Stream, SocketOperation.Request, 0, 1 << 16, 0)); // not who it says
        guest.Say(SocketOperation.Reset, 52, Port); // is not answered either
        guest.Say(SocketOperation.Data, 53, Port);
        guest.Hear(SocketOperation.Reset, 53, Port);
        Assert.Equal(0, guest.Device.Connections);
        Assert.False(guest.Driver.Status.HasFlag(VirtioStatus.NeedsReset));
    }

    /// <summary>Section 5.10.6.3 "Buffer Space Management": no more is sent than the guest has room for, and it is asked when there is none.</summary>
    [Fact]
    public void The_guests_room_is_kept_to()
    {
        using var guest = new Guest(Place);
        using Socket listener = Listen(52);
        using Socket host = Accepted(guest, listener, 52, Port, room: 1000);
        host.Send(new byte[1500]);
        Assert.Equal(1000, guest.Hear().Data.Length);
        guest.Hear(SocketOperation.CreditRequest, 52, Port);
        guest.Say(SocketOperation.CreditUpdate, 52, Port, room: 1000, forwarded: 300);
        Assert.Equal(300, guest.Hear().Data.Length);
        guest.Hear(SocketOperation.CreditRequest, 52, Port);
        guest.Say(SocketOperation.CreditUpdate, 52, Port, room: 1000, forwarded: 1300);
        Assert.Equal(200, guest.Hear().Data.Length);
        // A guest that claims to have read what it never got has no room.
        guest.Say(SocketOperation.CreditUpdate, 52, Port, room: 1000, forwarded: 5000);
        host.Send(new byte[10]);
        guest.Hear(SocketOperation.CreditRequest, 52, Port);
    }

    /// <summary>Likewise: the guest is told what has left our buffer; who sends more than there is room for is cut off.</summary>
    [Fact]
    public void Our_room_is_kept_to()
    {
        using var guest = new Guest(Place);
        using Socket listener = Listen(52);
        using Socket host = Accepted(guest, listener, 52, Port);
        byte[] piece = new byte[32 << 10];
        new Random(1).NextBytes(piece);
        uint sent = 0, told = 0;
        void Say()
        {
            guest.Say(SocketOperation.Data, 52, Port, piece);
            sent += (uint)piece.Length;
        }
        // Nobody reads: the host's own buffer takes something, which we are told of, then ours is filled.
        while (sent - told + piece.Length <= SocketConnection.BufferSize)
        {
            Say();
            guest.Say(SocketOperation.CreditRequest, 52, Port);
            told = guest.Hear(SocketOperation.CreditUpdate, 52, Port).Forwarded;
        }
        for (uint read = 0; read < sent; read += (uint)piece.Length) Assert.Equal(piece, ReadExactly(host, piece.Length));
        while (told != sent)
        {
            guest.Say(SocketOperation.CreditRequest, 52, Port);
            told = guest.Hear(SocketOperation.CreditUpdate, 52, Port).Forwarded;
        }
        guest.Say(SocketOperation.CreditRequest, 52, Port);
        guest.Hear(SocketOperation.CreditUpdate, 52, Port);
        while (guest.Device.Connections > 0) Say();
        guest.Hear(SocketOperation.Reset, 52, Port);
    }

    /// <summary>Data that the guest sent before its end reaches a reader that is slow, whatever the guest does meanwhile.</summary>
    [Fact]
    public void What_was_sent_before_the_end_arrives()
    {
        using var guest = new Guest(Place);
        using Socket listener = Listen(52);
        using Socket host = Accepted(guest, listener, 52, Port);
        uint sent = SendUntilSomeWaits(guest);
        guest.Say(SocketOperation.Shutdown, 52, Port, flags: (uint)SocketShutdownFlags.Both);
        guest.Say(SocketOperation.Reset, 52, Port); // it does not wait for the answer
        ReadExactly(host, (int)sent);
        Assert.Equal(0, host.Receive(new byte[1]));
        Assert.True(SpinWait.SpinUntil(() => guest.Device.Connections == 0, s_patience));
    }

    /// <summary>Whoever is connected to a machine that has ended is told, behind what the guest had sent; nobody is let in any more.</summary>
    [Fact]
    public void With_the_machine_its_connections_end()
    {
        using var guest = new Guest(Place);
        using Socket listener = Listen(52);
        using Socket host = Accepted(guest, listener, 52, Port), visitor = Connect("CONNECT 5\n");
        guest.Hear();
        uint sent = SendUntilSomeWaits(guest);
        guest.Rig.Machine.Stop(new StopCause(StopReason.PowerOff));
        guest.Device.GuestEnded();
        Assert.Equal(0, visitor.Receive(new byte[1]));
        ReadExactly(host, (int)sent);
        Assert.Equal(0, host.Receive(new byte[1]));
        using Socket late = Connect("CONNECT 5\n");
        Assert.Equal(0, late.Receive(new byte[1]));
    }

    /// <summary>Also what waits when the device goes: its host has a moment to take it.</summary>
    [Fact]
    public async Task What_the_guest_had_sent_arrives_although_the_machine_is_gone()
    {
        using var guest = new Guest(Place);
        using Socket listener = Listen(52);
        using Socket host = Accepted(guest, listener, 52, Port);
        uint sent = SendUntilSomeWaits(guest);
        guest.Rig.Machine.Stop(new StopCause(StopReason.PowerOff));
        guest.Device.GuestEnded();
        guest.Rig.Machine.Dispose();
        Task gone = Task.Run(guest.Device.Dispose);
        ReadExactly(host, (int)sent);
        Assert.Equal(0, host.Receive(new byte[1]));
        await gone.WaitAsync(s_patience);
    }

    /// <summary>Sends more than the host's socket takes; how much.</summary>
    private static uint SendUntilSomeWaits(Guest guest)
    {
        uint sent = 0;
        byte[] piece = new byte[32 << 10];
        while (true)
        {
            guest.Say(SocketOperation.Data, 52, Port, piece);
            sent += (uint)piece.Length;
            guest.Say(SocketOperation.CreditRequest, 52, Port);
            if (sent - guest.Hear(SocketOperation.CreditUpdate, 52, Port).Forwarded > 0) return sent;
        }
    }

    [Fact]
    public void The_guests_end_for_receiving_stops_the_hosts_writer()
    {
        using var guest = new Guest(Place);
        using Socket listener = Listen(52);
        using Socket host = Accepted(guest, listener, 52, Port);
        guest.Say(SocketOperation.Shutdown, 52, Port, flags: (uint)SocketShutdownFlags.Receive);
        Assert.True(SpinWait.SpinUntil(() => host.Send([1], SocketFlags.None, out SocketError error) >= 0 && error != SocketError.Success, s_patience));
        guest.Say(SocketOperation.Data, 52, Port, [5]);
        Assert.Equal([5], ReadExactly(host, 1));
    }

    [Fact]
    public void Connections_are_bounded_and_a_reset_ends_all()
    {
        using var guest = new Guest(Place);
        using Socket listener = Listen(52);
        var accepted = new List<Socket>();
        for (uint n = 0; n < SocketDevice.MostConnections; n++) accepted.Add(Accepted(guest, listener, 52, n + 1));
        guest.Say(SocketOperation.Request, 52, 9999);
        guest.Hear(SocketOperation.Reset, 52, 9999);
        guest.Driver.Status = 0;
        foreach (Socket socket in accepted)
        {
            Assert.Equal(0, socket.Receive(new byte[1]));
            socket.Dispose();
        }
        guest.Start(Plain);
        using Socket again = Accepted(guest, listener, 52, 1);
    }

    /// <summary>Without buffers for it, what the device has to say waits, and what it takes is bounded: section 5.10.6.1.1.</summary>
    [Fact]
    public void A_driver_without_buffers_harms_itself_alone()
    {
        using var guest = new Guest(Place);
        for (uint n = 0; n < 250; n++) guest.Say(SocketOperation.Data, 1, n);
        for (uint n = 0; n < 250; n++) guest.Hear(SocketOperation.Reset, 1, n);
        guest.Give(length: 20); // no room for a header
        guest.Say(SocketOperation.Data, 1, 1);
        Assert.True(SpinWait.SpinUntil(() => guest.Driver.Status.HasFlag(VirtioStatus.NeedsReset), s_patience));
        guest.Start(Plain);
        guest.Say(SocketOperation.Data, 1, 2);
        guest.Hear(SocketOperation.Reset, 1, 2);
    }

    /// <summary>Section 5.10.6.7 "Device Events": a guest that goes on from a state is told that its connections have ended, once it has a buffer.</summary>
    [Fact]
    public void After_a_restore_the_transport_is_reset()
    {
        using var guest = new Guest(Place);
        using Socket listener = Listen(52);
        using Socket host = Accepted(guest, listener, 52, Port);
        guest.Give(Events, 4);
        guest.Rig.Machine.Pause();
        guest.Rig.Machine.Restore(guest.Rig.Machine.Save());
        Assert.Equal(0, guest.Device.Connections);
        guest.Rig.Machine.Resume();
        Assert.Equal([0, 0, 0, 0], guest.Await(Events));
        Assert.Equal(0, host.Receive(new byte[1]));
        guest.Say(SocketOperation.Data, 52, Port, [1]);
        guest.Hear(SocketOperation.Reset, 52, Port);
        using Socket again = Accepted(guest, listener, 52, Port);
    }

    [Fact]
    public void A_socket_that_somebody_has_is_not_taken()
    {
        using var first = new HostSockets(Place);
        IOException e = Assert.Throws<IOException>(() => new HostSockets(Place));
        Assert.Equal($"socket {Place}: it cannot be listened on: somebody listens there already", e.Message);
        Assert.Throws<IOException>(() => new HostSockets(Path.Combine(_folder, new string('x', 100))));
        Assert.Throws<IOException>(() => new HostSockets(Path.Combine(_folder, "missing", "v")));
    }

    /// <summary>Several begin at once where a dead socket lies: one gets the place, and keeps it.</summary>
    [Fact]
    public void One_of_several_gets_the_place_of_a_dead_socket()
    {
        for (int round = 0; round < 50; round++)
        {
            LocalSocket.Listen(Place, 1).Dispose(); // as a process that was killed leaves it
            Assert.True(File.Exists(Place));
            var got = new System.Collections.Concurrent.ConcurrentBag<Socket>();
            Thread[] threads = [.. Enumerable.Range(0, 6).Select(_ => new Thread(() =>
            {
                try
                {
                    got.Add(LocalSocket.Listen(Place, 64)); // looks of the others wait there, too
                }
                catch (IOException)
                {
                    // Another one has it.
                }
            }))];
            foreach (Thread thread in threads) thread.Start();
            foreach (Thread thread in threads) thread.Join();
            Socket listener = Assert.Single(got);
            using (var visitor = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified))
            {
                visitor.Connect(new UnixDomainSocketEndPoint(Place));
                listener.Accept().Dispose();
            }
            LocalSocket.Remove(Place); // somebody listens
            Assert.True(File.Exists(Place));
            listener.Dispose();
            // A process that another test starts has our descriptors until it becomes its program.
            Assert.True(SpinWait.SpinUntil(() =>
            {
                LocalSocket.Remove(Place);
                return Directory.GetFileSystemEntries(_folder).Length == 0;
            }, s_patience));
        }
    }
}
