using System.Buffers.Binary;
using System.Collections.Concurrent;
using System.Net;
using Bunraku.Hypervisor;
using Bunraku.Machine.Tests.Network;
using Bunraku.Machine.Tests.State;
using Bunraku.Machine.Virtio;
using Bunraku.Machine.Virtio.Net;
using Bunraku.Network;

namespace Bunraku.Machine.Tests.Virtio;

/// <summary>The network device against a driver that is written from Virtual I/O Device (VIRTIO) Version 1.3, section 5.1.</summary>
public sealed class NetworkCardTests
{
    private const int Slot = 5;
    private const ulong Rings = 0x10_0000, RingStride = 0x4_0000, Data = 0x30_0000, Step = 0x1000;
    private const VirtioFeatures Plain = VirtioFeatures.Version1, Packed = Plain | VirtioFeatures.RingPacked | VirtioFeatures.EventIndex;
    private static readonly byte[] s_mac = [0x52, 0x54, 0, 1, 2, 3];

    /// <summary>A cable whose other end is the test.</summary>
    private sealed class TestCable : INetworkBackend
    {
        private readonly AutoResetEvent _wake = new(false);
        private int _given;

        /// <summary>Frames that the card was given, and has done with what it wants.</summary>
        public int Given => Volatile.Read(ref _given);

        public ConcurrentQueue<byte[]> Sent { get; } = new();
        public ConcurrentQueue<(FrameWork Work, byte[] Frame)> Coming { get; } = new();
        public int Mtu => 1500;
        public bool HasOffloads { get; init; }
        public bool TakesLargeFrames { get; init; }
        public bool IsConnected { get; set; } = true;
        public bool Changed { get; set; }
        public (bool, bool, bool) Accepted { get; private set; }

        public void Accept(bool checksums, bool segments4, bool segments6) => Accepted = (checksums, segments4, segments6);

        public void Send(in FrameWork work, ReadOnlySpan<byte> frame) => Sent.Enqueue(frame.ToArray());

        public void Serve(IFrameReceiver receiver, bool waits)
        {
            if (waits) _wake.WaitOne();
            if (Changed) receiver.ConnectionChanged();
            Changed = false;
            while (Coming.TryDequeue(out (FrameWork Work, byte[] Frame) next))
            {
                receiver.Receive(next.Work, next.Frame);
                Interlocked.Increment(ref _given);
            }
        }

        public void Come(byte[] frame, FrameWork work = default)
        {
            Coming.Enqueue((work, frame));
            Wake();
        }

        public void Wake() => _wake.Set();

        public void Dispose() => _wake.Dispose();
    }

    private sealed class Guest : IDisposable
    {
        private readonly VirtioFeatures _ring;
        private readonly Dictionary<int, TestQueue> _queues = [];
        private readonly Dictionary<(int Queue, int Id), (ulong Address, uint Length)> _given = [];
        private ulong _next = Data;

        public Guest(TestCable cable, VirtioFeatures ring, NetworkFeature features, int pairs = 1)
        {
            _ring = ring;
            Card = new NetworkCard("net", cable, s_mac, pairs);
            Rig = new BoardRig(0, new VirtioPart(Card, Slot));
            Driver = new VirtioDriver(Rig, Slot);
            Begin(features, pairs);
            Rig.Machine.Resume();
        }

        public BoardRig Rig { get; }
        public VirtioDriver Driver { get; }
        public NetworkCard Card { get; }
        public int ControlQueue { get; private set; }

        public void Begin(NetworkFeature features, int pairs)
        {
            Assert.True(Driver.Negotiate((ulong)_ring | (ulong)features));
            _given.Clear();
            Rig.Machine.Memory.Write(Rings, new byte[0x20_0000]);
            ControlQueue = features.HasFlag(NetworkFeature.MultiQueue) ? 2 * pairs : 2;
            foreach (int n in Enumerable.Range(0, 2 * (features.HasFlag(NetworkFeature.MultiQueue) ? pairs : 1)).Append(ControlQueue))
                _queues[n] = Driver.SetUp(n, 64, Rings + (ulong)n * RingStride, _ring);
            Driver.SetDriverOk();
        }

