using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Pci;
using Bunraku.Machine.Tests.State;
using Bunraku.Machine.Virtio;
using Bunraku.Machine.Virtio.Balloons;
using Bunraku.Machine.Virtio.Files;
using Bunraku.Machine.Virtio.Net;
using Bunraku.Machine.Virtio.Ports;
using Bunraku.Machine.Virtio.Sockets;
using Bunraku.Network;
using Bunraku.Storage;

namespace Bunraku.Machine.Tests.Virtio;

/// <summary>Virtio devices on PCI, against a driver that is written from Virtual I/O Device (VIRTIO) Version 1.3.</summary>
public sealed class VirtioTests
{
    private const int Slot = 5;
    private const ulong Queue = 0x10_0000, Data = 0x20_0000, Tables = 0x18_0000;
    private const VirtioFeatures Plain = VirtioFeatures.Version1;

    /// <summary>Section 2.2: both layouts, with and without the features that change how they are used.</summary>
    public static TheoryData<VirtioFeatures> Layouts =>
    [
        Plain, Plain | VirtioFeatures.EventIndex, Plain | VirtioFeatures.IndirectDescriptors,
            Plain | VirtioFeatures.EventIndex | VirtioFeatures.IndirectDescriptors,
        Plain | VirtioFeatures.RingPacked, Plain | VirtioFeatures.RingPacked | VirtioFeatures.EventIndex,
            Plain | VirtioFeatures.RingPacked | VirtioFeatures.IndirectDescriptors,
        Plain | VirtioFeatures.RingPacked | VirtioFeatures.EventIndex | VirtioFeatures.IndirectDescriptors,
    ];

    private static BoardRig Rig(VirtioDevice device) => new(0, new VirtioPart(device, Slot));

    private static void Count(Span<byte> bytes, ref byte next)
    {
        foreach (ref byte b in bytes) b = next++;
    }

    [Theory, MemberData(nameof(Layouts))]
    public void Every_buffer_comes_back_filled(VirtioFeatures features)
    {
        byte next = 0, expected = 0;
        using BoardRig rig = Rig(new Entropy("rng", bytes => Count(bytes, ref next)));
        var driver = new VirtioDriver(rig, Slot);
        Assert.True(driver.Negotiate((ulong)features));
        TestQueue queue = driver.SetUp(0, 16, Queue, features);
        driver.SetDriverOk();
        var random = new Random(7);
        var underWay = new Queue<(int Id, (ulong Address, uint Length, bool Write)[] Pieces)>();
        for (int round = 0; round < 500; round++)
        {
            int buffers = random.Next(1, 5);
            for (int n = 0; n < buffers; n++)
            {
                var pieces = new (ulong, uint, bool)[random.Next(1, 4)];
                for (int k = 0; k < pieces.Length; k++)
                    pieces[k] = (Data + (ulong)(n * 4 + k) * 0x1000 + (ulong)random.Next(100), (uint)random.Next(1, 900), true);
                bool indirect = features.HasFlag(VirtioFeatures.IndirectDescriptors) && random.Next(2) == 0;
                underWay.Enqueue((queue.Add(pieces, indirect ? Tables + (ulong)n * 0x100 : null), pieces));
            }
            Assert.Equal(0, driver.TakeInterrupt());
            driver.Notify(0);
            Assert.Equal(1, driver.TakeInterrupt()); // section 4.1.4.5.1: the first bit is for queues
            Assert.Equal(0, driver.TakeInterrupt());
            while (queue.TryTakeUsed(out int id, out uint written))
            {
                (int sent, (ulong Address, uint Length, bool Write)[] pieces) = underWay.Dequeue();
                Assert.Equal(sent, id);
                Assert.Equal(pieces.Sum(p => p.Length), written);
                foreach ((ulong address, uint length, _) in pieces)
                {
                    for (uint k = 0; k < length; k++)
                    {
                        Assert.True(rig.Machine.Memory.TryRead(address + k, out byte value));
                        Assert.Equal(expected++, value);
                    }
                }
            }
            Assert.Empty(underWay);
        }
    }

