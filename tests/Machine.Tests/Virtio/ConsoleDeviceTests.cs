using System.Text;
using Bunraku.Hypervisor;
using Bunraku.Machine.Tests.State;
using Bunraku.Machine.Virtio;
using Bunraku.Machine.Virtio.Ports;

namespace Bunraku.Machine.Tests.Virtio;

/// <summary>The console device against a driver that is written from Virtual I/O Device (VIRTIO) Version 1.3, section 5.3.</summary>
public sealed class ConsoleDeviceTests
{
    private const int Slot = 5, Ready = 0, Add = 1, PortReady = 3, IsConsole = 4, Resize = 5, Open = 6, Name = 7; // section 5.3.6.2
    private const ulong Rings = 0x10_0000, RingStride = 0x3_0000, Data = 0x30_0000, SizeFeature = 1, MultiPort = 2;
    private const VirtioFeatures Plain = VirtioFeatures.Version1, Split = Plain | VirtioFeatures.EventIndex, Packed = Split | VirtioFeatures.RingPacked;

    private sealed class Guest : IDisposable
    {
        private readonly Dictionary<int, TestQueue> _queues = [];
        private readonly Dictionary<(int Queue, int Id), ulong> _given = [];
        private ulong _next = Data;

        public Guest(ConsoleDevice device, VirtioFeatures ring, ulong features, params int[] queues)
        {
            Rig = new BoardRig(0, new VirtioPart(device, Slot));
            Driver = new VirtioDriver(Rig, Slot);
            Assert.True(Driver.Negotiate((ulong)ring | features));
            for (int n = 0; n < queues.Length; n++) _queues[queues[n]] = Driver.SetUp(queues[n], 64, Rings + (ulong)n * RingStride, ring);
            Driver.SetDriverOk();
            Rig.Machine.Resume();
        }

        public BoardRig Rig { get; }
        public VirtioDriver Driver { get; }

        public void Give(int queue, uint length)
        {
            ulong at = _next;
            _next = _next + 0x1000 < BoardRig.Memory ? _next + 0x1000 : Data;
            _given[(queue, _queues[queue].Add([(at, length, true)]))] = at;
            Driver.Notify(queue);
        }

        public byte[]? Take(int queue)
        {
            if (!_queues[queue].TryTakeUsed(out int id, out uint written)) return null;
            byte[] bytes = new byte[written];
            Rig.Machine.Memory.Read(_given[(queue, id)], bytes);
            return bytes;
        }

        /// <summary>Buffers that were sent can be used again.</summary>
        public void TakeSent(int queue)
        {
            while (_queues[queue].TryTakeUsed(out _, out _))
            {
            }
        }

        public byte[] Await(int queue)
        {
            byte[]? bytes = null;
            Assert.True(SpinWait.SpinUntil(() => (bytes = Take(queue)) is not null, TimeSpan.FromMinutes(1)), "nothing comes");
            return bytes!;
        }

        public void Send(int queue, byte[] bytes, bool tells = true)
        {
            ulong at = _next;
            _next = _next + 0x1000 < BoardRig.Memory ? _next + 0x1000 : Data;
            Rig.Machine.Memory.Write(at, bytes);
            _queues[queue].Add([(at, (uint)bytes.Length, false)]);
            if (tells) Driver.Notify(queue);
        }

        public void Say(int port, ushort what, ushort value) =>
            Send(3, [.. BitConverter.GetBytes(port), .. BitConverter.GetBytes(what), .. BitConverter.GetBytes(value)]);

        /// <summary>The next message of the device.</summary>
        public (int Port, int What, int Value, byte[] More) Hear(bool gives = true)
        {
            if (gives) Give(2, 100);
            byte[] m = Await(2);
            return (BitConverter.ToInt32(m), BitConverter.ToUInt16(m, 4), BitConverter.ToUInt16(m, 6), m[8..]);
        }

        public TestQueue Queue(int number) => _queues[number];

        public void MoveTo(BoardRig other)
        {
            foreach (TestQueue queue in _queues.Values) queue.MoveTo(new DmaSpace(other.Machine.Memory));
        }

        public void Dispose() => Rig.Dispose();
    }

