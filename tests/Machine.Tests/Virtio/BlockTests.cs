using Bunraku.Hypervisor;
using Bunraku.Machine.Tests.State;
using Bunraku.Machine.Virtio;
using Bunraku.Storage;

namespace Bunraku.Machine.Tests.Virtio;

/// <summary>The block device beyond one queue: Virtual I/O Device (VIRTIO) Version 1.3, section 5.2.</summary>
public sealed class BlockTests
{
    private const int Slot = 5, Sectors = 256;
    private const ulong Rings = 0x10_0000, RingStride = 0x4_0000, Data = 0x30_0000;
    private const VirtioFeatures Plain = VirtioFeatures.Version1;
    private const ulong Flush = 1 << 9, Topology = 1 << 10, WriteCache = 1 << 11, Queues = 1 << 12, Discard = 1 << 13;

    /// <summary>A disk in memory whose accesses can be held up.</summary>
    private sealed class HeldDisk : IBlockBackend
    {
        private readonly byte[] _bytes = new byte[2 * Sectors * 512];

        public int Size { get; set; } = Sectors * 512;
        public byte[] Bytes => _bytes;
        public int Flushes { get; private set; }
        public SemaphoreSlim? Hold { get; set; }
        public int Begun;
        public ulong Length => (ulong)Size;
        public bool IsReadOnly { get; init; }
        public uint Granularity => 65536;
        public ulong KnownZeros(ulong position) => 0;

        private void Wait()
        {
            Interlocked.Increment(ref Begun);
            Hold?.Wait();
        }

        public void Read(ulong position, Span<byte> destination)
        {
            Wait();
            lock (_bytes) _bytes.AsSpan((int)position, destination.Length).CopyTo(destination);
        }

        public void Write(ulong position, ReadOnlySpan<byte> source)
        {
            Wait();
            lock (_bytes) source.CopyTo(_bytes.AsSpan((int)position));
        }

        public void Flush()
        {
            lock (_bytes) Flushes++;
        }

        public void WriteZeroes(ulong position, ulong length, bool unmap)
        {
            lock (_bytes) _bytes.AsSpan((int)position, (int)length).Clear();
        }

        void IBlockBackend.Discard(ulong position, ulong length)
        {
        }

        public void Dispose()
        {
        }
    }

    private sealed class Guest : IDisposable
    {
        private readonly TestQueue[] _queues;
        private readonly BoardRig _rig;

        public Guest(Block device, int queues, ulong features)
        {
            _rig = new BoardRig(0, new VirtioPart(device, Slot));
            Driver = new VirtioDriver(_rig, Slot);
            _queues = new TestQueue[queues];
            SetUp(features);
            _rig.Machine.Resume();
        }

        public VirtioDriver Driver { get; }

        public void SetUp(ulong features)
        {
            Assert.True(Driver.Negotiate(features));
            for (int n = 0; n < _queues.Length; n++) SetUpQueue(n, features);
            Driver.SetDriverOk();
        }

        private void SetUpQueue(int queue, ulong features)
        {
            _rig.Machine.Memory.Write(Rings + (ulong)queue * RingStride, new byte[RingStride]);
            _queues[queue] = Driver.SetUp(queue, 16, Rings + (ulong)queue * RingStride, (VirtioFeatures)features);
        }

        public void ResetQueue(int queue, ulong features)
        {
            Driver.WriteCommon(22, 2, (ulong)queue);
            Driver.WriteCommon(58, 2, 1);
            Assert.Equal(0u, Driver.Common(58, 2));
            Assert.Equal(0u, Driver.Common(28, 2));
            SetUpQueue(queue, features);
        }