        private ulong Place(uint length)
        {
            ulong at = _next;
            _next = _next + (length + Step - 1) / Step * Step;
            if (_next > BoardRig.Memory - 0x2_0000) _next = Data;
            return at;
        }

        public void Give(uint length, int queue = 0)
        {
            ulong at = Place(length);
            _given[(queue, _queues[queue].Add([(at, length, true)]))] = (at, length);
            Driver.Notify(queue);
        }

        /// <summary>Sends a frame in two pieces.</summary>
        public void Send(FrameWork work, byte[] frame, int queue = 1)
        {
            byte[] header = new byte[FrameWork.Length];
            work.Write(header, 0);
            ulong at = Place((uint)(FrameWork.Length + frame.Length));
            Rig.Machine.Memory.Write(at, [.. header, .. frame]);
            _queues[queue].Add([(at, 7, false), (at + 7, (uint)(FrameWork.Length + frame.Length - 7), false)]);
            Driver.Notify(queue);
            Until(() => _queues[queue].TryTakeUsed(out _, out _));
        }

        /// <summary>A frame, all of whose buffers must be there as soon as the first one is; null: none is there.</summary>
        public (FrameWork Work, byte[] Frame, int Buffers)? Take(int queue = 0)
        {
            if (!_queues[queue].TryTakeUsed(out int id, out uint written)) return null;
            List<byte> bytes = [.. Bytes(queue, id, written)];
            int buffers = BinaryPrimitives.ReadUInt16LittleEndian(bytes[10..12].ToArray());
            for (int n = 1; n < buffers; n++)
            {
                Assert.True(_queues[queue].TryTakeUsed(out id, out written));
                bytes.AddRange(Bytes(queue, id, written));
            }
            return (FrameWork.Read(bytes[..12].ToArray()), [.. bytes[12..]], buffers);
        }

        private byte[] Bytes(int queue, int id, uint written)
        {
            (ulong at, uint length) = _given[(queue, id)];
            Assert.True(written <= length);
            byte[] bytes = new byte[written];
            Rig.Machine.Memory.Read(at, bytes);
            return bytes;
        }

        public (FrameWork Work, byte[] Frame, int Buffers) Await(int queue = 0)
        {
            (FrameWork, byte[], int)? found = null;
            Until(() => (found = Take(queue)) is not null);
            return found!.Value;
        }

        public bool Command(ControlClass kind, byte command, byte[] data)
        {
            ulong at = Place((uint)data.Length + 8);
            Rig.Machine.Memory.Write(at, [(byte)kind, command, .. data, 0xAA]);
            _queues[ControlQueue].Add([(at, 2 + (uint)data.Length, false), (at + 2 + (ulong)data.Length, 1, true)]);
            Driver.Notify(ControlQueue);
            Assert.True(_queues[ControlQueue].TryTakeUsed(out _, out uint written));
            Assert.Equal(1u, written);
            Rig.Machine.Memory.TryRead(at + 2 + (ulong)data.Length, out byte answer);
            Assert.True(answer is 0 or 1);
            return answer == 0;
        }

        public TestQueue Queue(int number) => _queues[number];

        public void MoveTo(BoardRig other)
        {
            foreach (TestQueue queue in _queues.Values) queue.MoveTo(new DmaSpace(other.Machine.Memory));
        }

        public static void Until(Func<bool> condition) => Assert.True(SpinWait.SpinUntil(condition, TimeSpan.FromMinutes(2)), "nothing happens");

        public void Dispose() => Rig.Dispose();
    }

    private static byte[] Frame(int length, byte fill, byte[]? to = null)
    {
        byte[] frame = new byte[length];
        new Random(length + fill).NextBytes(frame);
        (to ?? s_mac).CopyTo(frame, 0);
        (frame[12], frame[13]) = (0x88, 0xB5); // IEEE 802: for experiments
        return frame;
    }

    private static readonly IPAddress s_from4 = IPAddress.Parse("10.0.2.15"), s_to4 = IPAddress.Parse("10.0.2.2"), s_from6 = IPAddress.Parse("fec0::15"),
        s_to6 = IPAddress.Parse("fec0::2");

