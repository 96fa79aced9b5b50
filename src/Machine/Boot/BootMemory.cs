using System.Text;
using Bunraku.Engines;
using Bunraku.Machine.Board;

namespace Bunraku.Machine;

/// <summary>
/// Places what a boot protocol loads: every piece lies in RAM that the memory map calls usable and no two overlap, whatever the
/// kernel file says.
/// </summary>
/// <remarks>Invariant: each claim lies inside one merged usable range, so a write inside a claim never leaves RAM.</remarks>
internal sealed class BootMemory
{
    /// <summary>What is placed freely keeps away from page 0, where a null pointer of early boot code would find it.</summary>
    private const ulong FirstFree = GuestMemory.PageSize;
    private const ulong ConventionalEnd = 0xA_0000;
    public const ulong FourGiB = 1ul << 32;
    private const ulong MiB = 1ul << 20;

    private readonly record struct Range(ulong Start, ulong End, string What);

    private readonly BootRequest _request;
    private readonly List<Range> _usable = [];
    private readonly List<Range> _claims = [];

    public BootMemory(BootRequest request)
    {
        _request = request;
        foreach (E820Entry e in request.MemoryMap)
        {
            if (e.Type != E820Type.Memory || e.Length == 0 || e.End < e.Address) continue;
            foreach (MemoryRegion region in request.Memory.Regions)
                AddUsable(Math.Max(Math.Max(e.Address, region.Start), MemoryLayout.BiosDataAreaEnd), Math.Min(e.End, region.End));
        }
    }

    private void AddUsable(ulong start, ulong end)
    {
        if (start >= end) return;
        if (_usable.Count > 0 && _usable[^1].End == start) _usable[^1] = _usable[^1] with { End = end };
        else _usable.Add(new(start, end, "RAM"));
    }

    /// <summary>Takes a range that the kernel file dictates.</summary>
    /// <param name="what">For messages: "the kernel".</param>
    public void Claim(ulong start, ulong length, string what)
    {
        if (length == 0) return;
        ulong end = start + length;
        if (end < start) throw Failure($"{what} at 0x{start:x}, 0x{length:x} bytes, goes beyond the address space");
        if (!_usable.Exists(r => start >= r.Start && end <= r.End))
        {
            // More memory is the remedy only where more memory would lie.
            bool remedy = start >= MiB && end > _request.Memory.Size && end <= MemoryLayout.LowMemoryEnd;
            throw remedy ? TooSmall($"{what} occupies 0x{start:x} to 0x{end:x}", end)
                : Failure($"{what} is to be loaded to 0x{start:x} to 0x{end:x}, where the machine has no usable RAM");
        }
        int other = _claims.FindIndex(c => start < c.End && c.Start < end);
        if (other >= 0) throw Failure($"{what} at 0x{start:x} to 0x{end:x} overlaps {_claims[other].What} at 0x{_claims[other].Start:x}");
        _claims.Add(new(start, end, what));
    }

    /// <summary>The first usable address at or above <paramref name="start"/>, all ones when there is none.</summary>
    public ulong FirstUsableFrom(ulong start) => _usable.Where(r => r.End > start).Select(r => Math.Max(r.Start, start)).DefaultIfEmpty(ulong.MaxValue).Min();

    /// <summary>Takes the lowest free range in conventional memory, where early boot code leaves its loader's data alone.</summary>
    public ulong AllocateLow(ulong length, string what, ulong alignment = GuestMemory.PageSize)
    {
        foreach (Range r in _usable)
        {
            ulong end = Math.Min(r.End, ConventionalEnd), start = AlignUp(Math.Max(r.Start, FirstFree), alignment);
            while (start < end && length <= end - start)
            {
                int other = _claims.FindIndex(c => start < c.End && c.Start < start + length);
                if (other < 0)
                {
                    _claims.Add(new(start, start + length, what));
                    return start;
                }
                start = AlignUp(_claims[other].End, alignment);
            }
        }
        throw Failure($"{what} ({length} bytes) finds no room below 640 KiB");
    }