        /// <summary>Sends one request of one sector, or none, with its own place in memory.</summary>
        public void Send(int queue, uint place, uint type, ulong sector, byte fill = 0)
        {
            ulong at = Data + place * 0x1000ul;
            byte[] bytes = new byte[512];
            bytes.AsSpan().Fill(fill);
            _rig.Machine.Memory.Write(at, [.. BitConverter.GetBytes(type), 0, 0, 0, 0, .. BitConverter.GetBytes(sector)]);
            _rig.Machine.Memory.Write(at + 0x200, bytes);
            _rig.Machine.Memory.TryWrite(at + 0x500, (byte)0xAA);
            const uint flush = 4;
            if (type == flush) _queues[queue].Add([(at, 16, false), (at + 0x500, 1, true)]);
            else _queues[queue].Add([(at, 16, false), (at + 0x200, 512, type == 0), (at + 0x500, 1, true)]);
            Driver.Notify(queue);
        }

        public byte Status(uint place)
        {
            Assert.True(_rig.Machine.Memory.TryRead(Data + place * 0x1000ul + 0x500, out byte status));
            return status;
        }

        public byte[] Sector(uint place)
        {
            byte[] bytes = new byte[512];
            _rig.Machine.Memory.Read(Data + place * 0x1000ul + 0x200, bytes);
            return bytes;
        }

        public void Await(int queue) => Until(() => _queues[queue].TryTakeUsed(out _, out _));

        public bool HasAnswer(int queue) => _queues[queue].TryTakeUsed(out _, out _);

        public static void Until(Func<bool> condition) => Assert.True(SpinWait.SpinUntil(condition, TimeSpan.FromMinutes(2)), "nothing happens");

        public void Dispose() => _rig.Dispose();
    }

    /// <summary>Section 5.2.3 and 5.2.4: what the device says of itself.</summary>
    [Fact]
    public void Configuration_space_has_queues_and_topology()
    {
        using var disk = new HeldDisk();
        using var guest = new Guest(new Block("disk", disk, queues: 4), 4, (ulong)Plain | Queues | Topology);
        Assert.Equal(4u, guest.Driver.Device(34, 2));
        Assert.Equal((3u, 0u, 8u, 128u), (guest.Driver.Device(24, 1), guest.Driver.Device(25, 1), guest.Driver.Device(26, 2), guest.Driver.Device(28, 4)));
        Assert.Equal(512u, guest.Driver.Device(20, 4));
        Assert.Equal(128u, guest.Driver.Device(44, 4));
        Assert.Equal(Queues | Topology | Flush | WriteCache | Discard, guest.Driver.Offered & (Queues | Topology | Flush | WriteCache | Discard));
    }

    [Fact]
    public void A_disk_that_may_only_be_read_offers_nothing_that_writes_and_refuses_it()
    {
        using var disk = new HeldDisk { IsReadOnly = true };
        using var guest = new Guest(new Block("disk", disk), 1, (ulong)Plain | 1 << 5);
        Assert.Equal(1u << 5, guest.Driver.Offered & (1 << 5 | Discard | 1 << 14));
        guest.Send(0, 0, type: 1, sector: 3, fill: 7);
        guest.Await(0);
        Assert.Equal(1, guest.Status(0));
        Assert.False(disk.Bytes.AsSpan().ContainsAnyExcept((byte)0));
    }

    /// <summary>Each queue has its thread: one that waits for the host does not hold the others up.</summary>
    [Theory, InlineData((ulong)Plain), InlineData((ulong)(Plain | VirtioFeatures.RingPacked | VirtioFeatures.EventIndex | VirtioFeatures.InOrder))]
    public void Queues_work_beside_each_other(ulong features)
    {
        using var disk = new HeldDisk();
        using var guest = new Guest(new Block("disk", disk, queues: 3), 3, features | Queues | Flush);
        disk.Hold = new SemaphoreSlim(0);
        guest.Send(0, 0, type: 1, sector: 1, fill: 1);
        Guest.Until(() => Volatile.Read(ref disk.Begun) == 1);
        guest.Send(1, 1, type: 1, sector: 2, fill: 2);
        Guest.Until(() => Volatile.Read(ref disk.Begun) == 2);
        guest.Send(2, 2, type: 4, sector: 0);
        guest.Await(2);
        Assert.Equal(1, disk.Flushes);
        disk.Hold.Release(2);
        guest.Await(0);
        guest.Await(1);
        Assert.Equal((1, 2), (disk.Bytes[512], disk.Bytes[1024]));
    }