    /// <summary>Section 2.7.7.2 and 2.8.10: a driver that wants no interrupt gets none.</summary>
    [Theory]
    [InlineData(Plain)]
    [InlineData(Plain | VirtioFeatures.RingPacked)]
    public void A_driver_that_asks_for_no_interrupt_gets_none(VirtioFeatures features)
    {
        using BoardRig rig = Rig(new Entropy("rng"));
        var driver = new VirtioDriver(rig, Slot);
        driver.Negotiate((ulong)features);
        TestQueue queue = driver.SetUp(0, 16, Queue, features);
        driver.SetDriverOk();
        Assert.True(rig.Machine.Memory.TryWrite(queue.Driver + (features.HasFlag(VirtioFeatures.RingPacked) ? 2u : 0), (ushort)1));
        queue.Add([(Data, 16, true)]);
        driver.Notify(0);
        Assert.True(queue.TryTakeUsed(out _, out uint written));
        Assert.Equal(16u, written);
        Assert.Equal(0, driver.TakeInterrupt());
    }

    /// <summary>Section 2.2.2: a device that is given features which it does not offer, or not VERSION_1 (section 6.1), does not keep FEATURES_OK.</summary>
    [Theory]
    [InlineData((ulong)Plain, true)]
    [InlineData(0ul, false)]
    [InlineData((ulong)Plain | 1, false)]
    [InlineData((ulong)Plain | 1ul << 33, false)]
    [InlineData((ulong)Plain | 1ul << 63, false)]
    public void Features_are_agreed_on_or_refused(ulong features, bool agreed)
    {
        using BoardRig rig = Rig(new Entropy("rng"));
        var driver = new VirtioDriver(rig, Slot);
        Assert.Equal(agreed, driver.Negotiate(features));
    }

    /// <summary>Section 2.1.1 and 4.1.4.3.1: a reset reads back as 0 and takes queues, vectors and features along.</summary>
    [Fact]
    public void A_reset_forgets_all()
    {
        using BoardRig rig = Rig(new Entropy("rng"));
        var driver = new VirtioDriver(rig, Slot);
        driver.Negotiate((ulong)Plain);
        TestQueue queue = driver.SetUp(0, 16, Queue, Plain);
        driver.WriteCommon(26, 2, 1);
        Assert.Equal(1u, driver.Common(26, 2));
        driver.SetDriverOk();
        driver.Status = 0;
        Assert.Equal((VirtioStatus)0, driver.Status);
        Assert.Equal(0u, driver.Common(28, 2));
        Assert.Equal(0xFFFFu, driver.Common(26, 2));
        Assert.Equal(256u, driver.Common(24, 2));
        queue.Add([(Data, 16, true)]);
        driver.Notify(0);
        Assert.False(queue.TryTakeUsed(out _, out _));
    }

    /// <summary>Section 4.1.5.1.2.1: a vector that the table does not have reads back as NO_VECTOR.</summary>
    [Fact]
    public void A_vector_beyond_the_table_is_refused()
    {
        using BoardRig rig = Rig(new Entropy("rng"));
        var driver = new VirtioDriver(rig, Slot);
        driver.WriteCommon(22, 2, 0);
        driver.WriteCommon(26, 2, 2); // one queue: vectors 0 and 1
        Assert.Equal(0xFFFFu, driver.Common(26, 2));
    }