    /// <summary>Sections 5.3.4 and 5.3.6.2: ports are told of one by one, with their names, when the driver is ready for each.</summary>
    [Fact]
    public void Ports_are_told_of()
    {
        var terminal = new ConsolePort("tty", isConsole: true);
        var stream = new ConsolePort("org.test");
        using var guest = new Guest(new ConsoleDevice("console", terminal, null, stream), Plain, MultiPort, 2, 3);
        Assert.Equal(3u, guest.Driver.Device(4, 4));
        terminal.Resize(132, 50);
        guest.Say(0, Ready, 1);
        (int port, int what, _, _) = guest.Hear();
        Assert.Equal((0, Add), (port, what));
        (port, what, _, _) = guest.Hear();
        Assert.Equal((2, Add), (port, what));
        guest.Say(2, PortReady, 1);
        (port, what, _, byte[] name) = guest.Hear();
        Assert.Equal((2, Name, "org.test"), (port, what, Encoding.ASCII.GetString(name)));
        (port, what, int value, _) = guest.Hear();
        Assert.Equal((2, Open, 1), (port, what, value));
        guest.Say(0, PortReady, 1);
        Assert.Equal((0, IsConsole), (guest.Hear() is { Port: var p, What: var w } ? (p, w) : default));
        Assert.Equal(Name, guest.Hear().What);
        Assert.Equal(Open, guest.Hear().What);
        (port, what, _, byte[] size) = guest.Hear();
        Assert.Equal((0, Resize), (port, what));
        Assert.Equal((132, 50), (BitConverter.ToUInt16(size), BitConverter.ToUInt16(size, 2)));
        terminal.Resize(80, 25);
        (_, what, _, size) = guest.Hear();
        Assert.Equal((Resize, 80, 25), (what, BitConverter.ToUInt16(size), BitConverter.ToUInt16(size, 2)));
    }

    /// <summary>Section 5.3.4: a driver without several ports reads the size in configuration space, and is told when it changes.</summary>
    [Fact]
    public void One_port_has_its_size_in_configuration_space()
    {
        var terminal = new ConsolePort("tty", isConsole: true);
        using var guest = new Guest(new ConsoleDevice("console", terminal), Plain, SizeFeature, 0, 1);
        terminal.Resize(132, 50);
        Assert.True(SpinWait.SpinUntil(() => (guest.Driver.TakeInterrupt() & 2) != 0, TimeSpan.FromMinutes(1)));
        Assert.Equal((132u, 50u), (guest.Driver.Device(0, 2), guest.Driver.Device(2, 2)));
        terminal.Send("x"u8);
        guest.Give(0, 10);
        Assert.Equal("x"u8.ToArray(), guest.Await(0));
    }

    /// <summary>Bytes come in their order, however many buffers there are and however large; the end comes behind all of them.</summary>
    [Theory]
    [InlineData((ulong)Plain, 1)]
    [InlineData((ulong)Split, 3)]
    [InlineData((ulong)Split, 40)]
    [InlineData((ulong)Packed, 1)]
    [InlineData((ulong)Packed, 40)]
    public void Input_comes_whole_and_then_its_end(ulong ring, int buffers)
    {
        var port = new ConsolePort("in");
        using var guest = new Guest(new ConsoleDevice("console", null, port), (VirtioFeatures)ring, MultiPort, 2, 3, 4, 5);
        guest.Say(1, PortReady, 1);
        Assert.Equal(Name, guest.Hear().What);
        Assert.Equal((Open, 1), guest.Hear() is { What: var w, Value: var v } ? (w, v) : default);
        guest.Give(2, 100); // for the message about the end, which must come by itself
        byte[] sent = new byte[300_000];
        new Random(9).NextBytes(sent);
        var random = new Random(buffers);
        for (int n = 0; n < buffers; n++) guest.Give(4, (uint)random.Next(1, 4096));
        for (int at = 0; at < sent.Length;)
        {
            int length = Math.Min(random.Next(1, 70_000), sent.Length - at);
            port.Send(sent.AsSpan(at, length));
            at += length;
        }
        port.End();
        Thread.Sleep(20); // time for it to come before the guest has opened the port, if it could
        Assert.Null(guest.Take(4));
        guest.Say(1, Open, 1);
        var came = new List<byte>();
        while (came.Count < sent.Length)
        {
            came.AddRange(guest.Await(4));
            guest.Give(4, (uint)random.Next(1, 4096));
        }
        Assert.Equal(sent, came);
        Assert.Equal((1, Open, 0), guest.Hear(gives: false) is { Port: var p, What: var what, Value: var value } ? (p, what, value) : default);
    }