    /// <summary>Section 5.1.4: what the device says of itself.</summary>
    [Fact]
    public void Configuration_space_has_address_link_queues_and_mtu()
    {
        using var cable = new TestCable();
        using var guest = new Guest(cable, Plain, NetworkFeature.MultiQueue | NetworkFeature.ControlQueue, 4);
        Assert.Equal(s_mac, Enumerable.Range(0, 6).Select(n => (byte)guest.Driver.Device((uint)n, 1)));
        Assert.Equal((1u, 4u, 1500u), (guest.Driver.Device(6, 2), guest.Driver.Device(8, 2), guest.Driver.Device(10, 2)));
        Assert.Equal(0ul, guest.Driver.Offered & (ulong)(NetworkFeature.GuestTcp4 | NetworkFeature.GuestTcp6)); // this cable has no such frames
    }

    /// <summary>Section 5.1.6.2: the checksum of a frame with NEEDS_CSUM is completed, and nothing else is changed.</summary>
    [Theory, InlineData((ulong)Plain, false), InlineData((ulong)Packed, true)]
    public void A_checksum_is_completed(ulong ring, bool is6)
    {
        using var cable = new TestCable();
        using var guest = new Guest(cable, (VirtioFeatures)ring, NetworkFeature.Checksum);
        for (int length = 0; length < 40; length++)
        {
            byte[] data = Frame(100 + length, 3)[14..];
            byte[] frame = TestFrames.Tcp(is6 ? s_from6 : s_from4, is6 ? s_to6 : s_to4, 1, 2, 16, data, partial: true);
            int tcp = is6 ? 54 : 34;
            guest.Send(new FrameWork(FrameFlags.NeedsChecksum, default, 0, 0, (ushort)tcp, 16), frame);
            Guest.Until(() => !cable.Sent.IsEmpty);
            Assert.True(cable.Sent.TryDequeue(out byte[]? sent));
            Assert.Equal(data, TestFrames.Open(sent).Data);
            Array.Clear(frame, tcp + 16, 2);
            Array.Clear(sent, tcp + 16, 2);
            Assert.Equal(frame, sent);
        }
    }

    /// <summary>A checksum outside the frame, frames without a header or longer than any: they are lost, and the next one comes.</summary>
    [Fact]
    public void Frames_that_cannot_be_are_lost()
    {
        using var cable = new TestCable();
        using var guest = new Guest(cable, Plain, NetworkFeature.Checksum | NetworkFeature.HostTcp4);
        guest.Send(new FrameWork(FrameFlags.NeedsChecksum, default, 0, 0, 60, 16), Frame(77, 1));
        guest.Send(new FrameWork(FrameFlags.NeedsChecksum, default, 0, 0, 0xFFFF, 0xFFFF), Frame(77, 1));
        guest.Send(default, new byte[13]);
        guest.Send(default, new byte[65554]);
        guest.Send(new FrameWork(FrameFlags.NeedsChecksum, Segmentation.Tcp4, 54, 1000, 14, 16), Frame(3000, 1));
        guest.Send(new FrameWork(FrameFlags.NeedsChecksum, Segmentation.Tcp4, 54, 0, 34, 16), TestFrames.Tcp(s_from4, s_to4, 1, 2, 16, new byte[3000]));
        byte[] good = Frame(65553, 1);
        guest.Send(default, good);
        Guest.Until(() => !cable.Sent.IsEmpty);
        Assert.Equal(good, Assert.Single(cable.Sent));
    }