    /// <summary>
    /// PCI Local Bus Specification 3.0, section 6.8.3.5: a masked vector's message waits in its pending bit, and goes out when the mask is taken away.
    /// </summary>
    [Fact]
    public void A_masked_vector_is_pending_until_it_is_unmasked()
    {
        using BoardRig rig = Rig(new Entropy("rng"));
        rig.Mmio(0, 0xFEE0_00F0, 4, true, 0x1FF); // the local APIC is on
        var driver = new VirtioDriver(rig, Slot);
        int msix = (int)driver.Config(PciRegister.Capabilities, 1);
        while (driver.Config(msix, 1) != 0x11) msix = (int)driver.Config(msix + 1, 1);
        driver.WriteConfig(msix + 2, 2, 0x8000);
        driver.Negotiate((ulong)Plain);
        TestQueue queue = driver.SetUp(0, 16, Queue, Plain);
        driver.WriteCommon(26, 2, 1);
        driver.SetDriverOk();
        rig.Mmio(0, VirtioDriver.Messages + 16, 8, true, 0xFEE0_0000);
        rig.Mmio(0, VirtioDriver.Messages + 24, 4, true, 0x51);
        rig.TakeEvents(0);
        queue.Add([(Data, 16, true)]);
        driver.Notify(0);
        Assert.Equal(2u, rig.Mmio(0, VirtioDriver.Messages + 0x800, 8, false, 0));
        Assert.Equal(0, driver.TakeInterrupt()); // messages are in place of the status register
        Assert.Equal(0u, rig.TakeEvents(0) & 1);

        using BoardRig copy = Rig(new Entropy("rng"));
        copy.Machine.Restore(rig.Machine.Save());
        copy.Mmio(0, VirtioDriver.Messages + 28, 4, true, 0);
        Assert.Equal(0x51u, copy.TakeEvents(0) >> 24 & 0xFF);

        rig.Mmio(0, VirtioDriver.Messages + 28, 4, true, 0);
        Assert.Equal(0u, rig.Mmio(0, VirtioDriver.Messages + 0x800, 8, false, 0));
        Assert.Equal(0x51u, rig.TakeEvents(0) >> 24 & 0xFF);
    }

    /// <summary>PCI Local Bus Specification 3.0, table 6-1: without the bus master bit nothing is read or written.</summary>
    [Fact]
    public void Without_the_bus_master_bit_the_device_asks_for_a_reset()
    {
        using BoardRig rig = Rig(new Entropy("rng"));
        var driver = new VirtioDriver(rig, Slot);
        driver.Negotiate((ulong)Plain);
        TestQueue queue = driver.SetUp(0, 16, Queue, Plain);
        driver.SetDriverOk();
        queue.Add([(Data, 16, true)]);
        driver.Enable(PciCommand.MemorySpace);
        driver.Notify(0);
        Assert.True(driver.Status.HasFlag(VirtioStatus.NeedsReset));
        Assert.Equal(2, driver.TakeInterrupt()); // section 2.1.2: the driver is told by a change of configuration
        Assert.False(queue.TryTakeUsed(out _, out _));
        driver.Enable(PciCommand.MemorySpace | PciCommand.BusMaster);
        driver.Notify(0);
        Assert.False(queue.TryTakeUsed(out _, out _)); // only a reset helps
    }

    /// <summary>Base addresses that the guest puts over other devices, takes away and moves: what was there answers again.</summary>
    [Fact]
    public void Where_the_guest_puts_the_registers_upon_another_device_the_board_goes_on()
    {
        using BoardRig rig = Rig(new Entropy("rng"));
        var driver = new VirtioDriver(rig, Slot);
        ulong version = rig.Mmio(0, 0xFEE0_0030, 4, false, 0), hpet = rig.Mmio(0, 0xFED0_0000, 4, false, 0);
        foreach (uint place in (uint[])[0xFED0_0000, 0xFEC0_0000, 0x0010_0000, 0xFFFF_C000, 0xE000_8000])
        {
            driver.WriteConfig(PciRegister.FirstBar, 4, place);
            Assert.Equal(hpet, rig.Mmio(0, 0xFED0_0000, 4, false, 0));
            Assert.Equal(version, rig.Mmio(0, 0xFEE0_0030, 4, false, 0));
        }
        Assert.Equal(1u, rig.Mmio(0, 0xE000_8000 + 18, 2, false, 0)); // one queue
        Assert.Equal(0xFFFFu, rig.Mmio(0, VirtioDriver.Structures + 18, 2, false, 0));
        driver.Enable(PciCommand.BusMaster);
        Assert.Equal(0xFFFFu, rig.Mmio(0, 0xE000_8000 + 18, 2, false, 0));
    }