    /// <summary>The end of what the guest sends comes behind all that it has sent, also where it did not tell of it: both go by different queues.</summary>
    [Theory, InlineData((ulong)Plain), InlineData((ulong)Packed)]
    public void Output_comes_whole_before_its_end(ulong ring)
    {
        var came = new List<byte>();
        int? atEnd = null;
        var port = new ConsolePort("out");
        port.Output = bytes => came.AddRange(bytes);
        port.OutputEnded = () => atEnd = came.Count;
        using var guest = new Guest(new ConsoleDevice("console", null, port), (VirtioFeatures)ring, MultiPort, 2, 3, 4, 5);
        guest.Say(1, PortReady, 1);
        guest.Say(1, Open, 1);
        var sent = new List<byte>();
        for (int n = 1; n < 60; n++)
        {
            byte[] bytes = new byte[n * 60];
            new Random(n).NextBytes(bytes);
            guest.Send(5, bytes, tells: n % 7 == 0);
            sent.AddRange(bytes);
        }
        guest.Say(1, Open, 0);
        Assert.Equal(sent, came);
        Assert.Equal(sent.Count, atEnd);
        port.Send("nobody"u8); // nobody reads it any more, and nobody waits for room
        Assert.True(port.AwaitRoom(1, 0));
    }

    /// <summary>A port that a program has closed can be opened by another, which gets what comes from then on and nothing that was for the first.</summary>
    [Fact]
    public void Another_program_can_open_a_port_again()
    {
        var port = new ConsolePort("in");
        using var guest = new Guest(new ConsoleDevice("console", null, port), Plain, MultiPort, 2, 3, 4, 5);
        guest.Say(1, PortReady, 1);
        guest.Say(1, Open, 1);
        port.Send("for the first"u8);
        guest.Say(1, Open, 0);
        port.Send("for nobody"u8);
        guest.Give(4, 100);
        guest.Say(1, Open, 1);
        port.Send("for the second"u8);
        Assert.Equal("for the second"u8.ToArray(), guest.Await(4));
    }

    /// <summary>A machine is saved while input waits; the other one goes on with it.</summary>
    [Fact]
    public void A_saved_console_goes_on()
    {
        var port = new ConsolePort("in");
        using var guest = new Guest(new ConsoleDevice("console", null, port), Split, MultiPort, 2, 3, 4, 5);
        guest.Say(1, PortReady, 1);
        guest.Say(1, Open, 1);
        guest.Give(4, 3);
        port.Send("abcdefgh"u8);
        port.End();
        Assert.Equal("abc"u8.ToArray(), guest.Await(4));
        guest.Rig.Machine.Pause();
        var other = new ConsolePort("in");
        using var copy = new BoardRig(0, new VirtioPart(new ConsoleDevice("console", null, other), Slot));
        copy.Machine.Restore(guest.Rig.Machine.Save());
        guest.MoveTo(copy);
        copy.Machine.Resume();
        var driver = new VirtioDriver(copy, Slot);
        TestQueue queue = guest.Queue(4);
        queue.Add([(Data + 0x8000, 100, true)]);
        driver.Notify(4);
        Assert.True(queue.TryTakeUsed(out _, out uint written));
        Assert.Equal(5u, written);
        byte[] rest = new byte[5];
        copy.Machine.Memory.Read(Data + 0x8000, rest);
        Assert.Equal("defgh"u8.ToArray(), rest);
    }

    /// <summary>Messages about ports that are not there, of kinds that are not there, cut off, and more questions than anybody takes answers to.</summary>
    [Fact]
    public void Any_message_is_taken()
    {
        var port = new ConsolePort("in");
        using var guest = new Guest(new ConsoleDevice("console", null, port), Plain, MultiPort, 2, 3, 4, 5);
        var random = new Random(4);
        for (int n = 0; n < 20_000; n++)
        {
            byte[] message = new byte[random.Next(1, 12)];
            random.NextBytes(message);
            if (random.Next(2) == 0) message = [(byte)random.Next(3), 0, 0, 0, (byte)random.Next(9), 0, (byte)random.Next(2), 0];
            guest.Send(3, message);
            guest.TakeSent(3);
        }
        Assert.False(guest.Driver.Status.HasFlag(VirtioStatus.NeedsReset));
        guest.Say(1, PortReady, 1);
        for (int n = 0; n < 400; n++)
        {
            guest.Give(2, 100);
            if (guest.Take(2) is null) return;
        }
        Assert.Fail("the device has more messages than it may keep");
    }
}
