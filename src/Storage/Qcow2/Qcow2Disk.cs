namespace Bunraku.Storage.Qcow2;

/// <summary>How an image is opened.</summary>
internal sealed record Qcow2OpenOptions
{
    public bool ReadOnly { get; init; }

    /// <summary>What the guest discards gives room back on the host.</summary>
    public bool Discard { get; init; } = true;

    /// <summary>Opens the backing file of a name and a format, which may be missing, to be read. Null: it is not opened; only tables are of interest.</summary>
    public Func<string, string?, IBlockBackend>? OpenBacking { get; init; }

    /// <summary>An image that is marked as damaged is opened to be written, by who repairs it.</summary>
    public bool Repairs { get; init; }
}

/// <summary>
/// A disk in an image of QEMU's format qcow2, version 2 or 3: docs/interop/qcow2.txt in QEMU's sources. The image is hostile: each number of it is checked
/// before it leads anywhere.
/// </summary>
/// <remarks>
/// Data of clusters that are the disk's alone is read and written by any number of threads at a time, with the lock held for reading; whatever changes a table
/// holds it for writing, with the data that goes with it. So a cluster is never given to somebody else while its bytes are under way.
/// </remarks>
public sealed partial class Qcow2Disk : IBlockBackend
{
    private readonly ReaderWriterLockSlim _lock = new();
    private readonly IImageFile _file;
    private readonly Qcow2Header _header;
    private readonly Qcow2OpenOptions _options;
    private readonly TableCache _l2;
    private readonly UnpackedClusters _unpacked = new();
    private readonly HashSet<ulong> _metadata = []; // numbers of clusters with tables; empty when the image is only read
    private readonly Refcounts? _refcounts; // null when the image is only read
    private readonly IBlockBackend? _backing;
    private WholeTable _l1;
    private SnapshotTable _snapshots;
    private ulong _fileEnd;

    /// <summary>Clusters that are in use though they may be counted as free, while a check repairs counts.</summary>
    internal Func<ulong, bool>? InUse { get; set; }

    private string? _broken; // why nothing is written any more

    /// <summary>Opens an image.</summary>
    /// <param name="file">Closed with the disk, and by the caller when this fails.</param>
    /// <exception cref="DiskException">It cannot be used; the message says why.</exception>
    internal static Qcow2Disk Open(IImageFile file, Qcow2OpenOptions options)
    {
        var disk = new Qcow2Disk(file, options);
        try
        {
            if (!options.ReadOnly && !options.Repairs) disk.PrepareToWrite();
            return disk;
        }
        catch
        {
            disk._backing?.Dispose();
            throw;
        }
    }

    private Qcow2Disk(IImageFile file, Qcow2OpenOptions options)
    {
        (_file, _options, _header) = (file, options, Qcow2Header.Read(file));
        _fileEnd = file.Length;
        if (_header.Incompatible.HasFlag(IncompatibleFeatures.Corrupt) && !options.ReadOnly && !options.Repairs)
            throw Bad("is marked as damaged and can only be read; 'bunraku image check --repair' may mend it");
        // 16 MiB of tables lead to 128 GiB of the disk with clusters of 64 KiB.
        _l2 = new TableCache(file, _header.ClusterSize, Math.Max(4, (16 << 20) >> _header.ClusterBits));
        _l1 = WholeTable.Load(file, _header.L1Offset, (int)_header.L1Entries);
        _snapshots = SnapshotTable.Load(file, _header);
        if (!options.ReadOnly)
        {
            _refcounts = new Refcounts(file, _header, cluster => _metadata.Contains(cluster) || InUse?.Invoke(cluster) == true)
            {
                MetadataMoved = NoteMetadata,
            };
            FindMetadata();
        }
        if (_header.Backing is { } name && options.OpenBacking is { } open) _backing = open(name, _header.BackingFormat);
    }

    private DiskException Bad(string problem) => Qcow2Header.Bad(_file, problem);

