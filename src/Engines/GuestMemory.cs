using System.Runtime.CompilerServices;
using Bunraku.Platform;

namespace Bunraku.Engines;

/// <summary>A range of guest-physical addresses with RAM (or ROM) behind it.</summary>
/// <param name="Start">First guest-physical address, a multiple of 4096.</param>
/// <param name="Length">Bytes, a multiple of 4096.</param>
/// <param name="Offset">Where the range begins inside the backing memory.</param>
/// <param name="IsReadOnly">Guest writes are ignored (ROM).</param>
public readonly record struct MemoryRegion(ulong Start, ulong Length, ulong Offset, bool IsReadOnly)
{
    /// <summary>First address behind the range.</summary>
    public ulong End => Start + Length;

    /// <summary>The address lies inside.</summary>
    /// <param name="address">Any.</param>
    public bool Contains(ulong address) => address - Start < Length;
}

/// <summary>Bytes that something other than a vCPU wrote to guest memory.</summary>
public delegate void DeviceWrite(ulong address, ReadOnlySpan<byte> bytes);

/// <summary>
/// The guest-physical address space that has memory behind it; everything else is for devices. Where which piece of memory lies is the board's affair.
/// Reads and writes may come from any thread (devices, vCPUs); like DMA they are not ordered against accesses of vCPUs beyond what the architecture promises.
/// </summary>
/// <remarks>Invariant: every region lies inside <see cref="Backing"/>; all guest-controlled addresses go through <see cref="TryFind"/> first.</remarks>
public sealed unsafe class GuestMemory : IDisposable
{
    /// <summary>log2 of <see cref="PageSize"/>.</summary>
    public const int PageShift = 12;

    /// <summary>Bytes of a page: what code pages, rights and logs count in.</summary>
    public const ulong PageSize = 1ul << PageShift;

    private readonly MemoryRegion[] _regions;
    private readonly ulong _lowEnd; // where the region that begins at 0 ends, which also begins the backing memory; 0: there is none

    /// <summary>All of the memory from address 0 on.</summary>
    /// <param name="size">Bytes of RAM, a multiple of 4096, at least that.</param>
    /// <param name="shared">See <see cref="RamBacking(ulong, bool)"/>.</param>
    public GuestMemory(ulong size, bool shared = true) : this(Flat(size), shared)
    {
    }

    /// <summary>Memory in several places.</summary>
    /// <param name="regions">By ascending address, without overlap; by ascending offset, without holes in the backing memory.</param>
    /// <param name="shared">See <see cref="RamBacking(ulong, bool)"/>.</param>
    /// <param name="rights">Those of another memory of the same size, for who keeps a copy of it; null: its own.</param>
    /// <exception cref="ArgumentException">The regions are not made of pages, or not in order.</exception>
    public GuestMemory(IReadOnlyList<MemoryRegion> regions, bool shared = true, PageRightsTable? rights = null)
    {
        _regions = [.. regions];
        Size = Check(_regions);
        if (_regions[0].Start == 0) _lowEnd = _regions[0].End;
        Backing = new RamBacking(Size, shared);
        Code = new CodePages(Size);
        Rights = rights ?? new PageRightsTable(Size);
        DeviceWrites = new WrittenPages(Size);
    }

    /// <summary>One region from address 0 on.</summary>
    /// <param name="size">Bytes, a multiple of 4096.</param>
    public static IReadOnlyList<MemoryRegion> Flat(ulong size) => [new(0, size, 0, false)];

    /// <summary>Bytes of all regions together.</summary>
    private static ulong Check(MemoryRegion[] regions)
    {
        ulong size = 0, end = 0;
        foreach (MemoryRegion r in regions)
        {
            if (r.Length == 0 || ((r.Start | r.Length) & (PageSize - 1)) != 0)
                throw new ArgumentException($"memory of {r.Length:X} bytes at {r.Start:X} is not made of pages of 4096 bytes", nameof(regions));
            if (r.Start < end || r.Length > ulong.MaxValue - r.Start)
                throw new ArgumentException($"memory at {r.Start:X} overlaps what lies before it, or the end of the address space", nameof(regions));
            if (r.Offset != size)
                throw new ArgumentException($"memory at {r.Start:X} does not follow the memory before it in the backing memory", nameof(regions));
            size += r.Length;
            end = r.End;
        }
        return size > 0 ? size : throw new ArgumentException("there is no memory", nameof(regions));
    }

    /// <summary>Bytes of RAM.</summary>
    public ulong Size { get; }

    /// <summary>The memory of the host that stands behind all regions, one after the other.</summary>
    public RamBacking Backing { get; }

    /// <summary>Who has read code from which page.</summary>
    public CodePages Code { get; }

    /// <summary>What vCPUs and devices may do with each page.</summary>
    public PageRightsTable Rights { get; }

    /// <summary>The log of what is written by <see cref="Write"/> and what <see cref="NotifyWritten"/> tells.</summary>
    public WrittenPages DeviceWrites { get; }

    /// <summary>The regions, by ascending address.</summary>
    public IReadOnlyList<MemoryRegion> Regions => _regions;

