using System.Buffers.Binary;
using System.Collections.Concurrent;
using System.Net;
using Bunraku.Hypervisor;
using Bunraku.Machine.Ethernet;
using Bunraku.Machine.Pci;
using Bunraku.Machine.Tests.Network;
using Bunraku.Machine.Tests.State;
using Bunraku.Network;

namespace Bunraku.Machine.Tests.Ethernet;

/// <summary>
/// The card against a driver that is written from Intel's "PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual" (317453,
/// revision 4.0).
/// </summary>
public sealed class E1000Tests : IDisposable
{
    private const int Slot = 5, RingSize = 64;
    private const uint Registers = 0xE000_0000;
    private const ulong TransmitRing = 0x10_0000, ReceiveRing = 0x11_0000, Data = 0x12_0000, Buffers = 0x20_0000, BufferStride = 0x1000;
    private const byte EndOfPacket = 1, InsertsChecksum = 4, Segments = 4, Reports = 8, Extended = 0x20, Vlan = 0x40;
    private static readonly TimeSpan s_patience = TimeSpan.FromMinutes(1);

    private readonly TestCable _cable = new();
    private readonly BoardRig _rig;
    private readonly E1000 _card;
    private uint _tail, _received;
    private ulong _next = Data;

    public E1000Tests()
    {
        _card = new E1000("net", _cable, TestFrames.Guest);
        _rig = new BoardRig(0, new E1000Part(_card, Slot));
        WriteConfig(PciRegister.FirstBar, 4, Registers);
        WriteConfig(PciRegister.FirstBar + 4, 4, 0xC001);
        WriteConfig(PciRegister.Command, 2, (uint)(PciCommand.MemorySpace | PciCommand.IoSpace | PciCommand.BusMaster));
    }

    public void Dispose()
    {
        _rig.Dispose();
        _cable.Dispose();
    }

    private sealed class TestCable : INetworkBackend
    {
        private readonly AutoResetEvent _wake = new(false);
        private int _given;

        public int Given => Volatile.Read(ref _given);
        public ConcurrentQueue<byte[]> Sent { get; } = new();
        public ConcurrentQueue<byte[]> Coming { get; } = new();
        public int Mtu => 1500;
        public bool HasOffloads => true;
        public bool TakesLargeFrames => false;
        public bool IsConnected => true;

        /// <summary>As a tap interface that another machine has left.</summary>
        public (bool, bool, bool) Offloads { get; private set; } = (true, true, true);

        public void Accept(bool checksums, bool segments4, bool segments6) => Offloads = (checksums, segments4, segments6);

        public void Send(in FrameWork work, ReadOnlySpan<byte> frame) => Sent.Enqueue(frame.ToArray());

        public void Serve(IFrameReceiver receiver, bool waits)
        {
            if (waits) _wake.WaitOne();
            while (Coming.TryDequeue(out byte[]? next))
            {
                receiver.Receive(default, next);
                Interlocked.Increment(ref _given);
            }
        }

        public void Come(byte[] frame)
        {
            int given = Given;
            Coming.Enqueue(frame);
            Wake();
            Assert.True(SpinWait.SpinUntil(() => Given > given, s_patience));
        }

        public void Wake() => _wake.Set();

        public void Dispose() => _wake.Dispose();
    }

    private void WriteConfig(int register, int size, uint value)
    {
        _rig.Io(PciHost.FirstPort, 4, true, 1u << 31 | (uint)(Slot << 11 | register & 0xFC));
        _rig.Io((ushort)(PciHost.FirstPort + 4 + (register & 3)), size, true, value);
    }

    private bool PinIsHigh
    {
        get
        {
            _rig.Io(PciHost.FirstPort, 4, true, 1u << 31 | (uint)(Slot << 11 | PciRegister.Status & 0xFC));
            return (_rig.Io((ushort)(PciHost.FirstPort + 4 + (PciRegister.Status & 3)), 2, false, 0) & 8) != 0;
        }
    }

    private uint this[int register]
    {
        get => (uint)_rig.Mmio(0, Registers + (uint)register, 4, false, 0);
        set => _rig.Mmio(0, Registers + (uint)register, 4, true, value);
    }

    [Fact]
    public void Frames_to_the_guest_are_complete() => Assert.Equal((false, false, false), _cable.Offloads);

