using Bunraku.Engines;

namespace Bunraku.Hypervisor.Tests;

/// <summary>Guest memory in the places that a board gives it, and what is told of writes that no vCPU makes.</summary>
public sealed class MemoryTests
{
    private const ulong Page = GuestMemory.PageSize;

    [Fact]
    public void Each_region_is_found_at_its_address()
    {
        using var memory = new GuestMemory([new(0x1000, 2 * Page, 0, false), new(0x1_0000_0000, Page, 2 * Page, false)]);
        Assert.Equal(3 * Page, memory.Size);
        Assert.False(memory.TryWrite(0xFFF, (byte)1));
        Assert.True(memory.TryWrite(0x1000, (byte)1));
        Assert.False(memory.TryWrite(0x2FFC, 1ul)); // its end
        Assert.True(memory.TryWrite(0x1_0000_0FF8, 0x1122ul));
        Assert.Equal((0x1000ul, 0x1_0000_0FF8ul), (memory.AddressOf(0), memory.AddressOf(2 * Page + 0xFF8)));
        Assert.Throws<ArgumentOutOfRangeException>(() => memory.AddressOf(3 * Page));
    }

    public static TheoryData<string, ulong[]> Wrong => new()
    {
        { "not made of pages", [0x800, Page, 0] },
        { "not made of pages", [0, Page + 1, 0] },
        { "not made of pages", [0, 0, 0] },
        { "overlaps", [0, 2 * Page, 0, Page, Page, 2 * Page] },
        { "overlaps", [Page, Page, 0, 0, Page, Page] },
        { "overlaps", [ulong.MaxValue - Page + 1, 2 * Page, 0] },
        { "does not follow", [0, Page, Page] },
        { "does not follow", [0, Page, 0, 2 * Page, Page, 0] },
        { "no memory", [] },
    };

    [Theory, MemberData(nameof(Wrong))]
    public void Regions_that_make_no_memory_are_refused(string why, ulong[] numbers)
    {
        MemoryRegion[] regions = [.. numbers.Chunk(3).Select(n => new MemoryRegion(n[0], n[1], n[2], false))];
        Assert.Contains(why, Assert.Throws<ArgumentException>(() => new GuestMemory(regions)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_map_may_show_the_same_bytes_twice_and_takes_nothing_that_is_not_there()
    {
        using var memory = new GuestMemory([new(Page, 2 * Page, 0, false), new(0x10_0000, 4 * Page, 2 * Page, false)]);
        MemoryRegion large = new(0x10_0000, 4 * Page, 2 * Page, false);
        memory.Map([new(Page, Page, 0, false), large, new(0x20_0000, Page, 0, true)]);
        Assert.True(memory.TryWrite(Page, 0x55));
        Assert.True(memory.TryRead(0x20_0000, out int twice));
        Assert.Equal(0x55, twice);
        Assert.False(memory.TryWrite(0x20_0000, 1));
        Assert.False(memory.TryWrite(0, 1));
        memory.WriteBacking(0, [1, 2]);
        Assert.Equal(0x0201, memory.TryRead(0x20_0000, out short s) ? s : 0);
        MemoryRegion[] before = [.. memory.Regions];
        Assert.Throws<ArgumentException>(() => memory.Map([new(0, Page, 6 * Page, false)]));
        Assert.Throws<ArgumentException>(() => memory.Map([new(0, 2 * Page, 5 * Page, false)]));
        Assert.Throws<ArgumentException>(() => memory.Map([new(0, Page, ulong.MaxValue - Page + 1, false)]));
        Assert.Throws<ArgumentException>(() => memory.Map([large, new(0, Page, 0, false)]));
        Assert.Throws<ArgumentOutOfRangeException>(() => memory.WriteBacking(6 * Page - 1, [1, 2]));
        Assert.Equal(before, memory.Regions);
    }

    [Fact]
    public void The_largest_RAM_at_its_own_offset_stays()
    {
        using var memory = new GuestMemory([new(0, Page, 0, false), new(Page, 4 * Page, Page, false)]);
        memory.Map([new(Page, 4 * Page, Page, false)]);
        Assert.Throws<ArgumentException>(() => memory.Map([new(0, Page, 0, false)]));
        Assert.Throws<ArgumentException>(() => memory.Map([new(Page, 4 * Page, Page, true)]));
        Assert.Throws<ArgumentException>(() => memory.Map([new(Page, 3 * Page, Page, false)]));
        memory.Map([new(0, 5 * Page, 0, false)]);
    }

    /// <summary>Numbers of the pages in a bitmap.</summary>
    private static IEnumerable<int> Pages(ulong[] bitmap) => Enumerable.Range(0, bitmap.Length * 64).Where(n => (bitmap[n / 64] >> n % 64 & 1) != 0);

    [Fact]
    public void The_log_of_written_pages_counts_from_the_beginning_of_each_region()
    {
        // The second one begins in the middle of a word of the log, and ends in another.
        using var memory = new GuestMemory([new(0, 5 * Page, 0, false), new(0x10_0000, 130 * Page, 5 * Page, false)]);
        memory.DeviceWrites.Enable(true);
        foreach (int page in (int[])[0, 1, 58, 59, 63, 64, 127, 129]) memory.TryWrite(0x10_0000 + (ulong)page * Page, 1);
        memory.TryWrite(4 * Page, 1);
        Assert.Equal([0, 1, 58, 59, 63, 64, 127, 129], Pages(memory.DeviceWrites.Take(memory.Regions[1])));
        Assert.Equal([4], Pages(memory.DeviceWrites.Take(memory.Regions[0])));
        Assert.Empty(Pages(memory.DeviceWrites.Take(memory.Regions[1])));
    }

    [Fact]
    public void What_a_restored_image_changes_is_told_and_logged_and_nothing_else()
    {
        using var memory = new GuestMemory([new(0, 8 * Page, 0, false), new(0x10_0000, 1024 * Page, 8 * Page, false)]);
        memory.TryWrite(3 * Page, 1ul);
        memory.TryWrite(0x10_0000 + 900 * Page, 2ul);
        MemoryImage image = MemoryImage.Of(memory);
        memory.TryWrite(3 * Page + 8, 9ul);
        memory.TryWrite(5 * Page, 9ul);
        var refused = new List<ulong>();
        var told = new List<ulong>();
        memory.Rights.DeviceWriteRefused = refused.Add;
        memory.Rights.Set(3 * Page, Page, PageRights.Read);
        memory.OnDeviceWrite = (address, _) => told.Add(address);
        memory.DeviceWrites.Enable(true);

        image.CopyTo(memory);

        Assert.Null(MemoryImage.Of(memory).FirstDifference(image));
        Assert.Equal([3 * Page], refused);
        Assert.Equal([3 * Page, 5 * Page], told);
        Assert.Equal([3, 5], Pages(memory.DeviceWrites.Take(memory.Regions[0])));
        Assert.Empty(Pages(memory.DeviceWrites.Take(memory.Regions[1])));
    }
}