    [Theory, MemberData(nameof(Layouts))]
    public void A_disk_has_what_was_written_last(VirtioFeatures features)
    {
        const int sectors = 64;
        using var disk = new MemoryDisk(sectors * 512);
        using BoardRig rig = Rig(new Block("disk", disk, "bunraku-1"));
        var driver = new VirtioDriver(rig, Slot);
        Assert.True(driver.Negotiate((ulong)features | 1 << 9 | 1 << 13 | 1 << 14));
        TestQueue queue = driver.SetUp(0, 32, Queue, features);
        driver.SetDriverOk();
        rig.Machine.Resume(); // its thread works
        Assert.Equal((ulong)sectors, driver.Device(0, 8));
        byte[] model = new byte[sectors * 512];
        var random = new Random(3);
        for (int round = 0; round < 300; round++)
        {
            int count = random.Next(1, 6), sector = random.Next(sectors - count + 1);
            switch (random.Next(4))
            {
                case 0:
                    byte[] bytes = new byte[count * 512];
                    random.NextBytes(bytes);
                    bytes.CopyTo(model, sector * 512);
                    rig.Machine.Memory.Write(Data + 0x100, bytes);
                    Assert.Equal(0, Request(1, sector, [(Data + 0x100, (uint)bytes.Length, false)]));
                    break;
                case 1:
                    byte[] range = [.. BitConverter.GetBytes((ulong)sector), .. BitConverter.GetBytes(count), .. BitConverter.GetBytes(random.Next(2))];
                    rig.Machine.Memory.Write(Data + 0x100, range);
                    model.AsSpan(sector * 512, count * 512).Clear();
                    Assert.Equal(0, Request(13, 0, [(Data + 0x100, 16, false)]));
                    break;
                case 2:
                    Assert.Equal(0, Request(4, 0, []));
                    break;
                default:
                    Assert.Equal(0, Request(0, sector, [(Data + 0x100, 300, true), (Data + 0x4000, (uint)(count * 512 - 300), true)]));
                    byte[] got = new byte[count * 512];
                    rig.Machine.Memory.Read(Data + 0x100, got.AsSpan(0, 300));
                    rig.Machine.Memory.Read(Data + 0x4000, got.AsSpan(300));
                    Assert.Equal(model.AsSpan(sector * 512, count * 512).ToArray(), got);
                    break;
            }
        }
        Assert.Equal(model, disk.Bytes);
        Assert.Equal(0, Request(8, 0, [(Data + 0x100, 20, true)]));
        byte[] serial = new byte[20];
        rig.Machine.Memory.Read(Data + 0x100, serial);
        Assert.Equal("bunraku-1", System.Text.Encoding.ASCII.GetString(serial).TrimEnd('\0'));
        // Beyond the end, half sectors, requests that nobody knows: section 5.2.6.2.
        Assert.Equal(1, Request(0, sectors - 1, [(Data, 1024, true)]));
        Assert.Equal(1, Request(1, long.MaxValue, [(Data, 512, false)]));
        Assert.Equal(1, Request(0, 0, [(Data, 511, true)]));
        Assert.Equal(2, Request(99, 0, []));

        int Request(uint type, long sector, (ulong, uint, bool)[] pieces)
        {
            const ulong header = Data + 0x8000, status = Data + 0x9000;
            byte[] words = [.. BitConverter.GetBytes(type), 0, 0, 0, 0, .. BitConverter.GetBytes(sector)];
            rig.Machine.Memory.Write(header, words);
            rig.Machine.Memory.TryWrite(status, (byte)0xAA);
            bool indirect = features.HasFlag(VirtioFeatures.IndirectDescriptors) && random.Next(2) == 0;
            int sent = queue.Add([(header, 16, false), .. pieces, (status, 1, true)], indirect ? Tables : null);
            driver.Notify(0);
            int id = 0;
            Assert.True(SpinWait.SpinUntil(() => queue.TryTakeUsed(out id, out _), TimeSpan.FromMinutes(2)), "no answer");
            Assert.Equal(sent, id);
            Assert.True(rig.Machine.Memory.TryRead(status, out byte result));
            return result;
        }
    }

