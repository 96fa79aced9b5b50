using Bunraku.Engines;

namespace Bunraku.Engine.Check;

/// <summary>Compares guest memories of one size.</summary>
public static unsafe class MemoryComparer
{
    private const int PageSize = (int)GuestMemory.PageSize;

    /// <summary>Lines for the first differences, the subject's value first. Empty when the memories are equal.</summary>
    public static IReadOnlyList<string> Differences(GuestMemory subject, GuestMemory reference, int most = 16)
    {
        var found = new List<string>();
        foreach (MemoryRegion region in subject.Regions)
        {
            for (ulong at = 0; at < region.Length && found.Count < most; at += (ulong)PageSize)
            {
                if (!PagesEqual(subject, reference, region.Offset + at)) ComparePage(subject, reference, region, at, found, most);
            }
        }
        return found;
    }

    /// <summary>The pages at one offset in the backing memories hold the same bytes.</summary>
    public static bool PagesEqual(GuestMemory a, GuestMemory b, ulong offset) =>
        new ReadOnlySpan<byte>(a.Backing.Pointer + offset, PageSize).SequenceEqual(new ReadOnlySpan<byte>(b.Backing.Pointer + offset, PageSize));

    private static void ComparePage(GuestMemory subject, GuestMemory reference, MemoryRegion region, ulong page, List<string> found, int most)
    {
        byte* a = subject.Backing.Pointer + region.Offset + page, b = reference.Backing.Pointer + region.Offset + page;
        for (int n = 0; n < PageSize && found.Count < most; n += 8)
        {
            ulong x = *(ulong*)(a + n), y = *(ulong*)(b + n);
            if (x != y) found.Add($"memory 0x{region.Start + page + (ulong)n:X}: subject 0x{x:X16}, reference 0x{y:X16}");
        }
    }
}