    /// <summary>
    /// Section 5.1.6.2.1: a large TCP frame leaves as segments that a receiver takes; FIN and PSH on the last one, CWR on the first (RFC 3168).
    /// </summary>
    [Theory, InlineData(false), InlineData(true)]
    public void A_large_frame_leaves_in_segments(bool is6)
    {
        using var cable = new TestCable();
        using var guest = new Guest(cable, Plain, NetworkFeature.Checksum | NetworkFeature.HostTcp4 | NetworkFeature.HostTcp6);
        const byte fin = 1, push = 8, ack = 16, reduced = 0x80;
        byte[] data = Frame(50_014, 3)[14..];
        byte[] frame = TestFrames.Tcp(is6 ? s_from6 : s_from4, is6 ? s_to6 : s_to4, 1, 2, fin | push | ack | reduced, data, partial: true);
        ushort tcp = (ushort)(is6 ? 54 : 34);
        guest.Send(new FrameWork(FrameFlags.NeedsChecksum, is6 ? Segmentation.Tcp6 : Segmentation.Tcp4, (ushort)(tcp + 20), 1448, tcp, 16), frame);
        Guest.Until(() => cable.Sent.Count == 35);
        var all = new List<byte>();
        int n = 0;
        foreach (byte[] segment in cable.Sent)
        {
            (uint sequence, byte flags, byte[] part, ushort identification) = TestFrames.Open(segment);
            Assert.Equal(unchecked(0xFFFF_FF00 + (uint)all.Count), sequence);
            Assert.Equal(ack | (n == 0 ? reduced : 0) | (n == 34 ? fin | push : 0), flags);
            if (!is6) Assert.Equal(0x1234 + n, identification);
            Assert.True(segment.Length <= tcp + 20 + 1448);
            all.AddRange(part);
            n++;
        }
        Assert.Equal(data, all);
    }

    [Fact]
    public void A_cable_that_takes_large_frames_gets_them_whole()
    {
        using var cable = new TestCable { TakesLargeFrames = true };
        using var guest = new Guest(cable, Plain, NetworkFeature.Checksum | NetworkFeature.HostTcp4);
        byte[] data = new byte[40_000];
        guest.Send(new FrameWork(FrameFlags.NeedsChecksum, Segmentation.Tcp4, 54, 1448, 34, 16), TestFrames.Tcp(s_from4, s_to4, 1, 2, 16, data, partial: true));
        Guest.Until(() => !cable.Sent.IsEmpty);
        Assert.Equal(data, TestFrames.Open(Assert.Single(cable.Sent)).Data);
    }

    /// <summary>Section 5.1.6.4: with MRG_RXBUF a frame lies in as many buffers as it needs, which num_buffers counts and which all come at once.</summary>
    [Theory, InlineData((ulong)Plain), InlineData((ulong)Packed), InlineData((ulong)(Plain | VirtioFeatures.InOrder | VirtioFeatures.EventIndex))]
    public void A_frame_may_need_several_buffers(ulong ring)
    {
        using var cable = new TestCable();
        using var guest = new Guest(cable, (VirtioFeatures)ring, NetworkFeature.MergeBuffers);
        var random = new Random(3);
        for (int round = 0; round < 60; round++)
        {
            byte[] frame = Frame(random.Next(14, 9000), (byte)round);
            for (int room = 0; room < frame.Length + 12; room += 1000) guest.Give(1000);
            cable.Come(frame);
            (FrameWork work, byte[] came, int buffers) = guest.Await();
            Assert.Equal(frame, came);
            Assert.Equal((frame.Length + 12 + 999) / 1000, buffers);
            Assert.Equal(default, work);
        }
    }

    /// <summary>Section 5.1.6.3.1: without it a frame has one buffer; one that is too small for it loses the frame and stays for the next.</summary>
    [Fact]
    public void Without_merging_a_frame_has_one_buffer()
    {
        using var cable = new TestCable();
        using var guest = new Guest(cable, Plain, default);
        guest.Give(600);
        guest.Give(2000);
        cable.Come(Frame(1000, 1));
        cable.Come(Frame(588, 2));
        Assert.Equal(Frame(588, 2), guest.Await().Frame);
        cable.Come(Frame(1000, 3));
        (_, byte[] frame, int buffers) = guest.Await();
        Assert.Equal(Frame(1000, 3), frame);
        Assert.Equal(1, buffers);
    }