    /// <summary>
    /// Sections 2.1.1 and 2.6.1: what came before a reset answers nobody. What was not begun is not done, and what was begun is over before anything begins
    /// that came after, so that no old write lands upon a new one.
    /// </summary>
    [Theory, InlineData(false), InlineData(true)]
    public void No_old_request_outlives_a_reset(bool queueAlone)
    {
        const ulong features = (ulong)(Plain | VirtioFeatures.RingReset) | Queues | Flush;
        using var disk = new HeldDisk();
        using var guest = new Guest(new Block("disk", disk, queues: 2), 2, features);
        disk.Hold = new SemaphoreSlim(0);
        guest.Send(0, 0, type: 1, sector: 5, fill: 0x11);
        guest.Send(0, 1, type: 1, sector: 6, fill: 0x22);
        guest.Send(0, 2, type: 0, sector: 7);
        Guest.Until(() => Volatile.Read(ref disk.Begun) == 1);
        if (queueAlone) guest.ResetQueue(0, features);
        else guest.SetUp(features);
        guest.Send(1, 3, type: 1, sector: 5, fill: 0x33);
        Thread.Sleep(50); // time for the new write to go first, if it could
        Assert.Equal(1, Volatile.Read(ref disk.Begun));
        disk.Hold.Release(10);
        guest.Await(1);
        Assert.Equal(0x33, disk.Bytes[5 * 512]);
        Assert.Equal(0, guest.Status(3));
        guest.Send(0, 4, type: 4, sector: 0);
        guest.Await(0);
        Assert.False(guest.HasAnswer(0));
        Assert.Equal(0, disk.Bytes[6 * 512]);
        Assert.Equal((0xAA, 0xAA, 0xAA), (guest.Status(0), guest.Status(1), guest.Status(2)));
        Assert.Equal(2, disk.Begun);
    }

    /// <summary>Section 5.2.5: a driver that turns the write cache off has each write flushed; a reset turns it on again.</summary>
    [Fact]
    public void Without_the_write_cache_each_write_is_lasting()
    {
        using var disk = new HeldDisk();
        using var guest = new Guest(new Block("disk", disk), 1, (ulong)Plain | Flush | WriteCache);
        guest.Send(0, 0, type: 1, sector: 0, fill: 1);
        guest.Await(0);
        Assert.Equal(0, disk.Flushes);
        guest.Driver.WriteDevice(32, 1, 0);
        Assert.Equal(0u, guest.Driver.Device(32, 1));
        guest.Send(0, 0, type: 1, sector: 0, fill: 1);
        guest.Await(0);
        Assert.Equal(1, disk.Flushes);
        guest.SetUp((ulong)Plain | Flush | WriteCache);
        Assert.Equal(1u, guest.Driver.Device(32, 1));
        guest.Driver.WriteDevice(0, 4, 0); // capacity is read-only
        Assert.Equal((ulong)Sectors, guest.Driver.Device(0, 8));
    }

    /// <summary>Section 5.2.4: the driver is told of another capacity, and reaches all of it.</summary>
    [Fact]
    public void A_disk_grows_while_the_guest_runs()
    {
        using var disk = new HeldDisk();
        var device = new Block("disk", disk);
        using var guest = new Guest(device, 1, (ulong)Plain | Flush);
        guest.Send(0, 0, type: 1, sector: Sectors, fill: 1);
        guest.Await(0);
        Assert.Equal(1, guest.Status(0));
        guest.Driver.TakeInterrupt();
        ulong generation = guest.Driver.Common(21, 1);
        disk.Size *= 2;
        device.DiskResized();
        Assert.Equal(2, guest.Driver.TakeInterrupt());
        Assert.NotEqual(generation, guest.Driver.Common(21, 1));
        Assert.Equal(2ul * Sectors, guest.Driver.Device(0, 8));
        guest.Send(0, 0, type: 1, sector: Sectors, fill: 9);
        guest.Await(0);
        Assert.Equal((0, 9), (guest.Status(0), disk.Bytes[Sectors * 512]));
    }
}