    /// <summary>Takes the highest free range that ends at or below <paramref name="limit"/> and begins at 1 MiB or above.</summary>
    public ulong AllocateHigh(ulong length, ulong limit, string what)
    {
        for (int n = _usable.Count - 1; n >= 0; n--)
        {
            ulong floor = Math.Max(_usable[n].Start, MiB), end = Math.Min(_usable[n].End, limit);
            while (end > floor && length <= end - floor)
            {
                ulong start = (end - length) & ~(GuestMemory.PageSize - 1);
                if (start < floor) break;
                int other = _claims.FindIndex(c => start < c.End && c.Start < end);
                if (other < 0)
                {
                    _claims.Add(new(start, start + length, what));
                    return start;
                }
                end = _claims[other].Start;
            }
        }
        ulong below = Math.Max(MiB, _claims.Where(c => c.End <= FourGiB).Select(c => c.End).DefaultIfEmpty(MiB).Max());
        ulong needed = AlignUp(below, GuestMemory.PageSize) + AlignUp(length, GuestMemory.PageSize);
        if (needed > _request.Memory.Size && needed <= Math.Min(limit, MemoryLayout.LowMemoryEnd))
            throw TooSmall($"{what} of {Mebibytes(length)} does not fit beside the kernel", needed);
        throw Failure($"{what} of {Mebibytes(length)} does not fit: the kernel takes it only between 0x{below:x} and "
            + $"0x{Math.Min(limit, MemoryLayout.LowMemoryEnd):x}");
    }

    /// <summary>Writes into claimed memory.</summary>
    public void Write(ulong address, ReadOnlySpan<byte> bytes)
    {
        if (!_request.Memory.Write(address, bytes)) throw new InvalidOperationException("a claim lies outside RAM");
    }

    /// <inheritdoc cref="Write(ulong, ReadOnlySpan{byte})"/>
    /// <exception cref="BootException">It cannot be read any more.</exception>
    public void Write(ulong address, BootContent content)
    {
        _request.Memory.ExpectWrites(address, content.Length);
        content.Read((offset, bytes) => Write(address + offset, bytes));
    }

    /// <summary>Fills claimed memory with zeros.</summary>
    public void Clear(ulong address, ulong length)
    {
        Span<byte> zeros = stackalloc byte[(int)GuestMemory.PageSize];
        zeros.Clear();
        for (; length > 0; address += GuestMemory.PageSize, length -= Math.Min(length, GuestMemory.PageSize))
            Write(address, zeros[..(int)Math.Min(length, GuestMemory.PageSize)]);
    }

    /// <summary>Allocates in conventional memory and writes.</summary>
    public ulong Place(ReadOnlySpan<byte> bytes, string what, ulong alignment = 16)
    {
        ulong address = AllocateLow((ulong)bytes.Length, what, alignment);
        Write(address, bytes);
        return address;
    }

    /// <summary>Allocates in conventional memory and writes a text in UTF-8 with a 0 behind it.</summary>
    public ulong PlaceString(string text, string what) => Place([.. Encoding.UTF8.GetBytes(text), 0], what, 4);

    /// <summary>An error about the kernel file.</summary>
    public BootException Failure(string what) => new($"{_request.KernelName}: {what}");

    private BootException TooSmall(string what, ulong needed) =>
        new($"{_request.KernelName}: {what}: the machine has {Mebibytes(_request.Memory.Size)} of memory, at least {Mebibytes(AlignUp(needed, MiB))} is needed")
        {
            MemoryNeeded = AlignUp(needed, MiB),
        };

    public static ulong AlignUp(ulong value, ulong alignment) => (value + alignment - 1) & ~(alignment - 1);

    private static string Mebibytes(ulong bytes) => bytes >= MiB ? $"{(bytes + MiB - 1) / MiB} MiB" : $"{(bytes + 1023) / 1024} KiB";
}