    private void Start(uint receive = 0x8002)
    {
        this[0x3800] = (uint)TransmitRing;
        this[0x3808] = RingSize * 16;
        this[0x400] = 2;
        this[0x2800] = (uint)ReceiveRing;
        this[0x2808] = RingSize * 16;
        for (uint n = 0; n < RingSize; n++) _rig.Machine.Memory.TryWrite(ReceiveRing + n * 16, Buffers + n * BufferStride);
        this[0x2818] = RingSize - 1;
        this[0x100] = receive;
        _rig.Machine.Resume();
    }

    private ulong Put(byte[] bytes)
    {
        ulong at = _next;
        _next += (uint)bytes.Length + 7u & ~7u;
        Assert.True(_next < Buffers && _rig.Machine.Memory.Write(at, bytes));
        return at;
    }

    private void Describe(ulong first, uint third, uint fourth)
    {
        ulong at = TransmitRing + _tail * 16;
        _rig.Machine.Memory.TryWrite(at, first);
        _rig.Machine.Memory.TryWrite(at + 8, third);
        _rig.Machine.Memory.TryWrite(at + 12, fourth);
        _tail = (_tail + 1) % RingSize;
    }

    private void Go() => this[0x3818] = _tail;

    private byte[] AwaitSent()
    {
        byte[]? frame = null;
        Assert.True(SpinWait.SpinUntil(() => _cable.Sent.TryDequeue(out frame), s_patience), "nothing is sent");
        return frame!;
    }

    /// <summary>A frame that came, with status and tag of its last descriptor; null: none.</summary>
    private (byte[] Frame, byte Status, ushort Tag)? Take()
    {
        var frame = new List<byte>();
        while (true)
        {
            ulong at = ReceiveRing + _received * 16;
            _rig.Machine.Memory.TryRead(at + 12, out byte status);
            if ((status & 1) == 0) return frame.Count == 0 ? null : throw new InvalidOperationException("a frame has no end");
            _rig.Machine.Memory.TryRead(at + 8, out ushort length);
            _rig.Machine.Memory.TryRead(at + 14, out ushort tag);
            byte[] part = new byte[length];
            _rig.Machine.Memory.Read(Buffers + _received * BufferStride, part);
            frame.AddRange(part);
            _rig.Machine.Memory.TryWrite(at + 12, (byte)0);
            _received = (_received + 1) % RingSize;
            if ((status & 2) != 0) return ([.. frame], status, tag);
        }
    }

    /// <summary>Section 5: each word by EERD and bit by bit through EECD; their sum is BABAh.</summary>
    [Fact]
    public void The_eeprom_has_the_address_and_its_checksum()
    {
        ushort sum = 0;
        for (uint word = 0; word < 64; word++)
        {
            this[0x14] = word << 8 | 1;
            uint read = this[0x14];
            Assert.Equal(0x10u, read & 0x10);
            var value = (ushort)(read >> 16);
            Assert.Equal(value, ReadSerially(word));
            if (word < 3) Assert.Equal(BinaryPrimitives.ReadUInt16LittleEndian(TestFrames.Guest.AsSpan((int)word * 2)), value);
            sum += value;
        }
        Assert.Equal(0xBABA, sum);
        Assert.Equal(BinaryPrimitives.ReadUInt32LittleEndian(TestFrames.Guest), this[0x5400]);
        Assert.Equal(1u << 31 | BinaryPrimitives.ReadUInt16LittleEndian(TestFrames.Guest.AsSpan(4)), this[0x5404]);
    }

    private ushort ReadSerially(uint word)
    {
        const uint clock = 1, select = 2, to = 4, from = 8, request = 0x40, grant = 0x80;
        this[0x10] = request;
        Assert.Equal(grant, this[0x10] & grant);
        this[0x10] = request | select;
        void Bit(uint bit)
        {
            this[0x10] = request | select | bit * to;
            this[0x10] = request | select | bit * to | clock;
            this[0x10] = request | select | bit * to;
        }
        uint command = 0b110 << 6 | word;
        for (int n = 8; n >= 0; n--) Bit(command >> n & 1);
        uint value = 0;
        for (int n = 0; n < 16; n++)
        {
            this[0x10] = request | select | clock;
            value = value << 1 | ((this[0x10] & from) != 0 ? 1u : 0);
            this[0x10] = request | select;
        }
        this[0x10] = 0;
        return (ushort)value;
    }

