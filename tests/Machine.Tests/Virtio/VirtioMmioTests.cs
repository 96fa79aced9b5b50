using System.Buffers.Binary;
using Bunraku.Hypervisor;
using Bunraku.Machine.Board;
using Bunraku.Machine.Tests.Board;
using Bunraku.Machine.Tests.State;
using Bunraku.Machine.Virtio;

namespace Bunraku.Machine.Tests.Virtio;

/// <summary>Virtio devices in memory against a driver that is written from Virtual I/O Device (VIRTIO) Version 1.3, section 4.2 "Virtio Over MMIO".</summary>
public sealed class VirtioMmioTests
{
    private const ulong Registers = 0xFEB0_0000, Queue = 0x10_0000, Data = 0x20_0000;
    private const VirtioFeatures Plain = VirtioFeatures.Version1, Packed = Plain | VirtioFeatures.RingPacked | VirtioFeatures.EventIndex;

    // Section 4.2.2, by offset.
    private const uint Magic = 0, Version = 4, DeviceId = 8, DeviceFeatures = 0x10, DeviceFeaturesSel = 0x14, DriverFeatures = 0x20, DriverFeaturesSel = 0x24,
        QueueSel = 0x30, QueueSizeMax = 0x34, QueueSize = 0x38, QueueReady = 0x44, QueueNotify = 0x50, InterruptStatus = 0x60, InterruptAck = 0x64,
        StatusRegister = 0x70, QueueDesc = 0x80, QueueDriver = 0x90, QueueDevice = 0xA0, ShmLenLow = 0xB0, QueueResetRegister = 0xC0, ConfigGeneration = 0xFC,
        Config = 0x100;

    private sealed class Wire : IInterruptLine
    {
        public bool IsHigh { get; private set; }
        public int Rises { get; private set; }

        public void Set(bool asserted)
        {
            if (asserted && !IsHigh) Rises++;
            IsHigh = asserted;
        }
    }

    /// <summary>Its device has a configuration space of eight bytes, of which the driver can write all, and a queue that it fills with ones.</summary>
    private sealed class Probe() : VirtioDevice("probe", VirtioType.Entropy, 16, 8)
    {
        private readonly byte[] _configuration = [1, 2, 3, 4, 5, 6, 7, 8];

        protected override ReadOnlySpan<byte> Configuration => _configuration;

        protected override void WriteConfiguration(int offset, ReadOnlySpan<byte> bytes) => bytes.CopyTo(_configuration.AsSpan(offset));

        protected override void Notified(int queue)
        {
            while (Live(queue)?.Take() is { } buffer)
            {
                byte[] bytes = new byte[buffer.WritableLength];
                bytes.AsSpan().Fill(1);
                Assert.True(buffer.TryWrite(Dma, 0, bytes));
                Complete(queue, buffer, (uint)bytes.Length);
            }
        }

        public void Change() => ConfigurationChanged();
    }

    private sealed class Place(VirtioDevice device, IInterruptLine wire) : IBoardPart
    {
        public void AttachTo(IBoard board) => new VirtioMmio(device).AttachTo(board.Machine, Registers, wire);
    }

    private sealed class Rig : IDisposable
    {
        public Rig()
        {
            Device = new Probe();
            Board = new BoardRig(0, new Place(Device, Wire));
        }

        public Probe Device { get; }
        public Wire Wire { get; } = new();
        public BoardRig Board { get; }

        public ulong Read(uint at, int size = 4) => Board.Mmio(0, Registers + at, size, false, 0);

        public void Write(uint at, ulong value, int size = 4) => Board.Mmio(0, Registers + at, size, true, value);

        public VirtioStatus Status
        {
            get => (VirtioStatus)Read(StatusRegister);
            set => Write(StatusRegister, (ulong)value);
        }

        /// <summary>Section 3.1.1, up to the features.</summary>
        public bool Negotiate(VirtioFeatures features)
        {
            Status = 0;
            Status = VirtioStatus.Acknowledge | VirtioStatus.Driver;
            for (uint half = 0; half < 2; half++)
            {
                Write(DriverFeaturesSel, half);
                Write(DriverFeatures, (uint)((ulong)features >> (int)(32 * half)));
            }
            Status |= VirtioStatus.FeaturesOk;
            return Status.HasFlag(VirtioStatus.FeaturesOk);
        }

        public TestQueue SetUp(uint number, VirtioFeatures features)
        {
            var memory = new DmaSpace(Board.Machine.Memory);
            ulong at = Queue + number * 0x3_0000;
            TestQueue queue = features.HasFlag(VirtioFeatures.RingPacked) ? new TestPackedQueue(memory, 8, at, features)
                : new TestSplitQueue(memory, 8, at, features);
            Write(QueueSel, number);
            Assert.Equal(0ul, Read(QueueReady));
            Write(QueueSize, 8);
            (uint, ulong)[] places = [(QueueDesc, queue.Descriptors), (QueueDriver, queue.Driver), (QueueDevice, queue.Device)];
            foreach ((uint register, ulong address) in places)
            {
                Write(register, (uint)address);
                Write(register + 4, address >> 32);
            }
            Write(QueueReady, 1);
            Assert.Equal(1ul, Read(QueueReady));
            return queue;
        }

