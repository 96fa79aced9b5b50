using System.Buffers.Binary;
using Bunraku.Engines;
using Bunraku.Machine.Tests.State;
using Bunraku.Machine.Virtio;
using Bunraku.Machine.Virtio.Balloons;

namespace Bunraku.Machine.Tests.Virtio;

/// <summary>The memory balloon against a driver that is written from Virtual I/O Device (VIRTIO) Version 1.3, section 5.5.</summary>
public sealed class BalloonTests : IDisposable
{
    private const int Slot = 5, Inflate = 0, Deflate = 1, Statistics = 2;
    private const ulong Rings = 0x10_0000, RingStride = 0x3_0000, Data = 0x1F_0000, Pages = 0x20_0000, Page = 4096;
    private const ulong StatisticsFeature = 1 << 1, DeflateOnOom = 1 << 2, Reporting = 1 << 5;
    private const VirtioFeatures Plain = VirtioFeatures.Version1;
    private static readonly TimeSpan s_patience = TimeSpan.FromMinutes(1);

    private readonly Balloon _balloon = new("balloon");
    private readonly BoardRig _rig;
    private readonly VirtioDriver _driver;
    private readonly TestQueue[] _queues = new TestQueue[5];

    public BalloonTests()
    {
        _rig = new BoardRig(0, new VirtioPart(_balloon, Slot));
        _driver = new VirtioDriver(_rig, Slot);
        _rig.Machine.Resume();
    }

    public void Dispose() => _rig.Dispose();

    private GuestMemory Memory => _rig.Machine.Memory;

    private void Start(ulong features = StatisticsFeature | Reporting)
    {
        Assert.True(_driver.Negotiate((ulong)Plain | features));
        for (int n = 0; n < 5; n++) _queues[n] = _driver.SetUp(n, 16, Rings + (ulong)n * RingStride, Plain);
        _driver.SetDriverOk();
    }

    private void Await(int queue) =>
        Assert.True(SpinWait.SpinUntil(() => _queues[queue].TryTakeUsed(out _, out _), s_patience), "a buffer does not come back");

    private void Send(int queue, params ReadOnlySpan<uint> pages)
    {
        for (int n = 0; n < pages.Length; n++) Memory.TryWrite(Data + (ulong)n * 4, pages[n]);
        _queues[queue].Add([(Data, (uint)pages.Length * 4, false)]);
        _driver.Notify(queue);
        Await(queue);
    }

    private void Fill(ulong at, ulong length, byte value)
    {
        byte[] bytes = new byte[length];
        bytes.AsSpan().Fill(value);
        Assert.True(Memory.Write(at, bytes));
    }

    private bool Is(ulong at, ulong length, byte value)
    {
        byte[] bytes = new byte[length];
        return Memory.Read(at, bytes) && !bytes.AsSpan().ContainsAnyExcept(value);
    }

    /// <summary>Bytes of the host that stand behind guest memory from an address on.</summary>
    private ulong Taken(ulong at, ulong length)
    {
        ulong sum = 0;
        foreach ((ulong offset, ulong count) in Memory.Backing.Allocated())
        {
            ulong from = Math.Max(offset, at), to = Math.Min(offset + count, at + length);
            if (from < to) sum += to - from;
        }
        return sum;
    }

    /// <summary>Asks for so much, and waits until the guest is told.</summary>
    private void Want(ulong bytes, ulong pages)
    {
        _balloon.SetTarget(bytes);
        Assert.True(SpinWait.SpinUntil(() => _driver.Device(0, 4) == pages, s_patience));
    }

    [Fact]
    public void A_machine_that_stands_still_is_asked_when_it_goes_on()
    {
        Start();
        _driver.TakeInterrupt();
        _rig.Machine.Pause();
        _balloon.SetTarget(Memory.RamSize - 3 * Page);
        Assert.Equal(3 * Page, _balloon.Look(0).Wanted);
        Assert.Equal((0ul, 0), (_driver.Device(0, 4), _driver.TakeInterrupt()));
        _rig.Machine.Resume();
        Assert.True(SpinWait.SpinUntil(() => _driver.Device(0, 4) == 3, s_patience));
        Assert.Equal(2, _driver.TakeInterrupt());
    }

    [Fact]
    public void Section_5_5_4_the_configuration_says_how_many_pages_are_wanted()
    {
        Start();
        Assert.Equal(StatisticsFeature | DeflateOnOom | Reporting, _driver.Offered & 0xFF_FFFF);
        Assert.Equal(0ul, _driver.Device(0, 4));
        ulong ram = Memory.RamSize;
        byte generation = (byte)_driver.Common(21, 1);
        _driver.TakeInterrupt();
        Want(ram - 10 * Page - 1, 10);
        Assert.NotEqual(generation, (byte)_driver.Common(21, 1));
        Assert.Equal(2, _driver.TakeInterrupt()); // the configuration has changed
        _driver.WriteDevice(0, 4, 99); // is the device's
        Assert.Equal(10ul, _driver.Device(0, 4));
        _driver.WriteDevice(4, 4, 7);
        BalloonState state = _balloon.Look(0);
        Assert.Equal((10 * Page, 7 * Page, true), (state.Wanted, state.Given, state.IsUsed));
        Want(ram + 1, 0);
        _driver.Status = 0;
        Assert.False(_balloon.Look(0).IsUsed);
        Assert.Equal(0ul, _balloon.Look(0).Given);
    }