    private ushort Phy(uint register)
    {
        this[0x20] = 2u << 26 | 1 << 21 | register << 16;
        uint value = this[0x20];
        Assert.Equal(1u << 28, value & (1u << 28 | 1 << 30));
        return (ushort)value;
    }

    [Fact]
    public void The_link_is_told_of()
    {
        Assert.Equal((0x0141, 0x0C20), (Phy(2), Phy(3)));
        Assert.Equal(0x24, Phy(1) & 0x24);
        Assert.Equal(0x83u, this[8] & 0x83); // up, full duplex, 1000 Mb/s
        this[0x20] = 2u << 26 | 5 << 21; // nobody is at another address
        Assert.NotEqual(0u, this[0x20] & 1 << 30);
        this[0xD0] = 4;
        Assert.Equal(0u, this[0xC0]);
        _card.SetLink(false);
        Assert.True(PinIsHigh);
        Assert.Equal((0x81u, 0), (this[8] & 0x83, Phy(1) & 4));
        Assert.Equal(4u, this[0xC0]);
        Assert.False(PinIsHigh); // reading clears the cause
        _card.SetLink(true);
        Assert.Equal(4u, this[0xC0]);
    }

    /// <summary>Section 13.4.18: 256 ns a unit, counted from one rise of the pin to the next.</summary>
    [Fact]
    public void Interrupts_are_throttled()
    {
        this[0xD0] = 0x84;
        this[0xC4] = 1000; // 256 us
        this[0xC8] = 0x80;
        Assert.True(PinIsHigh);
        Assert.Equal(0x80u, this[0xC0]);
        this[0xC8] = 4;
        Assert.False(PinIsHigh);
        _rig.Advance(255_000);
        Assert.False(PinIsHigh);
        _rig.Advance(2_000);
        Assert.True(PinIsHigh);
        this[0xD8] = 4; // masked
        Assert.False(PinIsHigh);
        Assert.Equal(4u, this[0xC0]);
    }

    /// <summary>Section 3.3.3: a frame in several pieces, with a checksum that the card puts in; what was done is reported where that was asked for.</summary>
    [Fact]
    public void Legacy_descriptors_send()
    {
        Start();
        this[0xD0] = 3;
        byte[] frame = TestFrames.Tcp(IPAddress.Parse("10.0.2.15"), IPAddress.Parse("10.0.2.2"), 1, 2, 0x18, new byte[333], partial: true);
        Describe(Put(frame[..20]), 20, 0);
        Describe(Put(frame[20..100]), 80, 0);
        const uint start = 34, place = 50;
        Describe(Put(frame[100..]), (uint)frame.Length - 100 | place << 16 | (uint)(EndOfPacket | InsertsChecksum | Reports) << 24, start << 8);
        Go();
        Assert.Equal(333, TestFrames.Open(AwaitSent()).Data.Length);
        Assert.True(SpinWait.SpinUntil(() => this[0x3810] == _tail, s_patience));
        for (uint n = 0; n < 3; n++)
        {
            _rig.Machine.Memory.TryRead(TransmitRing + n * 16 + 12, out byte status);
            Assert.Equal(n == 2 ? 1 : 0, status & 1);
        }
        Assert.True(PinIsHigh);
        Assert.Equal(3u, this[0xC0]);
        Assert.Equal((1u, 0u), (this[0x4080], this[0x4080])); // good packets sent, cleared by the read
    }

    private void Context(uint ipEnd, uint tcpStart, uint tcpPlace, bool segments, bool is4, uint payload = 0, uint headers = 0, uint segment = 0)
    {
        ulong first = 14ul | 24ul << 8 | (ulong)ipEnd << 16 | (ulong)tcpStart << 32 | (ulong)tcpPlace << 40;
        Describe(first, payload | (uint)(Extended | (segments ? Segments : 0) | (is4 ? 2 : 0) | 1) << 24, headers << 8 | segment << 16);
    }