    /// <summary>Section 5.1.6.4.1: DATA_VALID and partial checksums are for drivers with GUEST_CSUM; for others the device completes them.</summary>
    [Theory, InlineData(false), InlineData(true)]
    public void What_is_known_of_a_checksum_is_told_to_who_asks(bool asks)
    {
        using var cable = new TestCable { HasOffloads = true };
        using var guest = new Guest(cable, Plain, NetworkFeature.MergeBuffers | (asks ? NetworkFeature.GuestChecksum | NetworkFeature.GuestTcp4 : 0));
        Guest.Until(() => cable.Accepted == (asks, asks, false));
        var partial = new FrameWork(FrameFlags.NeedsChecksum, default, 0, 0, 34, 16);
        byte[] frame = TestFrames.Tcp(s_from4, s_to4, 1, 2, 16, new byte[100], partial: true);
        guest.Give(3000);
        cable.Come(frame, partial);
        (FrameWork work, byte[] came, _) = guest.Await();
        Assert.Equal(asks ? partial : default, work);
        if (asks) Assert.Equal(frame, came);
        else TestFrames.Open(came);
        guest.Give(3000);
        guest.Give(3000);
        cable.Come(frame, partial with { Segmentation = Segmentation.Tcp4, SegmentSize = 50 }); // is lost on a driver without the feature
        cable.Come(Frame(60, 9));
        if (asks) Assert.Equal(Segmentation.Tcp4, guest.Await().Work.Segmentation);
        Assert.Equal(Frame(60, 9), guest.Await().Frame);
    }

    /// <summary>Frames wait for buffers, in their order, up to a bound.</summary>
    [Fact]
    public void Frames_wait_for_buffers_and_not_without_end()
    {
        using var cable = new TestCable();
        using var guest = new Guest(cable, Plain, NetworkFeature.MergeBuffers);
        const int length = 60_000, fit = (4 << 20) / length;
        for (int n = 0; n < fit + 20; n++) cable.Come(Frame(length, (byte)n));
        Guest.Until(() => cable.Coming.IsEmpty);
        for (int n = 0; n < fit; n++)
        {
            guest.Give(length + 12);
            Assert.Equal(Frame(length, (byte)n), guest.Await().Frame);
        }
        guest.Give(length + 12);
        cable.Come(Frame(60, 1));
        Assert.Equal(Frame(60, 1), guest.Await().Frame);
    }

    /// <summary>Sections 5.1.6.5.1 to 5.1.6.5.3: modes, the table of addresses, VLANs, and another address for the card.</summary>
    [Fact]
    public void A_driver_chooses_what_it_gets()
    {
        const NetworkFeature features = NetworkFeature.MergeBuffers | NetworkFeature.ControlQueue | NetworkFeature.ReceiveModes | NetworkFeature.Vlan
            | NetworkFeature.MoreReceiveModes | NetworkFeature.SetMac;
        using var cable = new TestCable();
        using var guest = new Guest(cable, Plain, features);
        byte[] other = [0x52, 0x54, 0, 9, 9, 9], group = [0x33, 0x33, 0, 0, 0, 1], all = TestFrames.Everybody, mark = [0x52, 0x54, 0, 7, 7, 7];
        void Expect(params byte[][] wanted)
        {
            byte n = 0;
            foreach (byte[] to in (byte[][])[s_mac, other, group, all]) cable.Come(Frame(60, n++, to));
            foreach (byte[] to in wanted)
            {
                guest.Give(2000);
                Assert.Equal(to, guest.Await().Frame[..6]);
            }
            // What passes no filter ever since: nothing was left over.
            Assert.True(guest.Command(ControlClass.Receive, 0, [1]));
            cable.Come(Frame(60, n, mark));
            guest.Give(2000);
            Assert.Equal(mark, guest.Await().Frame[..6]);
            Assert.True(guest.Command(ControlClass.Receive, 0, [0]));
        }
        Expect(s_mac, other, group, all); // all until the driver says something
        Expect(s_mac, all);
        Assert.True(guest.Command(ControlClass.Receive, 1, [1]));
        Expect(s_mac, group, all);
        Assert.True(guest.Command(ControlClass.Receive, 1, [0]));
        Assert.True(guest.Command(ControlClass.Mac, 0, [1, 0, 0, 0, .. other, 1, 0, 0, 0, .. group]));
        Expect(s_mac, other, group, all);
        Assert.True(guest.Command(ControlClass.Mac, 0, [0, 0, 0, 0, 0, 0, 0, 0]));
        Assert.True(guest.Command(ControlClass.Receive, 5, [1])); // no broadcasts
        Expect(s_mac);
        Assert.True(guest.Command(ControlClass.Receive, 5, [0]));
        Assert.True(guest.Command(ControlClass.Mac, 1, other));
        Expect(other, all);
        Assert.Equal(9u, guest.Driver.Device(5, 1));

        byte[] Tagged(byte vlan) => [.. all, .. other, 0x81, 0, 0x20, vlan, 0x88, 0xB5, .. new byte[44]];
        Assert.True(guest.Command(ControlClass.Vlan, 0, [7, 0]));
        cable.Come(Tagged(6));
        cable.Come(Tagged(7));
        guest.Give(2000);
        Assert.Equal(Tagged(7), guest.Await().Frame);
        Assert.True(guest.Command(ControlClass.Vlan, 1, [7, 0]));
        cable.Come(Tagged(7));
        cable.Come(Frame(60, 1, all));
        guest.Give(2000);
        Assert.Equal(Frame(60, 1, all), guest.Await().Frame);

        guest.Begin(features, 1); // a reset makes all of it as it was
        Assert.Equal(3u, guest.Driver.Device(5, 1));
        Expect(s_mac, other, group, all);
    }

