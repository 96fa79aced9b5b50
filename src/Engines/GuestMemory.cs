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
    public ulong End => Start + Length;
    public bool Contains(ulong address) => address - Start < Length;
}

/// <summary>Bytes that something other than a vCPU wrote to guest memory.</summary>
public delegate void DeviceWrite(ulong address, ReadOnlySpan<byte> bytes);

/// <summary>
/// The guest-physical address space that has memory behind it; everything else is MMIO. RAM below 3 GiB lies at 0, the rest from 4 GiB on.
/// Reads and writes may come from any thread (devices, vCPUs); like DMA they are not ordered against vCPU accesses beyond x86-TSO.
/// </summary>
/// <remarks>Invariant: every region lies inside <see cref="Backing"/>; all guest-controlled addresses go through <see cref="TryFind"/> first.</remarks>
public sealed unsafe class GuestMemory : IDisposable
{
    /// <summary>RAM above this boundary moves to 4 GiB: the hole holds PCI, the APICs and the BIOS.</summary>
    public const ulong LowMemoryEnd = 0xC000_0000;
    private const ulong HighMemoryStart = 0x1_0000_0000;
    public const int PageShift = 12;
    public const ulong PageSize = 1ul << PageShift;

    private readonly MemoryRegion[] _regions;

    /// <param name="size">Bytes of RAM, a multiple of 4096, at least 1 MiB.</param>
    /// <param name="shared">See <see cref="RamBacking(ulong, bool)"/>.</param>
    /// <param name="rights">Those of another memory of the same size, for who keeps a copy of it; null: its own.</param>
    public GuestMemory(ulong size, bool shared = true, PageRightsTable? rights = null)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(size, 1ul << 20);
        if ((size & (PageSize - 1)) != 0) throw new ArgumentException("memory size is not a multiple of 4096", nameof(size));
        Size = size;
        Backing = new RamBacking(size, shared);
        ulong low = Math.Min(size, LowMemoryEnd);
        _regions = size > low
            ? [new(0, low, 0, false), new(HighMemoryStart, size - low, low, false)]
            : [new(0, low, 0, false)];
        Code = new CodePages(size);
        Rights = rights ?? new PageRightsTable(size);
        DeviceWrites = new WrittenPages(size);
    }

    /// <summary>Bytes of RAM.</summary>
    public ulong Size { get; }

    public RamBacking Backing { get; }

    /// <summary>Who has read code from which page.</summary>
    public CodePages Code { get; }

    /// <summary>What vCPUs and devices may do with each page.</summary>
    public PageRightsTable Rights { get; }

    /// <summary>The log of what is written by <see cref="Write"/> and what <see cref="NotifyWritten"/> tells.</summary>
    public WrittenPages DeviceWrites { get; }

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

    /// <summary>Host address of a guest-physical page, or null when it is not RAM. The pointer is good for that one page.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public byte* PagePointer(ulong address) =>
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

    /// <summary>Told of each write by <see cref="Write"/>, and of what <see cref="NotifyWritten"/> tells, after it is done: address and bytes, inside one page. On the writer's thread; for who keeps a copy. Set while no device runs.</summary>
    public DeviceWrite? OnDeviceWrite { get; set; }

    /// <summary>Copies into guest memory as a device does (DMA): decoded code in the way is forgotten. False when a byte is not RAM; earlier pages are then written.</summary>
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

    /// <summary>A device is about to write to [<paramref name="address"/>, +<paramref name="length"/>), which is RAM, by a pointer of its own: see <see cref="PageRightsTable.DeviceWriteRefused"/>.</summary>
    public void PrepareWrite(ulong address, ulong length)
    {
        for (ulong page = address & ~(PageSize - 1); page < address + length; page += PageSize) Rights.BeforeDeviceWrite((ulong)(PagePointer(page) - Backing.Pointer));
    }

    /// <summary>Tells who has read code from there that a device wrote to [<paramref name="address"/>, +<paramref name="length"/>), which is RAM, by a pointer of its own.</summary>
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

    public void Dispose() => Backing.Dispose();
}