    /// <summary>A queue goes on in another machine where it stood, whatever round of the ring that is.</summary>
    [Theory, MemberData(nameof(Layouts))]
    public void A_queue_goes_on_in_another_machine(VirtioFeatures features)
    {
        for (int before = 0; before < 12; before++)
        {
            byte next = 0;
            using BoardRig original = Rig(new Entropy("rng", bytes => Count(bytes, ref next)));
            var driver = new VirtioDriver(original, Slot);
            driver.Negotiate((ulong)features);
            TestQueue queue = driver.SetUp(0, 4, Queue, features);
            driver.SetDriverOk();
            for (int n = 0; n < before; n++) Round(original, driver, queue);
            using BoardRig copy = Rig(new Entropy("rng", bytes => Count(bytes, ref next)));
            copy.Machine.Restore(original.Machine.Save());
            queue.MoveTo(new DmaSpace(copy.Machine.Memory));
            var again = new VirtioDriver(copy, Slot);
            for (int n = 0; n < 12; n++) Round(copy, again, queue);
        }

        static void Round(BoardRig rig, VirtioDriver driver, TestQueue queue)
        {
            int sent = queue.Add([(Data, 16, true)]);
            driver.Notify(0);
            Assert.True(queue.TryTakeUsed(out int id, out uint written));
            Assert.Equal((sent, 16u), (id, written));
            Assert.Equal(1, driver.TakeInterrupt());
        }
    }

    /// <summary>Requests that are under way when the machine is saved are done in the machine that goes on; the original does them, too.</summary>
    [Theory]
    [InlineData(Plain)]
    [InlineData(Plain | VirtioFeatures.RingPacked | VirtioFeatures.EventIndex)]
    public void Requests_under_way_are_done_in_the_copy(VirtioFeatures features)
    {
        const ulong header = Data + 0x8000, status = Data + 0x9000;
        using var disk = new MemoryDisk(64 * 512);
        using BoardRig original = Rig(new Block("disk", disk));
        var driver = new VirtioDriver(original, Slot);
        driver.Negotiate((ulong)features);
        TestQueue queue = driver.SetUp(0, 16, Queue, features);
        driver.SetDriverOk();
        for (uint n = 0; n < 4; n++)
        {
            original.Machine.Memory.TryWrite(header + n * 16, 1u); // OUT
            original.Machine.Memory.TryWrite(header + n * 16 + 8, (ulong)n);
            original.Machine.Memory.TryWrite(Data + n * 512, n + 1);
            queue.Add([(header + n * 16, 16, false), (Data + n * 512, 512, false), (status + n, 1, true)]);
        }
        driver.Notify(0); // the machine stands still: its thread has them, and does nothing
        Assert.False(queue.TryTakeUsed(out _, out _));

        using var other = new MemoryDisk(64 * 512);
        using BoardRig copy = Rig(new Block("disk", other));
        copy.Machine.Restore(original.Machine.Save());
        copy.Machine.Resume();
        queue.MoveTo(new DmaSpace(copy.Machine.Memory));
        for (uint n = 0; n < 4; n++) Assert.True(SpinWait.SpinUntil(() => queue.TryTakeUsed(out _, out _), TimeSpan.FromMinutes(2)), "no answer");
        for (uint n = 0; n < 4; n++) Assert.Equal(n + 1, BitConverter.ToUInt32(other.Bytes, (int)n * 512));
        original.Machine.Resume();
        Assert.True(SpinWait.SpinUntil(() => BitConverter.ToUInt32(disk.Bytes, 3 * 512) == 4, TimeSpan.FromMinutes(2)), "the original stands still");
    }