    /// <summary>The region that contains <paramref name="address"/>.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public bool TryFind(ulong address, out MemoryRegion region)
    {
        foreach (ref readonly MemoryRegion r in _regions.AsSpan())
        {
            if (r.Contains(address))
            {
                region = r;
                return true;
            }
        }
        region = default;
        return false;
    }

    /// <summary>Guest-physical address of a byte of the backing memory.</summary>
    /// <param name="offset">Below <see cref="Size"/>.</param>
    /// <exception cref="ArgumentOutOfRangeException">It is not.</exception>
    public ulong AddressOf(ulong offset)
    {
        foreach (MemoryRegion r in _regions)
        {
            if (offset - r.Offset < r.Length) return r.Start + (offset - r.Offset);
        }
        throw new ArgumentOutOfRangeException(nameof(offset));
    }

    /// <summary>Host address of a guest-physical page, or null when it is not RAM. The pointer is good for that one page.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public byte* PagePointer(ulong address) =>
        address < _lowEnd ? Backing.Pointer + (address & ~(PageSize - 1)) : PagePointerAbove(address);

    private byte* PagePointerAbove(ulong address) =>
        TryFind(address, out MemoryRegion r) ? Backing.Pointer + r.Offset + ((address & ~(PageSize - 1)) - r.Start) : null;

    /// <summary>Copies guest memory out. False (with <paramref name="destination"/> filled up to there) when a byte is not RAM.</summary>
    public bool Read(ulong address, Span<byte> destination)
    {
        while (destination.Length > 0)
        {
            byte* page = PagePointer(address);
            if (page == null) return false;
            int offset = (int)(address & (PageSize - 1)), n = Math.Min(destination.Length, (int)PageSize - offset);
            new ReadOnlySpan<byte>(page + offset, n).CopyTo(destination);
            destination = destination[n..];
            address += (ulong)n;
        }
        return true;
    }

    /// <summary>
    /// Told of each write by <see cref="Write"/>, and of what <see cref="NotifyWritten"/> tells, after it is done: address and bytes, inside one page. On the
    /// writer's thread; for who keeps a copy. Set while no device runs.
    /// </summary>
    public DeviceWrite? OnDeviceWrite { get; set; }

    /// <summary>
    /// Copies into guest memory as a device does (DMA): decoded code in the way is forgotten. False when a byte is not RAM; earlier pages are then written.
    /// </summary>
    public bool Write(ulong address, ReadOnlySpan<byte> source)
    {
        while (source.Length > 0)
        {
            byte* page = PagePointer(address);
            if (page == null) return false;
            int offset = (int)(address & (PageSize - 1)), n = Math.Min(source.Length, (int)PageSize - offset);
            Rights.BeforeDeviceWrite((ulong)(page - Backing.Pointer));
            source[..n].CopyTo(new Span<byte>(page + offset, n));
            NotifyWrite(address);
            OnDeviceWrite?.Invoke(address, source[..n]);
            source = source[n..];
            address += (ulong)n;
        }
        return true;
    }

    /// <summary>Reads one little-endian value; false when a byte is not RAM.</summary>
    public bool TryRead<T>(ulong address, out T value) where T : unmanaged
    {
        Unsafe.SkipInit(out value);
        fixed (T* p = &value) return Read(address, new Span<byte>(p, sizeof(T)));
    }

    /// <summary>Writes one little-endian value as a device does; false when a byte is not RAM.</summary>
    public bool TryWrite<T>(ulong address, T value) where T : unmanaged => Write(address, new ReadOnlySpan<byte>(&value, sizeof(T)));

    /// <summary>
    /// A device is about to write to [<paramref name="address"/>, +<paramref name="length"/>), which is RAM, by a pointer of its own: see
    /// <see cref="PageRightsTable.DeviceWriteRefused"/>.
    /// </summary>
    public void PrepareWrite(ulong address, ulong length)
    {
        for (ulong page = address & ~(PageSize - 1); page < address + length; page += PageSize)
            Rights.BeforeDeviceWrite((ulong)(PagePointer(page) - Backing.Pointer));
    }

    /// <summary>
    /// Tells who has read code from there that a device wrote to [<paramref name="address"/>, +<paramref name="length"/>), which is RAM, by a pointer of its
    /// own.
    /// </summary>
    public void NotifyWritten(ulong address, ulong length)
    {
        for (ulong end = address + length; address < end; address = (address & ~(PageSize - 1)) + PageSize)
        {
            NotifyWrite(address);
            if (OnDeviceWrite is not { } told) continue;
            int offset = (int)(address & (PageSize - 1));
            told(address, new ReadOnlySpan<byte>(PagePointer(address) + offset, (int)Math.Min(end - address, PageSize - (ulong)offset)));
        }
    }

    /// <summary>Tells who has read code from the page of <paramref name="address"/>, which is RAM, that a device wrote there.</summary>
    private void NotifyWrite(ulong address)
    {
        // The store comes before the look at the page: see CodePages.
        Interlocked.MemoryBarrier();
        if (!TryFind(address, out MemoryRegion r)) return;
        ulong offset = r.Offset + (address - r.Start);
        Code.Written(offset);
        DeviceWrites.Mark(offset);
    }

    /// <summary>Gives the memory back. Nobody uses it any more.</summary>
    public void Dispose() => Backing.Dispose();
}
