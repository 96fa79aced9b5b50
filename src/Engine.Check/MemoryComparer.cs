using Bunraku.Engines;

namespace Bunraku.Engine.Check;

/// <summary>Compares guest memories of one size.</summary>
internal static unsafe class MemoryComparer
{
    private const int PageSize = (int)GuestMemory.PageSize;

    /// <summary>Lines for the first differences, the subject's value first. Empty when the memories are equal.</summary>
    /// <param name="ranges">Where to look, by offset in the backing memory.</param>
    public static IReadOnlyList<string> Differences(GuestMemory subject, GuestMemory reference, IEnumerable<(ulong Offset, ulong Length)> ranges, int most = 16)
    {
        var found = new SortedDictionary<ulong, string>();
        foreach ((ulong offset, ulong length) in ranges)
        {
            for (ulong page = offset; page < offset + length && found.Count < most; page += (ulong)PageSize)
            {
                if (!PagesEqual(subject, reference, page)) ComparePage(subject, reference, page, found, most);
            }
        }
        return [.. found.Values];
    }

    /// <summary>The pages at one offset in the backing memories hold the same bytes.</summary>
    public static bool PagesEqual(GuestMemory a, GuestMemory b, ulong offset) =>
        new ReadOnlySpan<byte>(a.Backing.Pointer + offset, PageSize).SequenceEqual(new ReadOnlySpan<byte>(b.Backing.Pointer + offset, PageSize));

    private static void ComparePage(GuestMemory subject, GuestMemory reference, ulong page, SortedDictionary<ulong, string> found, int most)
    {
        byte* a = subject.Backing.Pointer + page, b = reference.Backing.Pointer + page;
        for (int n = 0; n < PageSize && found.Count < most; n += 8)
        {
            ulong x = *(ulong*)(a + n), y = *(ulong*)(b + n);
            if (x == y) continue;
            ulong address = subject.AddressOf(page + (ulong)n);
            found[address] = $"memory 0x{address:X}: subject 0x{x:X16}, reference 0x{y:X16}";
        }
    }
}