    /// <summary>Section 3.5: checksums of IPv4 and TCP by a context.</summary>
    [Fact]
    public void Checksums_are_put_in()
    {
        Start();
        byte[] frame = TestFrames.Tcp(IPAddress.Parse("10.0.2.15"), IPAddress.Parse("10.0.2.2"), 1, 2, 0x18, new byte[100], partial: true);
        frame.AsSpan(24, 2).Clear();
        Context(33, 34, 50, segments: false, is4: true);
        Describe(Put(frame), (uint)frame.Length | 1 << 20 | (uint)(EndOfPacket | Extended | Reports) << 24, 3 << 8);
        Go();
        Assert.Equal(100, TestFrames.Open(AwaitSent()).Data.Length);
    }

    /// <summary>Section 3.5.2 "TCP Segmentation": with a tag as well.</summary>
    [Theory]
    [InlineData("10.0.2.15", "10.0.2.2", false)]
    [InlineData("fec0::15", "fec0::2", false)]
    [InlineData("10.0.2.15", "10.0.2.2", true)]
    public void Large_packets_are_cut(string from, string to, bool tagged)
    {
        Start();
        byte[] data = new byte[10_000];
        new Random(3).NextBytes(data);
        byte[] frame = TestFrames.Tcp(IPAddress.Parse(from), IPAddress.Parse(to), 1, 2, 0x18, data, partial: true);
        bool is4 = from.Contains('.', StringComparison.Ordinal);
        uint tcp = is4 ? 34u : 54, headers = tcp + 20;
        Context(is4 ? 33u : 0, tcp, tcp + 16, segments: true, is4, (uint)data.Length, headers, 1000);
        uint tag = tagged ? Vlan : 0u;
        Describe(Put(frame[..(int)headers]), headers | 1 << 20 | (uint)(Extended | Segments) << 24, 3 << 8);
        Describe(Put(frame[(int)headers..]), (uint)data.Length | 1 << 20 | (EndOfPacket | Extended | Segments | Reports | tag) << 24, 3 << 8 | 0x2005u << 16);
        Go();
        var all = new List<byte>();
        for (int n = 0; n < 10; n++)
        {
            byte[] segment = AwaitSent();
            if (tagged)
            {
                Assert.Equal([0x81, 0, 0x20, 5], segment[12..16]);
                segment = [.. segment[..12], .. segment[16..]];
            }
            (uint sequence, byte flags, byte[] part, _) = TestFrames.Open(segment);
            Assert.Equal((unchecked(0xFFFF_FF00 + (uint)all.Count), n == 9 ? 0x18 : 0x10), (sequence, (int)flags));
            all.AddRange(part);
        }
        Assert.Equal(data, all);
    }

    /// <summary>Section 3.2: frames in buffers, in several where they are long, with padding and check sequence.</summary>
    [Fact]
    public void Frames_come()
    {
        Start(0x8002 | 1 << 5 | 3 << 16); // long packets, buffers of 256 bytes
        this[0xD0] = 0x80;
        byte[] frame = TestFrames.Ethernet(TestFrames.Guest, 0x0800, [.. Enumerable.Range(0, 700).Select(n => (byte)n)]);
        _cable.Come(frame);
        Assert.True(PinIsHigh);
        (byte[] bytes, byte status, _) = Take()!.Value;
        Assert.Equal(frame.Length + 4, bytes.Length);
        Assert.Equal(frame, bytes[..^4]);
        Assert.Equal(7, status); // done, end, no checksum was looked at
        Assert.Equal(3u, this[0x2810]);
        _cable.Come(TestFrames.Ethernet(TestFrames.Everybody, 0x0806, [1]));
        Assert.Equal(64, Take()!.Value.Frame.Length);
        Assert.Equal((2u, 1u), (this[0x4074], this[0x4078]));
    }

    /// <summary>Without descriptors frames wait, and come when there are some.</summary>
    [Fact]
    public void Frames_wait_for_descriptors()
    {
        Start();
        this[0x2818] = 1; // one descriptor
        byte[] frame = TestFrames.Ethernet(TestFrames.Guest, 0x0800, new byte[100]);
        for (byte n = 0; n < 3; n++)
        {
            frame[20] = n;
            _cable.Come([.. frame]);
        }
        Assert.Equal(0, Take()!.Value.Frame[20]);
        Assert.Null(Take());
        this[0x2818] = 10;
        (byte[] Frame, byte, ushort)? next = null;
        for (byte n = 1; n < 3; n++)
        {
            Assert.True(SpinWait.SpinUntil(() => (next = Take()) is not null, s_patience));
            Assert.Equal(n, next!.Value.Frame[20]);
        }
    }