        public void Dispose() => Board.Dispose();
    }

    [Fact]
    public void Section_4_2_2_the_registers_say_what_it_is()
    {
        using var rig = new Rig();
        Assert.Equal("virt"u8.ToArray(), BitConverter.GetBytes((uint)rig.Read(Magic)));
        Assert.Equal((2ul, 4ul), (rig.Read(Version), rig.Read(DeviceId)));
        rig.Write(DeviceFeaturesSel, 1);
        Assert.Equal(1ul, rig.Read(DeviceFeatures) & 1); // VERSION_1
        rig.Write(DeviceFeaturesSel, 2);
        Assert.Equal(0ul, rig.Read(DeviceFeatures));
        Assert.Equal(16ul, rig.Read(QueueSizeMax));
        rig.Write(QueueSel, 1);
        Assert.Equal(8ul, rig.Read(QueueSizeMax));
        rig.Write(QueueSel, 2);
        Assert.Equal((0ul, 0ul), (rig.Read(QueueSizeMax), rig.Read(QueueReady))); // there is none
        rig.Write(QueueReady, 1);
        Assert.Equal(uint.MaxValue, rig.Read(ShmLenLow));
        Assert.Equal(0ul, rig.Read(Magic, 2)); // section 4.2.2.2: a register has 32 bits
        Assert.Equal(0ul, rig.Read(StatusRegister, 1));
    }

    [Theory]
    [InlineData(Plain)]
    [InlineData(Packed)]
    public void Buffers_come_back_and_an_interrupt_stays_until_it_is_acknowledged(VirtioFeatures features)
    {
        using var rig = new Rig();
        Assert.True(rig.Negotiate(features));
        TestQueue queue = rig.SetUp(0, features);
        rig.Status |= VirtioStatus.DriverOk;
        for (int n = 0; n < 20; n++)
        {
            int id = queue.Add([(Data, 16, true), (Data + 100, 16, true)]);
            rig.Write(QueueNotify, 0);
            Assert.True(queue.TryTakeUsed(out int used, out uint written));
            Assert.Equal((id, 32u), (used, written));
            Assert.True(rig.Board.Machine.Memory.TryRead(Data + 115, out byte last));
            Assert.Equal(1, last);
            Assert.Equal((1ul, true), (rig.Read(InterruptStatus), rig.Wire.IsHigh));
            rig.Write(InterruptAck, 1);
            Assert.Equal((0ul, false), (rig.Read(InterruptStatus), rig.Wire.IsHigh));
        }
        rig.Write(QueueNotify, 1); // was not enabled
        rig.Write(QueueNotify, uint.MaxValue);
        Assert.False(rig.Status.HasFlag(VirtioStatus.NeedsReset));
    }

    [Fact]
    public void Section_4_2_2_a_change_of_the_configuration_is_the_second_cause()
    {
        using var rig = new Rig();
        rig.Negotiate(Plain);
        TestQueue queue = rig.SetUp(0, Plain);
        rig.Status |= VirtioStatus.DriverOk;
        Assert.Equal((0x0403_0201ul, 0x0807ul, 5ul), (rig.Read(Config), rig.Read(Config + 6, 2), rig.Read(Config + 4, 1)));
        rig.Write(Config + 2, 0xAA, 1);
        Assert.Equal(0x04AA_0201ul, rig.Read(Config));
        Assert.Equal(0ul, rig.Read(Config + 0xF8));
        rig.Write(Config + 0xF8, 5);
        ulong generation = rig.Read(ConfigGeneration);
        queue.Add([(Data, 16, true)]);
        rig.Write(QueueNotify, 0);
        rig.Device.Change();
        Assert.NotEqual(generation, rig.Read(ConfigGeneration));
        Assert.Equal((3ul, 1), (rig.Read(InterruptStatus), rig.Wire.Rises));
        rig.Write(InterruptAck, 1);
        Assert.Equal((2ul, true, 2), (rig.Read(InterruptStatus), rig.Wire.IsHigh, rig.Wire.Rises)); // who waits for an edge gets one
        rig.Write(InterruptAck, 2);
        Assert.False(rig.Wire.IsHigh);
    }