    /// <summary>Counts that were left open are counted again, and what only others keep right is not promised any more.</summary>
    private void PrepareToWrite()
    {
        if (_header.Incompatible.HasFlag(IncompatibleFeatures.Dirty))
        {
            CheckResult result = Qcow2Checker.Repair(this);
            if (result.Errors > 0) throw Bad($"was not closed and is damaged: {result.Messages[0]}; it can only be read");
        }
        if (_header.AutoClear == 0) return;
        _header.AutoClear = 0;
        _header.Update(_file);
        _file.Flush();
    }

    /// <inheritdoc/>
    public ulong Length => _header.Size;

    /// <inheritdoc/>
    public bool IsReadOnly => _options.ReadOnly;

    /// <inheritdoc/>
    public uint Granularity => (uint)_header.ClusterSize;

    internal IImageFile File => _file;

    internal Qcow2Header Header => _header;

    internal WholeTable L1 => _l1;

    internal SnapshotTable SnapshotTable => _snapshots;

    internal Refcounts Refcounts => _refcounts ?? throw new InvalidOperationException("the image is only read");

    /// <inheritdoc/>
    public void Read(ulong position, Span<byte> destination)
    {
        _lock.EnterReadLock();
        try
        {
            ReadLocked(position, destination);
        }
        finally
        {
            _lock.ExitReadLock();
        }
    }

    private void ReadLocked(ulong position, Span<byte> destination)
    {
        while (!destination.IsEmpty)
        {
            TableEntry entry = Find(position);
            int inside = InCluster(position), length = Math.Min(_header.ClusterSize - inside, destination.Length);
            switch (entry.Kind)
            {
                case ClusterKind.Data:
                    length = Together(position, entry, destination.Length, owned: false);
                    _file.Read(entry.Offset + (ulong)inside, destination[..length]);
                    break;
                case ClusterKind.Zero:
                    destination[..length].Clear();
                    break;
                case ClusterKind.Unallocated:
                    ReadBacking(position, destination[..length]);
                    break;
                default:
                    Unpack(entry).AsSpan(inside, length).CopyTo(destination);
                    break;
            }
            destination = destination[length..];
            position += (uint)length;
        }
    }

    private void ReadBacking(ulong position, Span<byte> destination)
    {
        ulong there = _backing is null || position >= _backing.Length ? 0 : Math.Min(_backing.Length - position, (ulong)destination.Length);
        if (there > 0) _backing!.Read(position, destination[..(int)there]);
        destination[(int)there..].Clear();
    }

    private byte[] Unpack(TableEntry entry) => _unpacked.Get(entry.Value, () =>
    {
        (ulong position, int length) = entry.CompressedRange(_header.ClusterBits);
        byte[] packed = new byte[length], cluster = new byte[_header.ClusterSize];
        _file.Read(position, packed);
        try
        {
            Compression.Unpack(_header.Compression, packed, length, cluster);
        }
        catch (InvalidDataException e)
        {
            throw new DiskException($"disk {_file.Name}: is damaged: a compressed cluster at {position:X} cannot be unpacked", e);
        }
        return cluster;
    });

    private int InCluster(ulong position) => (int)(position & ((ulong)_header.ClusterSize - 1));

    private (int L1, int L2) Indexes(ulong position) =>
        ((int)(position / _header.L2Coverage), (int)(position >> _header.ClusterBits) & (_header.L2Entries - 1));

    /// <summary>Where the cluster at a position is. With the lock held.</summary>
    /// <exception cref="DiskException">The tables lead out of the file.</exception>
    private TableEntry Find(ulong position)
    {
        (int first, int second) = Indexes(position);
        var table = new TableEntry(_l1[first]);
        return table.Offset == 0 ? default : Checked(new TableEntry(L2At(table)[second]));
    }

    private CachedTable L2At(TableEntry l1Entry)
    {
        ulong offset = l1Entry.Offset;
        return (offset % (ulong)_header.ClusterSize == 0 ? _l2.Find(offset, IsBehindEnd) : null)
            ?? throw Bad($"is damaged: a table lies at {offset:X}, outside the file or inside a cluster");
    }