    /// <summary>Section 2.7.5 and 2.7.5.3: what no driver may make available. The device asks for a reset and uses nothing.</summary>
    [Theory]
    [InlineData("head beyond the table")]
    [InlineData("next beyond the table")]
    [InlineData("chain in circles")]
    [InlineData("read behind write")]
    [InlineData("indirect not agreed on")]
    [InlineData("more than the ring has")]
    [InlineData("not RAM")]
    public void What_is_no_buffer_makes_the_device_ask_for_a_reset(string fault)
    {
        using BoardRig rig = Rig(new Entropy("rng"));
        var driver = new VirtioDriver(rig, Slot);
        driver.Negotiate((ulong)Plain);
        TestQueue queue = driver.SetUp(0, 8, Queue, Plain);
        driver.SetDriverOk();
        int id = queue.Add(fault == "read behind write" ? [(Data, 16, true), (Data, 16, false)] : [(fault == "not RAM" ? 0xD000_0000 : Data, 16, true)]);
        GuestMemory memory = rig.Machine.Memory;
        ulong descriptor = Queue + (ulong)id * 16;
        switch (fault)
        {
            case "head beyond the table": memory.TryWrite(queue.Driver + 4, (ushort)8); break;
            case "next beyond the table": memory.TryWrite(descriptor + 12, 0x0008_0003u); break;
            case "chain in circles": memory.TryWrite(descriptor + 12, (uint)id << 16 | 3); break;
            case "indirect not agreed on": memory.TryWrite(descriptor + 12, (ushort)4); break;
            case "more than the ring has": memory.TryWrite(queue.Driver + 2, (ushort)9); break;
        }
        driver.Notify(0);
        Assert.True(driver.Status.HasFlag(VirtioStatus.NeedsReset));
        Assert.True(memory.TryRead(queue.Device + 2, out ushort used));
        Assert.Equal(0, used);
    }

    /// <summary>A hostile driver: any access to registers, anything in memory where queues are. Nothing is thrown, and the board answers.</summary>
    [Theory]
    [InlineData(1, "rng")]
    [InlineData(2, "rng")]
    [InlineData(3, "disk")]
    [InlineData(4, "disk")]
    [InlineData(5, "net")]
    [InlineData(6, "net")]
    [InlineData(7, "console")]
    [InlineData(8, "fs")]
    [InlineData(9, "fs")]
    [InlineData(10, "vsock")]
    [InlineData(11, "vsock")]
    [InlineData(12, "balloon")]
    [InlineData(13, "balloon")]
    [InlineData(14, "9p")]
    [InlineData(15, "9p")]
    public void A_hostile_driver_harms_itself_alone(int seed, string kind)
    {
        using var disk = new MemoryDisk(64 * 512);
        using var echo = new EchoCable();
        using var host = new HostFolder();
        using var folder = new SharedFolder(host.Path);
        using var files = new FileSystemDevice("fs", folder, "tag", 2);
        using var plan9 = new NinePDevice("9p", folder, "tag");
        using var listener = new HostSockets(Path.Combine(host.Path, "v"));
        using var sockets = new SocketDevice("vsock", 3, listener);
        using BoardRig rig = Rig(kind switch
        {
            "fs" => files,
            "9p" => plan9,
            "vsock" => sockets,
            "balloon" => new Balloon("balloon"),
            "disk" => new Block("disk", disk, queues: 2),
            "console" => new ConsoleDevice("console", new ConsolePort("a", true), new ConsolePort("b") { Output = _ => { } }),
            "net" => new NetworkCard("net", echo, [2, 0, 0, 0, 0, 1], 2),
            _ => new Entropy("rng"),
        });
        var driver = new VirtioDriver(rig, Slot);
        rig.Machine.Resume();
        var random = new Random(seed);
        ulong version = rig.Mmio(0, 0xFEE0_0030, 4, false, 0);
        for (int n = 0; n < 150_000; n++)
        {
            switch (random.Next(8))
            {
                case 0:
                    driver.Negotiate((ulong)(Plain | (random.Next(2) == 0 ? VirtioFeatures.RingPacked : 0)
                        | (random.Next(2) == 0 ? VirtioFeatures.EventIndex | VirtioFeatures.IndirectDescriptors : 0)));
                    int queues = kind switch { "net" or "console" or "fs" or "balloon" => 5, "vsock" => 3, _ => 1 };
                    driver.SetUp(random.Next(queues), (ushort)(1 << random.Next(9)), Queue, Plain);
                    driver.SetDriverOk();
                    break;
                case 1:
                    driver.WriteCommon((uint)random.Next(64), 1 << random.Next(4), (ulong)random.NextInt64());
                    break;
                case 2:
                    driver.Notify(random.Next(3));
                    break;
                case 3:
                    rig.Mmio(0, VirtioDriver.Messages + (ulong)random.Next(0x1000), 1 << random.Next(4), random.Next(2) == 0, (ulong)random.NextInt64());
                    break;
                case 4 when random.Next(50) == 0:
                    driver.WriteConfig(random.Next(64) * 4, 4, (uint)random.NextInt64(1L << 32));
                    driver.WriteConfig(PciRegister.FirstBar, 4, (uint)VirtioDriver.Structures);
                    driver.Enable(PciCommand.MemorySpace | PciCommand.BusMaster);
                    break;
                default:
                    // Descriptors and rings: mostly near to something sensible.
                    ulong place = Queue + (ulong)random.Next(3) * 0x10000 + (ulong)random.Next(64) * 2;
                    rig.Machine.Memory.TryWrite(place, (ushort)(random.Next(3) == 0 ? random.Next(0x10000) : random.Next(8)));
                    if (random.Next(4) == 0)
                        rig.Machine.Memory.TryWrite(Queue + (ulong)random.Next(32) * 16, random.Next(3) == 0 ? (ulong)random.NextInt64()
                        : Data + (ulong)random.Next(0x1000));
                    if (random.Next(4) == 0) rig.Machine.Memory.TryWrite(Queue + (ulong)random.Next(32) * 16 + 8, (uint)random.Next(0x400));
                    break;
            }
        }
        Assert.Equal(version, rig.Mmio(0, 0xFEE0_0030, 4, false, 0));
        Assert.True(driver.Negotiate((ulong)Plain));
        rig.Machine.Pause(); // what was under way ends
    }