    /// <summary>Section 4.2.2.1 and 2.6.1: a live queue keeps its place; it is taken back by itself, or with all.</summary>
    [Fact]
    public void A_queue_is_taken_back()
    {
        using var rig = new Rig();
        rig.Negotiate(Plain | VirtioFeatures.RingReset);
        rig.SetUp(0, Plain);
        rig.Status |= VirtioStatus.DriverOk;
        rig.Write(QueueDesc, 0x123450);
        rig.Write(QueueSize, 1);
        rig.Write(QueueReady, 1);
        Assert.Equal(Queue, rig.Device.Queue(0).Descriptors);
        rig.Write(QueueResetRegister, 1);
        Assert.Equal(0ul, rig.Read(QueueReady));
        TestQueue again = rig.SetUp(0, Plain);
        rig.Board.Machine.Memory.Write(Queue, new byte[0x3_0000]);
        again.Add([(Data, 16, true)]);
        rig.Write(QueueNotify, 0);
        Assert.True(again.TryTakeUsed(out _, out _));
        rig.Write(QueueReady, 0); // as Linux does when it lets a device go
        Assert.Equal(0ul, rig.Read(QueueReady));
        rig.Write(QueueReady, 1); // nowhere: its addresses are gone, and address 0 is RAM here
        rig.Status = 0;
        Assert.Equal((0ul, 0ul, false), (rig.Read(StatusRegister), rig.Read(InterruptStatus), rig.Wire.IsHigh));
        rig.Write(QueueSel, 0);
        Assert.Equal(0ul, rig.Read(QueueReady));
    }

    [Fact]
    public void Features_that_are_not_offered_are_refused()
    {
        using var rig = new Rig();
        Assert.False(rig.Negotiate(0));
        Assert.False(rig.Negotiate(Plain | (VirtioFeatures)1));
        Assert.True(rig.Negotiate(Plain));
        rig.Write(DriverFeaturesSel, 0);
        rig.Write(DriverFeatures, 1); // too late
        Assert.Equal(Plain, rig.Device.Features);
    }

    [Theory]
    [InlineData(Plain)]
    [InlineData(Packed)]
    public void It_is_saved_and_restored(VirtioFeatures features)
    {
        using var rig = new Rig();
        rig.Negotiate(features);
        TestQueue queue = rig.SetUp(0, features);
        rig.Status |= VirtioStatus.DriverOk;
        queue.Add([(Data, 16, true)]);
        rig.Write(QueueNotify, 0);
        Assert.True(queue.TryTakeUsed(out _, out _));
        queue.Add([(Data, 16, true)]); // the device is not told before
        using var other = new Rig();
        other.Board.Machine.Restore(rig.Board.Machine.Save());
        Assert.Equal(1ul, other.Read(InterruptStatus));
        queue.MoveTo(new DmaSpace(other.Board.Machine.Memory));
        other.Write(QueueNotify, 0);
        Assert.True(queue.TryTakeUsed(out _, out uint written));
        Assert.Equal(16u, written);
    }

    /// <summary>A board without PCI has no bridges that a guest could find, and ACPI says where each device is.</summary>
    [Fact]
    public void A_board_without_pci_describes_its_devices()
    {
        using var machine = new X86Machine(new IdleEngine(), IdleEngine.Model, MemoryLayout.Regions(4 << 20), 1);
        var board = new PcBoard(machine, new PcBoardOptions
        {
            IsMicroVm = true,
            Parts = [new VirtioPart(new Entropy("rng")), new VirtioPart(new Entropy("other"))],
        });
        Assert.Equal(uint.MaxValue, machine.Ports.Read(0xCFC, 4));
        byte[] dsdt = board.Tables.Tables.First(t => t.Signature == "DSDT").Bytes;
        Assert.Equal(-1, dsdt.AsSpan().IndexOf("PCI0"u8));
        for (uint n = 0; n < 2; n++)
        {
            // Memory32Fixed, writable; extended interrupt: consumed, level, active high, shared. ACPI Specification 6.3, sections 6.4.3.4 and 6.4.3.6.
            byte[] resources = [0x86, 9, 0, 1, 0, 0, 0, 0, 0, 2, 0, 0, 0x89, 6, 0, 9, 1, 0, 0, 0, 0, 0x79];
            BinaryPrimitives.WriteUInt32LittleEndian(resources.AsSpan(4), (uint)Registers + 0x200 * n);
            BinaryPrimitives.WriteUInt32LittleEndian(resources.AsSpan(17), 16 + n);
            Assert.NotEqual(-1, dsdt.AsSpan().IndexOf(resources));
            Assert.Equal(0x7472_6976u, ReadDoubleword(machine, Registers + 0x200 * n));
        }
        var firmware = new Machine.Firmware.FirmwareImage("rom", new byte[1 << 16]);
        Assert.Throws<ArgumentException>(() => new PcBoard(machine, new PcBoardOptions { IsMicroVm = true, Firmware = firmware }));
    }

    private static uint ReadDoubleword(X86Machine machine, ulong address)
    {
        var exit = new X86Exit { Reason = ExitReason.Mmio, Address = address, Size = 4 };
        machine.Cpus[0].Handle(exit);
        return (uint)exit.Data;
    }
}