    /// <summary>Section 5.1.6.5: what is no command is answered with VIRTIO_NET_ERR.</summary>
    [Fact]
    public void What_is_no_command_is_refused()
    {
        using var cable = new TestCable();
        using var guest = new Guest(cable, Plain, NetworkFeature.ControlQueue | NetworkFeature.ReceiveModes | NetworkFeature.SetMac);
        Assert.False(guest.Command((ControlClass)77, 0, [1]));
        Assert.False(guest.Command(ControlClass.Receive, 6, [1]));
        Assert.False(guest.Command(ControlClass.Receive, 0, []));
        Assert.False(guest.Command(ControlClass.Mac, 0, [255, 255, 255, 255, 0, 0, 0, 0]));
        Assert.False(guest.Command(ControlClass.Mac, 0, [0, 0, 0, 0]));
        Assert.False(guest.Command(ControlClass.Mac, 1, [1, 2, 3, 4, 5]));
        Assert.False(guest.Command(ControlClass.Queues, 0, [1, 0])); // without the feature
        Assert.False(guest.Command(ControlClass.Mac, 0, new byte[5000]));
        // More addresses than there is room for: then all come.
        Assert.True(guest.Command(ControlClass.Mac, 0, [200, 0, 0, 0, .. new byte[1200], 0, 0, 0, 0]));
        Assert.True(guest.Command(ControlClass.Receive, 0, [0]));
        guest.Give(2000);
        byte[] stranger = Frame(60, 1, [2, 2, 2, 2, 2, 2]);
        cable.Come(stranger);
        Assert.Equal(stranger, guest.Await().Frame);
    }

    /// <summary>Section 5.1.6.5.6: a connection's frames come in by the pair of queues by which it sends; a driver that wants one pair has one.</summary>
    [Fact]
    public void Connections_stay_on_their_queues()
    {
        using var cable = new TestCable();
        using var guest = new Guest(cable, Plain, NetworkFeature.MultiQueue | NetworkFeature.ControlQueue | NetworkFeature.MergeBuffers, 3);
        Assert.False(guest.Command(ControlClass.Queues, 0, [4, 0]));
        Assert.False(guest.Command(ControlClass.Queues, 0, [0, 0]));
        Assert.True(guest.Command(ControlClass.Queues, 0, [3, 0]));
        byte[] From(ushort port) => TestFrames.Tcp(s_from4, s_to4, port, 80, 16, new byte[20]);
        byte[] To(ushort port) => TestFrames.Tcp(s_to4, s_from4, 80, port, 16, new byte[20]);
        for (int queue = 0; queue < 3; queue++)
        {
            guest.Send(default, From((ushort)(1000 + queue)), 2 * queue + 1);
            guest.Give(2000, 2 * queue);
        }
        for (int queue = 2; queue >= 0; queue--) cable.Come(To((ushort)(1000 + queue)));
        for (int queue = 0; queue < 3; queue++) Assert.Equal(To((ushort)(1000 + queue)), guest.Await(2 * queue).Frame);
        Assert.True(guest.Command(ControlClass.Queues, 0, [1, 0]));
        guest.Give(2000);
        cable.Come(To(1002));
        Assert.Equal(To(1002), guest.Await(0).Frame);
    }