    /// <summary>Section 5.5.6: pages in any order, several times, and what is no RAM.</summary>
    [Fact]
    public void Pages_are_given_to_the_host()
    {
        Start();
        Fill(Pages, 16 * Page, 0x77);
        Assert.Equal(16 * Page, Taken(Pages, 16 * Page));
        const uint first = (uint)(Pages / Page);
        Send(Inflate, first + 3, first + 2, first + 5, first + 3, first + 4, 0xFFFF_FFFF, 0xB8, 0xFEE00);
        Assert.Equal(12 * Page, Taken(Pages, 16 * Page));
        Assert.True(Is(Pages, 2 * Page, 0x77));
        Assert.True(Is(Pages + 6 * Page, 10 * Page, 0x77));
        Assert.True(Is(Pages + 2 * Page, 4 * Page, 0));
        Send(Deflate, first + 3); // it simply has it again
        Fill(Pages + 3 * Page, Page, 0x11);
        Assert.True(Is(Pages + 3 * Page, Page, 0x11));
    }

    /// <summary>Section 5.5.6.6; the queue is found by each number that a driver may give it.</summary>
    [Theory]
    [InlineData(StatisticsFeature | Reporting, 4)]
    [InlineData(StatisticsFeature | Reporting, 3)]
    [InlineData(Reporting, 2)]
    public void Free_pages_are_given_to_the_host(ulong features, int queue)
    {
        Start(features);
        Fill(Pages, 64 * Page, 0x77);
        _queues[queue].Add([(Pages + 8 * Page, 16 * (uint)Page, true), (Pages + 32 * Page + 100, 2 * (uint)Page, true), (1ul << 40, 4096, true)]);
        _driver.Notify(queue);
        Await(queue);
        Assert.Equal(47 * Page, Taken(Pages, 64 * Page)); // whole pages alone
        Assert.True(Is(Pages + 8 * Page, 16 * Page, 0));
        Assert.True(Is(Pages + 34 * Page, 30 * Page, 0x77));
        Assert.Equal(17 * Page, _balloon.Look(0).Reported);
    }

    /// <summary>What cannot be given counts, too: a report does no more work than memory is worth.</summary>
    [Fact]
    public void A_report_of_more_than_there_is_ends()
    {
        Start();
        Fill(Pages, 2 * Page, 0x77);
        _queues[4].Add([(Pages, (uint)Page, true), (1ul << 40, 1u << 30, true), (Pages + Page, (uint)Page, true)]);
        _driver.Notify(4);
        Await(4);
        Assert.True(Is(Pages, Page, 0));
        Assert.True(Is(Pages + Page, Page, 0x77));
        Assert.Equal(Page, _balloon.Look(0).Reported);
    }

    /// <summary>Reports without the feature take nothing.</summary>
    [Fact]
    public void Who_has_not_agreed_reports_nothing()
    {
        Start(StatisticsFeature);
        Fill(Pages, Page, 0x77);
        _queues[4].Add([(Pages, (uint)Page, true)]);
        _driver.Notify(4);
        Await(4);
        Assert.True(Is(Pages, Page, 0x77));
    }

    /// <summary>For everybody else a device has written zeros: logs of written pages, and who keeps a copy.</summary>
    [Fact]
    public void A_page_that_is_gone_counts_as_written()
    {
        Start();
        Fill(Pages, 4 * Page, 0x77);
        Memory.DeviceWrites.Enable(true);
        var told = new List<ulong>();
        Memory.OnDeviceWrite = (offset, bytes) =>
        {
            if (offset >= Pages && bytes.Length == (int)Page && !bytes.ContainsAnyExcept((byte)0)) told.Add(offset);
        };
        Send(Inflate, (uint)(Pages / Page) + 1, (uint)(Pages / Page) + 2);
        Memory.OnDeviceWrite = null;
        Assert.Equal([Pages + Page, Pages + 2 * Page], told);
        MemoryRegion region = Memory.Regions.Single(r => r.Contains(Pages));
        ulong[] written = Memory.DeviceWrites.Take(region);
        bool Written(ulong at) => (written[(at - region.Start) / Page / 64] >> (int)((at - region.Start) / Page % 64) & 1) != 0;
        Assert.True(Written(Pages + Page) && Written(Pages + 2 * Page) && !Written(Pages) && !Written(Pages + 3 * Page));
    }