    /// <summary>Section 3.2.1 and 9.2.</summary>
    [Fact]
    public void Frames_are_filtered()
    {
        Start(2 | 1 << 26); // strips the check sequence
        bool Comes(byte[] to, ushort type = 0x0800, params byte[] start)
        {
            _cable.Come(TestFrames.Ethernet(to, type, [.. start, .. new byte[80]]));
            return Take() is not null;
        }
        byte[] other = [0x52, 0x54, 0, 9, 9, 9], group = [0x01, 0x00, 0x5E, 0x12, 0x34, 0x56];
        Assert.True(Comes(TestFrames.Guest));
        Assert.False(Comes(other) || Comes(group) || Comes(TestFrames.Everybody));
        this[0x100] |= 1 << 15; // broadcasts
        Assert.True(Comes(TestFrames.Everybody));
        // MTA, each way to take bits of the address: section 13.5.1.
        foreach ((uint mo, int shift) in (ReadOnlySpan<(uint, int)>)[(0, 4), (1, 3), (2, 2), (3, 0)])
        {
            int hash = (0x5634 >> shift) & 0xFFF;
            this[0x100] = this[0x100] & ~(3u << 12) | mo << 12;
            this[0x5200 + hash / 32 * 4] = 1u << hash % 32;
            Assert.True(Comes(group));
            this[0x5200 + hash / 32 * 4] = ~(1u << hash % 32);
            Assert.False(Comes(group));
            this[0x5200 + hash / 32 * 4] = 0;
        }
        this[0x5408] = BinaryPrimitives.ReadUInt32LittleEndian(other);
        this[0x540C] = 1u << 31 | BinaryPrimitives.ReadUInt16LittleEndian(other.AsSpan(4));
        Assert.True(Comes(other));
        this[0x540C] &= ~(1u << 31);
        Assert.False(Comes(other));
        this[0x100] |= 1 << 3;
        Assert.True(Comes(other));
        Assert.False(Comes(group));
        this[0x100] |= 1 << 4;
        Assert.True(Comes(group));

        this[0x100] |= 1 << 18; // VLANs
        Assert.True(Comes(TestFrames.Guest));
        Assert.False(Comes(TestFrames.Guest, 0x8100, 0x20, 0x45, 8, 0));
        this[0x5600 + 0x45 / 32 * 4] = 1u << 0x45 % 32;
        Assert.True(Comes(TestFrames.Guest, 0x8100, 0x20, 0x45, 8, 0));
        this[0] |= 1 << 30; // tags are taken out
        _cable.Come(TestFrames.Ethernet(TestFrames.Guest, 0x8100, [0x20, 0x45, 8, 0, .. new byte[80]]));
        (byte[] frame, byte status, ushort tag) = Take()!.Value;
        Assert.Equal((94, 0x2045, 8), (frame.Length, tag, status & 8));
        Assert.Equal([8, 0], frame[12..14]);
    }

    /// <summary>Section 13.2.1.2: the same registers by two ports.</summary>
    [Fact]
    public void Ports_reach_the_registers()
    {
        _rig.Io(0xC000, 4, true, 0x100);
        _rig.Io(0xC004, 4, true, 0x1234);
        Assert.Equal(0x1234u, this[0x100]);
        _rig.Io(0xC000, 4, true, 0);
        _rig.Io(0xC004, 4, true, 1 << 26); // reset
        Assert.Equal((0u, 0u), (this[0x100], this[0] & 1 << 26));
        _rig.Io(0xC000, 4, true, 0xFFFF_FFFC);
        Assert.Equal(0ul, _rig.Io(0xC004, 4, false, 0));
    }

    [Fact]
    public void It_is_saved_in_the_middle_and_goes_on()
    {
        Start();
        this[0xD0] = 0x80;
        this[0x38] = 0x88A8;
        _cable.Come(TestFrames.Ethernet(TestFrames.Everybody, 0x0800, new byte[100]));
        Context(33, 34, 50, segments: false, is4: true);
        Go();
        Assert.True(SpinWait.SpinUntil(() => this[0x3810] == _tail, s_patience));
        _rig.Machine.Pause();
        MachineState saved = _rig.Machine.Save();
        this[0x100] = 0;
        this[0xC0] = 0xFFFF_FFFF;
        this[0] = 1 << 26;
        _rig.Machine.Restore(saved);
        Assert.Empty(saved.Differences(_rig.Machine.Save()));
        _rig.Machine.Resume();
        Assert.Equal((0x8002u, 0x88A8u, true), (this[0x100], this[0x38], PinIsHigh));
        byte[] frame = TestFrames.Tcp(IPAddress.Parse("10.0.2.15"), IPAddress.Parse("10.0.2.2"), 1, 2, 0x18, new byte[100], partial: true);
        Describe(Put(frame), (uint)frame.Length | 1 << 20 | (uint)(EndOfPacket | Extended | Reports) << 24, 2 << 8);
        Go();
        TestFrames.Open(AwaitSent()); // by the context from before
    }

