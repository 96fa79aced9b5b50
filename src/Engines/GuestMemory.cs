using System.Runtime.CompilerServices;
using Bunraku.Platform;
using Microsoft.Win32.SafeHandles;

namespace Bunraku.Engines;

/// <summary>A range of guest-physical addresses with RAM (or ROM) behind it.</summary>
/// <param name="Start">First guest-physical address, a multiple of 4096.</param>
/// <param name="Length">Bytes, a multiple of 4096.</param>
/// <param name="Offset">Where the range begins inside the backing memory.</param>
/// <param name="IsReadOnly">
/// ROM: what a vCPU writes there exits as a write to a device at that address does, so that one may answer or nobody; bus masters are refused.
/// </param>
/// <param name="IsDevice">Memory of a device, as of a display: it can be read and written like RAM, and is no RAM to the guest's systems.</param>
public readonly record struct MemoryRegion(ulong Start, ulong Length, ulong Offset, bool IsReadOnly, bool IsDevice = false)
{
    /// <summary>First address behind the range.</summary>
    public ulong End => Start + Length;

    /// <summary>The address lies inside.</summary>
    /// <param name="address">Any.</param>
    public bool Contains(ulong address) => address - Start < Length;
}

/// <summary>Bytes that something other than a vCPU wrote to guest memory.</summary>
/// <param name="offset">Where, in the backing memory.</param>
public delegate void DeviceWrite(ulong offset, ReadOnlySpan<byte> bytes);

/// <summary>An engine's VM that keeps mappings of its own: told when guest memory lies elsewhere.</summary>
public interface IMemoryMapObserver
{
    /// <summary>Regions have come, gone or moved: from the return on no vCPU makes use of the old ones. On the thread that changed them.</summary>
    /// <param name="before">What <see cref="GuestMemory.Regions"/> were.</param>
    void MapChanged(IReadOnlyList<MemoryRegion> before);
}

/// <summary>
/// The guest-physical address space that has memory behind it; everything else is for devices. Where which piece of memory lies is the board's affair.
/// Reads and writes may come from any thread (devices, vCPUs); like DMA they are not ordered against accesses of vCPUs beyond what the architecture promises.
/// </summary>
/// <remarks>
/// Invariant: every region lies inside <see cref="Backing"/>, before and after each change; all guest-controlled addresses go through <see cref="TryFind"/>
/// first. Who has found a page while the map changes reaches the old one, which is memory of this guest as well.
/// </remarks>
public sealed unsafe class GuestMemory : IDisposable
{
    /// <summary>log2 of <see cref="PageSize"/>.</summary>
    public const int PageShift = 12;

    /// <summary>Bytes of a page: what code pages, rights and logs count in.</summary>
    public const ulong PageSize = 1ul << PageShift;