    /// <summary>Section 5.5.6.3: the device keeps a buffer, and asks by giving it back; the state of a machine does not lose it.</summary>
    [Fact]
    public async Task Statistics_come_when_they_are_asked_for()
    {
        Start();
        void Tell(ulong free)
        {
            byte[] entries = new byte[30];
            BinaryPrimitives.WriteUInt16LittleEndian(entries, (ushort)BalloonStatistic.Free);
            BinaryPrimitives.WriteUInt64LittleEndian(entries.AsSpan(2), free);
            BinaryPrimitives.WriteUInt16LittleEndian(entries.AsSpan(10), 500); // not known
            BinaryPrimitives.WriteUInt16LittleEndian(entries.AsSpan(20), (ushort)BalloonStatistic.Caches);
            BinaryPrimitives.WriteUInt64LittleEndian(entries.AsSpan(22), ulong.MaxValue); // the guest does not know
            Memory.Write(Data, entries);
            _queues[Statistics].Add([(Data, (uint)entries.Length, false)]);
            _driver.Notify(Statistics);
        }
        Tell(1000);
        Assert.True(SpinWait.SpinUntil(() => _balloon.Look(0).Statistics.Count > 0, s_patience));
        Task<BalloonState> asked = Task.Run(() => _balloon.Look(60_000));
        Assert.True(SpinWait.SpinUntil(() =>
        {
            if (_queues[Statistics].TryTakeUsed(out _, out _)) Tell(2000);
            return asked.IsCompleted;
        }, s_patience));
        Assert.Equal([new(BalloonStatistic.Free, 2000)], (await asked).Statistics);

        _rig.Machine.Pause();
        Assert.Equal([new(BalloonStatistic.Free, 2000)], _balloon.Look(1).Statistics);
        Assert.False(_queues[Statistics].TryTakeUsed(out _, out _)); // nothing changes while it stands still
        _rig.Machine.Restore(_rig.Machine.Save());
        _rig.Machine.Resume();
        Assert.True(SpinWait.SpinUntil(() => _balloon.Look(0).Statistics.Count > 0, s_patience));
    }

    [Fact]
    public void It_is_saved_and_restored()
    {
        Start();
        Want(Memory.RamSize - 5 * Page, 5);
        _driver.WriteDevice(4, 4, 3);
        _rig.Machine.Pause();
        using var other = new BoardRig(0, new VirtioPart(new Balloon("balloon"), Slot));
        other.Machine.Restore(_rig.Machine.Save());
        var driver = new VirtioDriver(other, Slot);
        Assert.Equal(5ul, driver.Device(0, 4));
        Assert.Equal(3ul, driver.Device(4, 4));
        _rig.Machine.Resume();
    }

    /// <summary>Memory that a file stands behind, as that of a restored or forked machine: the file's contents do not come back.</summary>
    [Theory]
    [InlineData(false, true)]
    [InlineData(false, false)]
    [InlineData(true, true)]
    [InlineData(true, false)]
    public void What_was_forgotten_is_zero_whatever_was_behind_it(bool shared, bool loaded)
    {
        const int pages = 2048;
        using var memory = new GuestMemory(pages * Page, shared);
        byte[] contents = new byte[pages * Page];
        for (ulong n = 0; n < pages; n++) contents.AsSpan((int)(n * Page), (int)Page).Fill((byte)(n | 1));
        string path = Path.GetTempFileName();
        try
        {
            File.WriteAllBytes(path, contents);
            using (Microsoft.Win32.SafeHandles.SafeFileHandle file = File.OpenHandle(path))
            {
                if (loaded) memory.Load(file, [new(0, 64 * Page, 0), new(100 * Page, (pages - 100) * Page, (long)(100 * Page))]);
                else memory.Write(0, contents);
            }
            var gone = new HashSet<ulong>();
            var random = new Random(5);
            for (int n = 0; n < 300; n++)
            {
                ulong first = (ulong)random.Next(pages), count = (ulong)random.Next(1, n % 50 == 0 ? 700 : 6);
                count = Math.Min(count, pages - first);
                if (random.Next(3) == 0) memory.Write(first * Page, [9]); // a copy of the page is the process's own
                Assert.True(memory.Forget(first * Page, count * Page));
                for (ulong page = first; page < first + count; page++) gone.Add(page);
            }
            byte[] now = new byte[Page];
            for (ulong page = 0; page < pages; page++)
            {
                bool isZero = gone.Contains(page) || loaded && page is >= 64 and < 100;
                Assert.True(memory.Read(page * Page, now));
                // The first byte of others may have been written.
                Assert.True(!now.AsSpan(1).ContainsAnyExcept(isZero ? (byte)0 : (byte)(page | 1)), $"page {page}");
            }
            memory.Forget(0, pages * Page);
            Assert.Equal(0ul, memory.Backing.Allocated().Aggregate(0ul, (sum, r) => sum + r.Length));
            Assert.False(memory.Forget(0, (pages + 1) * Page));
            Assert.False(memory.Forget(5, Page));
        }
        finally
        {
            File.Delete(path);
        }
    }
}