    /// <summary>A state from anywhere holds nothing that a driver could not have written.</summary>
    [Fact]
    public void A_state_has_no_bits_that_registers_lack()
    {
        var state = (E1000State)_card.Save();
        state.Registers.AsSpan().Fill(uint.MaxValue);
        _card.Restore(state with { Causes = uint.MaxValue, Mask = uint.MaxValue });
        Assert.Equal((0xF_FF80u, 0xF_FF80u, 0xFFFFu, 0xFFFFu), (this[0x2808], this[0x3808], this[0x3810], this[0xC4]));
        Assert.Equal((0u, 0u, 0x1_FFFFu), (this[0] & 1 << 26, this[0x08FC], this[0xD0]));
        Assert.Equal(uint.MaxValue, this[0x4074]);
        var again = (E1000State)_card.Save();
        again.Registers.CopyTo(state.Registers, 0);
        _card.Restore(state);
        Assert.Equal(again.Registers, ((E1000State)_card.Save()).Registers); // what was once kept stays
    }

    /// <summary>Any access to registers, anything in memory where rings are: nothing is thrown, and the board answers.</summary>
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public void A_hostile_driver_harms_itself_alone(int seed)
    {
        var random = new Random(seed);
        Start();
        ulong version = _rig.Mmio(0, 0xFEE0_0030, 4, false, 0);
        int[] doors = [.. E1000Register.Plain.Select(p => p.Offset).Where(o => o < 0x5200), 0, 8, 0x10, 0x14, 0x20, 0xC0, 0xC8, 0xD0, 0xD8, 0x5400, 0x5404];
        for (int n = 0; n < 150_000; n++)
        {
            switch (random.Next(8))
            {
                case 0:
                    this[random.Next(0x8000) * 4] = (uint)random.NextInt64(1L << 32);
                    break;
                case 1 or 2:
                    this[doors[random.Next(doors.Length)]] = random.Next(3) == 0 ? (uint)random.NextInt64(1L << 32) : (uint)random.Next(0x100);
                    break;
                case 3:
                    _rig.Mmio(0, Registers + (ulong)random.Next(0x2_0000), 1 << random.Next(4), random.Next(2) == 0, (ulong)random.NextInt64());
                    break;
                case 4:
                    _rig.Io((ushort)(0xC000 + random.Next(64)), 1 << random.Next(3), random.Next(2) == 0, (ulong)random.NextInt64());
                    break;
                case 5 when random.Next(20) == 0:
                    this[0x3800] = (uint)TransmitRing;
                    this[0x3808] = RingSize * 16;
                    this[0x400] = 2;
                    this[0x2800] = (uint)ReceiveRing;
                    this[0x2808] = RingSize * 16;
                    this[0x100] = 0x801A;
                    this[0x3818] = (uint)random.Next(70);
                    this[0x2818] = (uint)random.Next(70);
                    break;
                case 6 when random.Next(50) == 0:
                    _cable.Coming.Enqueue(new byte[random.Next(14, 3000)]);
                    _cable.Wake();
                    _cable.Sent.Clear();
                    break;
                default:
                    ulong place = (random.Next(2) == 0 ? TransmitRing : ReceiveRing) + (ulong)random.Next(RingSize) * 16;
                    _rig.Machine.Memory.TryWrite(place, random.Next(4) == 0 ? (ulong)random.NextInt64() : Data + (ulong)random.Next(0x1000));
                    _rig.Machine.Memory.TryWrite(place + 8, random.NextInt64());
                    break;
            }
        }
        Assert.Equal(version, _rig.Mmio(0, 0xFEE0_0030, 4, false, 0));
        _rig.Machine.Pause();
    }
}