    /// <summary>Section 5.1.4.2: the driver is told when the link goes down; nothing passes then.</summary>
    [Fact]
    public void The_link_can_be_down()
    {
        using var cable = new TestCable();
        using var guest = new Guest(cable, Plain, NetworkFeature.Status | NetworkFeature.MergeBuffers);
        guest.Card.SetLink(false);
        Assert.Equal(2, guest.Driver.TakeInterrupt() & 2); // section 4.1.4.5.1: configuration has changed
        Assert.Equal(0u, guest.Driver.Device(6, 2));
        guest.Give(2000);
        guest.Send(default, Frame(60, 1));
        cable.Come(Frame(60, 2));
        Guest.Until(() => cable.Given == 1);
        guest.Card.SetLink(true);
        cable.Come(Frame(60, 3));
        Assert.Equal(Frame(60, 3), guest.Await().Frame);
        Assert.Empty(cable.Sent);
        // Who is at the other end goes away.
        (cable.IsConnected, cable.Changed) = (false, true);
        cable.Wake();
        Guest.Until(() => guest.Driver.Device(6, 2) == 0);
    }

    /// <summary>Sections 2.1.1 and 2.6.1: a frame that waited for buffers before a reset does not come after it, nor into buffers from before.</summary>
    [Fact]
    public void No_old_frame_outlives_a_reset()
    {
        using var cable = new TestCable();
        using var guest = new Guest(cable, Plain, NetworkFeature.MergeBuffers);
        guest.Give(100);
        cable.Come(Frame(1000, 1));
        Guest.Until(() => cable.Coming.IsEmpty);
        guest.Begin(NetworkFeature.MergeBuffers, 1);
        guest.Give(2000);
        cable.Come(Frame(1000, 2));
        Assert.Equal(Frame(1000, 2), guest.Await().Frame);
        Assert.Null(guest.Take());
    }

    /// <summary>A machine that is saved while the device holds buffers goes on in another one with all of them, and with what the driver has set up.</summary>
    [Theory, InlineData((ulong)Plain), InlineData((ulong)Packed)]
    public void A_saved_card_goes_on(ulong ring)
    {
        const NetworkFeature features = NetworkFeature.MergeBuffers | NetworkFeature.ControlQueue | NetworkFeature.ReceiveModes | NetworkFeature.SetMac;
        using var cable = new TestCable();
        using var guest = new Guest(cable, (VirtioFeatures)ring, features);
        Assert.True(guest.Command(ControlClass.Receive, 0, [0]));
        Assert.True(guest.Command(ControlClass.Mac, 1, [2, 0, 0, 0, 0, 8]));
        guest.Give(500);
        guest.Give(500);
        cable.Come(Frame(3000, 1, [2, 0, 0, 0, 0, 8])); // takes both, and waits for more
        Guest.Until(() => cable.Coming.IsEmpty);
        guest.Rig.Machine.Pause();
        using var otherCable = new TestCable();
        using var copy = new BoardRig(0, new VirtioPart(new NetworkCard("net", otherCable, s_mac), Slot));
        copy.Machine.Restore(guest.Rig.Machine.Save());
        copy.Machine.Resume();
        otherCable.Come(Frame(60, 2));
        otherCable.Come(Frame(700, 3, [2, 0, 0, 0, 0, 8]));
        guest.MoveTo(copy);
        Guest.Until(() => otherCable.Coming.IsEmpty);
        TestQueue moved = guest.Queue(0);
        int id = 0;
        uint written = 0;
        Guest.Until(() => moved.TryTakeUsed(out id, out written));
        Assert.Equal(500u, written);
        Assert.True(moved.TryTakeUsed(out id, out written));
        Assert.Equal(212u, written);
    }
}