    private readonly MemoryRegion[] _home; // where each byte of the backing memory lies at the start
    private volatile MemoryRegion[] _regions;
    /// <summary>The largest region whose addresses are its offsets: it is there always, so that most look-ups are one comparison.</summary>
    private readonly MemoryRegion _flat;
    private readonly ulong _flatStart;
    /// <summary>Bytes of it; 0 while pages are still to be checked, which all take the longer way then.</summary>
    private ulong _flatLength;
    private volatile IContentCheck? _check;
    private readonly Lock _mapLock = new();
    private volatile IMemoryMapObserver[] _mapObservers = [];

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
        _regions = _home = [.. regions];
        Size = Check(_home);
        MemoryRegion flat = default;
        foreach (MemoryRegion r in _home)
        {
            if (IsFlat(r) && r.Length > flat.Length) flat = r;
        }
        (_flat, _flatStart, _flatLength) = (flat, flat.Start, flat.Length);
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
        CheckPlaces(regions);
        ulong size = 0;
        foreach (MemoryRegion r in regions)
        {
            if (r.Offset != size)
                throw new ArgumentException($"memory at {r.Start:X} does not follow the memory before it in the backing memory", nameof(regions));
            size += r.Length;
        }
        return size > 0 ? size : throw new ArgumentException("there is no memory", nameof(regions));
    }

    private static void CheckPlaces(MemoryRegion[] regions)
    {
        ulong end = 0;
        foreach (MemoryRegion r in regions)
        {
            if (r.Length == 0 || ((r.Start | r.Length | r.Offset) & (PageSize - 1)) != 0)
                throw new ArgumentException($"memory of {r.Length:X} bytes at {r.Start:X} is not made of pages of 4096 bytes", nameof(regions));
            if (r.Start < end || r.Length > ulong.MaxValue - r.Start)
                throw new ArgumentException($"memory at {r.Start:X} overlaps what lies before it, or the end of the address space", nameof(regions));
            end = r.End;
        }
    }

    private static bool IsFlat(MemoryRegion r) => r.Start == r.Offset && !r.IsReadOnly;

    /// <summary>
    /// Memory lies elsewhere from now on: regions come, go, move, show the same bytes at several addresses, become ROM or RAM. What is in the backing memory
    /// stays. When this returns, no vCPU makes use of the old map; a device may be in the middle of a write that it began before. Any thread but one inside
    /// <see cref="IVirtualCpu.Enter"/>, and without a lock that a vCPU may want there (that of the interrupt controllers).
    /// </summary>
    /// <param name="regions">By ascending address, without overlap, each inside the backing memory.</param>
    /// <exception cref="ArgumentException">The regions are not in order or not inside, or the largest one of the beginning is not among them.</exception>
    public void Map(IReadOnlyList<MemoryRegion> regions)
    {
        MemoryRegion[] next = [.. regions];
        CheckPlaces(next);
        if (Array.Exists(next, r => r.Offset > Size || r.Length > Size - r.Offset))
            throw new ArgumentException("a region reaches beyond the backing memory", nameof(regions));
        if (_flat.Length != 0 && !Array.Exists(next, r => IsFlat(r) && r.Start <= _flat.Start && r.End >= _flat.End))
            throw new ArgumentException($"the RAM from {_flatStart:X} on has to stay where it is", nameof(regions));
        lock (_mapLock)
        {
            MemoryRegion[] before = _regions;
            if (next.AsSpan().SequenceEqual(before)) return;
            _regions = next;
            foreach (IMemoryMapObserver observer in _mapObservers) observer.MapChanged(before);
            Rights.ForgetMappings();
        }
    }

    /// <summary>Registers an observer. Not while guests run.</summary>
    public void Add(IMemoryMapObserver observer)
    {
        lock (_mapLock) _mapObservers = [.. _mapObservers, observer];
    }

    /// <summary>Forgets an observer, whose vCPUs do not run any more.</summary>
    public void Remove(IMemoryMapObserver observer)
    {
        lock (_mapLock) _mapObservers = [.. _mapObservers.Where(o => o != observer)];
    }

    /// <summary>Bytes of the backing memory: RAM and what else the regions of the beginning hold.</summary>
    public ulong Size { get; }

    /// <summary>Bytes of the regions of the beginning that were neither ROM nor a device's.</summary>
    public ulong RamSize
    {
        get
        {
            ulong sum = 0;
            foreach (MemoryRegion r in _home)
            {
                if (!r.IsReadOnly && !r.IsDevice) sum += r.Length;
            }
            return sum;
        }
    }

    /// <summary>The memory of the host that stands behind all regions, one after the other.</summary>
    public RamBacking Backing { get; }

    /// <summary>Who has read code from which page.</summary>
    public CodePages Code { get; }

    /// <summary>What vCPUs and devices may do with each page.</summary>
    public PageRightsTable Rights { get; }

    /// <summary>The log of what is written by <see cref="Write"/> and what <see cref="NotifyWritten"/> tells.</summary>
    public WrittenPages DeviceWrites { get; }

    /// <summary>The regions that it was made with, which fill the backing memory.</summary>
    public IReadOnlyList<MemoryRegion> InitialRegions => _home;

    /// <summary>The regions as they are now, by ascending address.</summary>
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

    /// <summary>Guest-physical address of a byte of the backing memory in the regions of the beginning, whatever the map is now.</summary>
    /// <param name="offset">Below <see cref="Size"/>.</param>
    /// <exception cref="ArgumentOutOfRangeException">It is not.</exception>
    public ulong AddressOf(ulong offset)
    {
        foreach (MemoryRegion r in _home)
        {
            if (offset - r.Offset < r.Length) return r.Start + (offset - r.Offset);
        }
        throw new ArgumentOutOfRangeException(nameof(offset));
    }

    /// <summary>
    /// What the memory holds has come from where nobody answers for it: each page is looked at before its first use, until <see cref="IsChecked"/>. A page that
    /// is not what it should be is as if no memory was there. Nobody uses the memory meanwhile.
    /// </summary>
    /// <remarks>Who looks at all of the memory by <see cref="Backing"/> calls <see cref="CompleteCheck"/> first.</remarks>
    public void CheckBeforeUse(IContentCheck check) => (_check, _flatLength) = (check, 0);

    /// <summary>All of the memory is as it should be. Any thread.</summary>
    public void IsChecked()
    {
        _check = null;
        Volatile.Write(ref _flatLength, _flat.Length);
    }

    /// <summary>Looks at all that was not looked at yet. False: some of it is not what it should be, and who has set the check knows. Any thread.</summary>
    public bool CompleteCheck() => _check?.Complete() ?? true;

    /// <summary>
    /// A piece of the backing memory is what it should be. Any thread, before it uses what it has not asked <see cref="PagePointer(ulong)"/> for.
    /// </summary>
    /// <param name="offset">In the backing memory.</param>
    /// <param name="length">Bytes; all inside.</param>
    public bool MayUse(ulong offset, ulong length) => _check?.IsGood(offset, length) ?? true;

    /// <summary>Host address of a guest-physical page, or null when it is neither RAM nor ROM. The pointer is good for that one page.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public byte* PagePointer(ulong address) =>
        address - _flatStart < _flatLength ? Backing.Pointer + (address & ~(PageSize - 1)) : PagePointerElsewhere(address, out _);

    /// <inheritdoc cref="PagePointer(ulong)"/>
    /// <param name="isReadOnly">It is ROM.</param>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public byte* PagePointer(ulong address, out bool isReadOnly)
    {
        isReadOnly = false;
        return address - _flatStart < _flatLength ? Backing.Pointer + (address & ~(PageSize - 1)) : PagePointerElsewhere(address, out isReadOnly);
    }

    private byte* PagePointerElsewhere(ulong address, out bool isReadOnly)
    {
        bool found = TryFind(address, out MemoryRegion r);
        isReadOnly = r.IsReadOnly;
        if (!found) return null;
        ulong offset = r.Offset + ((address & ~(PageSize - 1)) - r.Start);
        return MayUse(offset, PageSize) ? Backing.Pointer + offset : null;
    }

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
    /// Told of each write by <see cref="Write"/> and <see cref="WriteBacking"/>, and of what <see cref="NotifyWritten"/> tells, after it is done: offset and
    /// bytes, inside one page. On the writer's thread; for who keeps a copy. Set while no device runs.
    /// </summary>
    public DeviceWrite? OnDeviceWrite { get; set; }

    /// <summary>
    /// Called before each write by <see cref="Write"/> and <see cref="WriteBacking"/>, on the writer's thread, which it may hold up;
    /// <see cref="OnDeviceWrite"/> follows on the same thread. For who decides when devices may write.
    /// </summary>
    public Action? BeforeDeviceWrite { get; set; }

    /// <summary>
    /// Copies into guest memory as a device does (DMA): decoded code in the way is forgotten. False when a byte is not RAM; earlier pages are then written.
    /// </summary>
    public bool Write(ulong address, ReadOnlySpan<byte> source)
    {
        while (source.Length > 0)
        {
            byte* page = PagePointer(address, out bool isReadOnly);
            if (page == null || isReadOnly) return false;
            int inPage = (int)(address & (PageSize - 1)), n = Math.Min(source.Length, (int)PageSize - inPage);
            WriteBacking((ulong)(page - Backing.Pointer) + (ulong)inPage, source[..n]);
            source = source[n..];
            address += (ulong)n;
        }
        return true;
    }

    /// <summary>
    /// All of an area of RAM will be written: what it has of the host's huge pages is made one by one before. Made when the guest comes there, they would be
    /// copied from small pages.
    /// </summary>
    public void ExpectWrites(ulong address, ulong length)
    {
        const ulong inPage = RamBacking.HugePage - 1;
        for (ulong page = (address + inPage) & ~inPage; page + RamBacking.HugePage <= address + length; page += RamBacking.HugePage)
        {
            byte* host = PagePointer(page);
            if (host != null) Backing.Enlarge(host);
        }
    }

    /// <summary>Writes to the backing memory, whatever address it is seen at, and be it ROM; else like <see cref="Write"/>.</summary>
    /// <param name="offset">With the length of <paramref name="source"/> at most <see cref="Size"/>.</param>
    public void WriteBacking(ulong offset, ReadOnlySpan<byte> source)
    {
        if (offset > Size || (ulong)source.Length > Size - offset) throw new ArgumentOutOfRangeException(nameof(offset));
        while (source.Length > 0)
        {
            int inPage = (int)(offset & (PageSize - 1)), n = Math.Min(source.Length, (int)PageSize - inPage);
            Rights.BeforeDeviceWrite(offset - (ulong)inPage);
            DeviceWrite? after = OnDeviceWrite; // who was asked before is told, whoever it is by then
            BeforeDeviceWrite?.Invoke();
            source[..n].CopyTo(new Span<byte>(Backing.Pointer + offset, n));
            NotifyWrite(offset);
            after?.Invoke(offset, source[..n]);
            source = source[n..];
            offset += (ulong)n;
        }
    }

    private static readonly byte[] s_zeroPage = new byte[PageSize];

    /// <summary>
    /// Gives pages back to the host: they are zero then, as if a device had written that, and take memory again when they are touched. False, with earlier
    /// pages given back, when a page is not RAM.
    /// </summary>
    /// <param name="address">A multiple of <see cref="PageSize"/>.</param>
    /// <param name="length">Likewise.</param>
    public bool Forget(ulong address, ulong length)
    {
        if (((address | length) & (PageSize - 1)) != 0) return false;
        while (length > 0)
        {
            if (!TryFind(address, out MemoryRegion region) || region.IsReadOnly || region.IsDevice) return false;
            ulong offset = region.Offset + (address - region.Start), piece = Math.Min(length, region.End - address);
            PrepareWrite(offset, piece);
            Backing.Forget(offset, piece);
            for (ulong page = offset; page < offset + piece; page += PageSize)
            {
                NotifyWrite(page);
                OnDeviceWrite?.Invoke(page, s_zeroPage); // to look at the memory itself would take some
            }
            address += piece;
            length -= piece;
        }
        return true;
    }

    /// <summary>What is in the backing memory, whatever address it is seen at; it may change while it is looked at.</summary>
    /// <param name="offset">With <paramref name="length"/> at most <see cref="Size"/>.</param>
    /// <param name="length">Bytes.</param>
    public ReadOnlySpan<byte> ReadBacking(ulong offset, int length)
    {
        if (offset > Size || (ulong)length > Size - offset) throw new ArgumentOutOfRangeException(nameof(offset));
        return new ReadOnlySpan<byte>(Backing.Pointer + offset, length);
    }

    /// <summary>Reads one little-endian value; false when a byte is not RAM.</summary>
    public bool TryRead<T>(ulong address, out T value) where T : unmanaged
    {
        Unsafe.SkipInit(out value);
        fixed (T* p = &value) return Read(address, new Span<byte>(p, sizeof(T)));
    }

    /// <summary>Writes one little-endian value as a device does; false when a byte is not RAM.</summary>
    public bool TryWrite<T>(ulong address, T value) where T : unmanaged => Write(address, new ReadOnlySpan<byte>(&value, sizeof(T)));

    /// <summary>A device is about to write by a pointer of its own: see <see cref="PageRightsTable.DeviceWriteRefused"/>.</summary>
    /// <param name="offset">Where, in the backing memory.</param>
    /// <param name="length">Bytes; all inside.</param>
    public void PrepareWrite(ulong offset, ulong length)
    {
        for (ulong page = offset & ~(PageSize - 1); page < offset + length; page += PageSize) Rights.BeforeDeviceWrite(page);
    }

    /// <summary>Tells who has read code from there that a device wrote by a pointer of its own.</summary>
    /// <param name="offset">Where, in the backing memory.</param>
    /// <param name="length">Bytes; all inside.</param>
    public void NotifyWritten(ulong offset, ulong length)
    {
        for (ulong end = offset + length; offset < end; offset = (offset & ~(PageSize - 1)) + PageSize)
        {
            NotifyWrite(offset);
            OnDeviceWrite?.Invoke(
                offset, new ReadOnlySpan<byte>(Backing.Pointer + offset, (int)Math.Min(end - offset, PageSize - (offset & (PageSize - 1)))));
        }
    }

    /// <summary>Enters pages in <see cref="DeviceWrites"/>, for a vCPU's writes that nobody else can tell of any more.</summary>
    /// <param name="region">A region that was or is in the map.</param>
    /// <param name="pages">One bit each, the region's first page in bit 0 of the first word.</param>
    public void MarkWritten(in MemoryRegion region, ReadOnlySpan<ulong> pages)
    {
        for (ulong page = 0; page < region.Length >> PageShift; page++)
        {
            if ((pages[(int)(page / 64)] >> (int)(page % 64) & 1) != 0) DeviceWrites.Mark(region.Offset + (page << PageShift));
        }
    }

    /// <summary>
    /// Makes the memory what a file says: see <see cref="RamBacking.Load"/>. Nobody uses it meanwhile. Code that vCPUs have decoded is forgotten; rights and
    /// logs are as they were.
    /// </summary>
    /// <inheritdoc cref="RamBacking.Load"/>
    public void Load(SafeFileHandle file, IReadOnlyList<FileRange> ranges)
    {
        Backing.Load(file, ranges);
        Code.AllWritten();
    }

    /// <summary>Tells who has read code from the page of <paramref name="offset"/> in the backing memory that a device wrote there.</summary>
    private void NotifyWrite(ulong offset)
    {
        // The store comes before the look at the page: see CodePages.
        Interlocked.MemoryBarrier();
        Code.Written(offset);
        DeviceWrites.Mark(offset);
    }

    /// <summary>Gives the memory back. Nobody uses it any more.</summary>
    public void Dispose() => Backing.Dispose();
}