    private TableEntry Checked(TableEntry entry)
    {
        if (entry.Kind == ClusterKind.Compressed)
        {
            if (IsBehindEnd(entry.CompressedRange(_header.ClusterBits).Position)) throw Bad("is damaged: a compressed cluster lies outside the file");
        }
        else if (entry.Offset % (ulong)_header.ClusterSize != 0 || entry.Kind == ClusterKind.Data && IsBehindEnd(entry.Offset))
        {
            throw Bad($"is damaged: a cluster lies at {entry.Offset:X}, outside the file");
        }
        else if (entry.Kind == ClusterKind.Zero && _header.Version == 2)
        {
            throw Bad("is damaged: a table of version 2 has an entry of version 3");
        }
        return entry;
    }

    private bool IsBehindEnd(ulong offset)
    {
        if (offset < Volatile.Read(ref _fileEnd)) return false;
        Volatile.Write(ref _fileEnd, _file.Length);
        return offset >= Volatile.Read(ref _fileEnd);
    }

    /// <summary>Bytes from a position on, at most so many, that lie one behind the other in the file.</summary>
    private int Together(ulong position, TableEntry entry, int most, bool owned)
    {
        long length = _header.ClusterSize - InCluster(position);
        for (ulong expected = entry.Offset + (ulong)_header.ClusterSize; length < most; expected += (ulong)_header.ClusterSize)
        {
            TableEntry next = Find(position + (ulong)length);
            if (next.Kind != ClusterKind.Data || next.Offset != expected || owned && !(next.IsOwned && !_metadata.Contains(next.Offset >> _header.ClusterBits)))
                break;
            length += _header.ClusterSize;
        }
        return (int)Math.Min(length, most);
    }

    /// <inheritdoc/>
    public ulong KnownZeros(ulong position)
    {
        _lock.EnterReadLock();
        try
        {
            ulong at = position;
            while (at < Length)
            {
                (int first, _) = Indexes(at);
                ulong end = at - at % _header.L2Coverage + _header.L2Coverage;
                bool noTable = new TableEntry(_l1[first]).Offset == 0;
                if (!noTable) end = at - (ulong)InCluster(at) + (ulong)_header.ClusterSize;
                TableEntry entry = noTable ? default : Find(at);
                ulong zeros = entry.Kind switch { ClusterKind.Zero => end - at, ClusterKind.Unallocated => BackingZeros(at, end), _ => 0 };
                at += Math.Min(zeros, Length - at);
                if (at < end) break;
            }
            return at - position;
        }
        finally
        {
            _lock.ExitReadLock();
        }
    }

    /// <summary>How much of [<paramref name="at"/>, <paramref name="end"/>) is zero below this image, from its beginning on.</summary>
    private ulong BackingZeros(ulong at, ulong end)
    {
        if (_backing is null || at >= _backing.Length) return end - at;
        ulong zeros = _backing.KnownZeros(at);
        return at + zeros >= _backing.Length ? end - at : Math.Min(zeros, end - at);
    }

    /// <summary>
    /// Closes the file. What is not written yet of tables is tried to be, as at a flush; who wants to know whether it was calls <see cref="Flush"/> before.
    /// </summary>
    public void Dispose()
    {
        try
        {
            Flush();
        }
        catch (IOException)
        {
        }
        _backing?.Dispose();
        _file.Dispose();
        _lock.Dispose();
    }

    /// <summary>Compressed clusters that were unpacked last: a guest reads them piece by piece. Any thread.</summary>
    private sealed class UnpackedClusters
    {
        private const int Kept = 8;
        private readonly Lock _lock = new();
        private readonly LinkedList<(ulong Entry, byte[] Bytes)> _clusters = new();

        public byte[] Get(ulong entry, Func<byte[]> unpack)
        {
            lock (_lock)
            {
                for (LinkedListNode<(ulong Entry, byte[] Bytes)>? node = _clusters.First; node is not null; node = node.Next)
                    if (node.Value.Entry == entry) return node.Value.Bytes;
            }
            byte[] bytes = unpack();
            lock (_lock)
            {
                _clusters.AddFirst((entry, bytes));
                if (_clusters.Count > Kept) _clusters.RemoveLast();
            }
            return bytes;
        }

        public void Clear()
        {
            lock (_lock) _clusters.Clear();
        }
    }
}