    /// <summary>What goes out comes in again, and something else as well.</summary>
    private sealed class EchoCable : INetworkBackend
    {
        private readonly AutoResetEvent _wake = new(false);
        private readonly Queue<byte[]> _frames = new();

        public int Mtu => 1500;
        public bool HasOffloads => false;
        public bool TakesLargeFrames => false;
        public bool IsConnected => true;

        public void Accept(bool checksums, bool segments4, bool segments6)
        {
        }

        public void Send(in FrameWork work, ReadOnlySpan<byte> frame)
        {
            if (_frames.Count < 100) _frames.Enqueue(frame.ToArray());
        }

        public void Serve(IFrameReceiver receiver, bool waits)
        {
            if (waits) _wake.WaitOne();
            receiver.Receive(default, new byte[100]);
            while (_frames.TryDequeue(out byte[]? frame)) receiver.Receive(default, frame);
        }

        public void Wake() => _wake.Set();

        public void Dispose() => _wake.Dispose();
    }

    private sealed class MemoryDisk(int length) : IBlockBackend
    {
        public byte[] Bytes { get; } = new byte[length];
        public ulong Length => (ulong)Bytes.Length;
        public bool IsReadOnly => false;
        public uint Granularity => 512;
        public ulong KnownZeros(ulong position) => 0;
        public void Read(ulong position, Span<byte> destination) => Bytes.AsSpan((int)position, destination.Length).CopyTo(destination);
        public void Write(ulong position, ReadOnlySpan<byte> source) => source.CopyTo(Bytes.AsSpan((int)position));
        public void Flush() { }
        public void WriteZeroes(ulong position, ulong length, bool unmap) => Bytes.AsSpan((int)position, (int)length).Clear();
        public void Discard(ulong position, ulong length) { }
        public void Dispose() { }
    }
}
