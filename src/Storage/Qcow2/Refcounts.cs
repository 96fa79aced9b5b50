using System.Buffers.Binary;

namespace Bunraku.Storage.Qcow2;

/// <summary>
/// How often each cluster of the file is referred to, in a table of blocks: docs/interop/qcow2.txt, "Host cluster management". With the image's lock held for
/// writing.
/// </summary>
/// <remarks>
/// A count that goes up is written before anything in the file refers to the cluster, and one that goes down only after nothing does any more
/// (<see cref="Qcow2Disk.Commit"/>): whatever the power failure leaves, counts are too high at worst, which costs room and nothing else.
/// </remarks>
internal sealed class Refcounts
{
    private const ulong OffsetMask = ~511ul;
    // A file has no more: offsets have 56 bits, and the host's are signed.
    private const ulong MostBytes = 1ul << 55;

    private readonly IImageFile _file;
    private readonly Qcow2Header _header;
    private readonly TableCache _blocks;
    private readonly Func<ulong, bool> _isMetadata;
    private WholeTable _table;
    private ulong _next; // where the next free cluster is looked for: before it all are taken

    /// <param name="isMetadata">A cluster holds tables, whatever its count says: an image that is damaged gives it to nobody.</param>
    public Refcounts(IImageFile file, Qcow2Header header, Func<ulong, bool> isMetadata)
    {
        (_file, _header, _isMetadata) = (file, header, isMetadata);
        _blocks = new TableCache(file, header.ClusterSize, Math.Max(4, (4 << 20) >> header.ClusterBits));
        _table = WholeTable.Load(file, header.RefcountTableOffset, (int)(header.RefcountTableClusters << (header.ClusterBits - 3)));
        for (int n = 0; n < _table.Length; n++)
            if ((_table[n] & OffsetMask) is not 0 and var offset) header.Place(file, "block of reference counts", offset, (ulong)header.ClusterSize);
    }

    /// <summary>Clusters that one block counts.</summary>
    private ulong PerBlock => (ulong)_header.ClusterSize * 8 >> _header.RefcountOrder;

    /// <summary>The largest count.</summary>
    public ulong Most => _header.RefcountOrder == 6 ? ulong.MaxValue : (1ul << (1 << _header.RefcountOrder)) - 1;

    /// <summary>Where blocks lie, with zeros for those that are not there.</summary>
    public IEnumerable<ulong> BlockOffsets
    {
        get
        {
            for (int n = 0; n < _table.Length; n++) yield return _table[n] & OffsetMask;
        }
    }

    /// <summary>Counted clusters: behind them all counts are 0.</summary>
    public ulong Covered => (ulong)_table.Length * PerBlock;

    /// <summary>Goes to the end of a range that no block counts. False: this one is counted.</summary>
    public bool SkipUncounted(ref ulong cluster)
    {
        ulong block = cluster / PerBlock;
        if ((_table[(int)block] & OffsetMask) != 0) return false;
        cluster = (block + 1) * PerBlock - 1;
        return true;
    }

    /// <summary>Told of each cluster in which a new table lies, and of those that hold none any more.</summary>
    public Action<ulong, bool>? MetadataMoved { get; set; }

    public ulong Get(ulong cluster)
    {
        ulong block = cluster / PerBlock;
        if (block >= (ulong)_table.Length || (_table[(int)block] & OffsetMask) is not (not 0 and var offset)) return 0;
        return Read(_blocks.Get(offset).Bytes, (int)(cluster % PerBlock));
    }

    /// <summary>Changes a count, whose block is there.</summary>
    /// <exception cref="DiskException">It would be more than the image can hold, or less than 0.</exception>
    public void Change(ulong cluster, int by)
    {
        ulong count = Get(cluster);
        if (by > 0 && count > Most - (ulong)by)
            throw new DiskException($"disk {_file.Name}: its reference counts of {1 << _header.RefcountOrder} bits hold no more snapshots");
        if (by < 0 && count < (ulong)-by) throw Qcow2Header.Bad(_file, $"is damaged: cluster {cluster:X} is in use and counted as free");
        Set(cluster, count + (ulong)by);
    }

    /// <summary>Sets a count; the block is made if there is none.</summary>
    public void Set(ulong cluster, ulong count)
    {
        EnsureBlock(cluster);
        CachedTable block = _blocks.Get(_table[(int)(cluster / PerBlock)] & OffsetMask);
        int index = (int)(cluster % PerBlock);
        Write(block.Bytes, index, count);
        block.MarkDirty((int)((long)index << _header.RefcountOrder >> 3), Math.Max(1, 1 << _header.RefcountOrder >> 3));
        if (count == 0) _next = Math.Min(_next, cluster);
    }

    /// <summary>Takes clusters that nobody has and counts each once. Nothing refers to them yet.</summary>
    /// <param name="count">How many, one behind the other.</param>
    /// <param name="orLess">Fewer will do, at least one.</param>
    /// <returns>The first one's number, and how many they are.</returns>
    public (ulong First, int Count) Allocate(int count, bool orLess)
    {
        while (true)
        {
            ulong first = Skip(_next);
            if (orLess || count == 1) _next = first;
            int found = 1;
            for (; found < count; found++)
            {
                if (IsFree(first + (ulong)found)) continue;
                if (orLess) break;
                first = Skip(first + (ulong)found);
                found = 0;
            }
            if (first + (ulong)found > MostBytes >> _header.ClusterBits) throw new DiskException($"disk {_file.Name}: the image cannot grow any more");
            // A new block lies in the range that it counts, perhaps where we wanted to be: then once more.
            bool made = false;
            for (int n = 0; n < found; n++) made |= EnsureBlock(first + (ulong)n);
            if (made) continue;
            for (int n = 0; n < found; n++) Set(first + (ulong)n, 1);
            if (first == _next) _next = first + (ulong)found;
            return (first, found);
        }
    }

    private bool IsFree(ulong cluster) => Get(cluster) == 0 && !_isMetadata(cluster);

    private ulong Skip(ulong from)
    {
        while (!IsFree(from)) from++;
        return from;
    }

    /// <summary>Makes the block that counts a cluster. True: it was not there.</summary>
    private bool EnsureBlock(ulong cluster)
    {
        ulong index = cluster / PerBlock;
        if (index >= (ulong)_table.Length) return GrowTable(index);
        if ((_table[(int)index] & OffsetMask) != 0) return false;
        // It lies in its own range, of which nothing is in use, and counts itself. It is lasting before the table leads to it.
        ulong place = Unused(index * PerBlock);
        byte[] bytes = new byte[_header.ClusterSize];
        Write(bytes, (int)(place % PerBlock), 1);
        _file.Write(place << _header.ClusterBits, bytes);
        _file.Flush();
        _blocks.Add(place << _header.ClusterBits, bytes).IsNew = false;
        _table[(int)index] = place << _header.ClusterBits;
        MetadataMoved?.Invoke(place, true);
        _table.WriteTo(_file);
        return true;
    }

    private ulong Unused(ulong cluster)
    {
        while (_isMetadata(cluster)) cluster++;
        return cluster;
    }

    /// <summary>
    /// A longer table, behind all that is counted so far, with the blocks that count it. All of it is lasting before the header leads to it.
    /// </summary>
    private bool GrowTable(ulong wanted)
    {
        int bits = _header.ClusterBits, size = _header.ClusterSize;
        ulong firstBlock = (ulong)_table.Length, start = firstBlock * PerBlock, tableClusters, blocks = 1;
        while (true)
        {
            ulong entries = Math.Max(Math.Max(wanted + 1, firstBlock + blocks), firstBlock + firstBlock / 2);
            tableClusters = (entries * 8 + (ulong)size - 1) >> bits;
            if (blocks * PerBlock >= blocks + tableClusters) break;
            blocks++;
        }
        if (tableClusters << bits > 8 << 20) throw new DiskException($"disk {_file.Name}: the image cannot grow any more with clusters of {size} bytes");
        ulong[] table = new ulong[tableClusters << (bits - 3)];
        _table.Entries.CopyTo(table);
        ulong used = blocks + tableClusters;
        for (ulong n = 0; n < used; n++) if (_isMetadata(start + n)) throw Qcow2Header.Bad(_file, "is damaged: clusters behind all that is counted are in use");
        for (ulong n = 0; n < blocks; n++)
        {
            byte[] bytes = new byte[size];
            for (ulong k = 0; k < PerBlock && n * PerBlock + k < used; k++) Write(bytes, (int)k, 1);
            ulong place = start + n << bits;
            table[firstBlock + n] = place;
            _file.Write(place, bytes);
            _blocks.Add(place, bytes).IsNew = false;
        }
        ulong offset = start + blocks << bits;
        _file.Write(offset, WholeTable.Serialize(table, size));
        _file.Flush();
        (ulong oldOffset, uint oldClusters) = (_header.RefcountTableOffset, _header.RefcountTableClusters);
        (_header.RefcountTableOffset, _header.RefcountTableClusters) = (offset, (uint)tableClusters);
        _header.Update(_file);
        _file.Flush();
        _table = new WholeTable(offset, table);
        for (ulong n = 0; n < used; n++) MetadataMoved?.Invoke(start + n, true);
        for (ulong n = 0; n < oldClusters; n++)
        {
            MetadataMoved?.Invoke((oldOffset >> bits) + n, false);
            Change((oldOffset >> bits) + n, -1);
        }
        return true;
    }

    public bool AnyDirty => _blocks.AnyDirty;

    /// <summary>Writes what has changed.</summary>
    public void WriteTo(IImageFile file)
    {
        foreach (CachedTable block in _blocks.Dirty()) block.WriteTo(file);
    }

    /// <inheritdoc cref="TableCache.Trim"/>
    public bool Trim() => _blocks.Trim();

    private ulong Read(byte[] block, int index) => _header.RefcountOrder switch
    {
        < 3 => (ulong)block[index << _header.RefcountOrder >> 3] >> Shift(index) & Most,
        3 => block[index],
        4 => BinaryPrimitives.ReadUInt16BigEndian(block.AsSpan(index * 2)),
        5 => BinaryPrimitives.ReadUInt32BigEndian(block.AsSpan(index * 4)),
        _ => BinaryPrimitives.ReadUInt64BigEndian(block.AsSpan(index * 8)),
    };

    private void Write(byte[] block, int index, ulong count)
    {
        switch (_header.RefcountOrder)
        {
            case < 3:
                ref byte b = ref block[index << _header.RefcountOrder >> 3];
                b = (byte)(b & ~(Most << Shift(index)) | count << Shift(index));
                break;
            case 3: block[index] = (byte)count; break;
            case 4: BinaryPrimitives.WriteUInt16BigEndian(block.AsSpan(index * 2), (ushort)count); break;
            case 5: BinaryPrimitives.WriteUInt32BigEndian(block.AsSpan(index * 4), (uint)count); break;
            default: BinaryPrimitives.WriteUInt64BigEndian(block.AsSpan(index * 8), count); break;
        }
    }

    /// <summary>Counts of less than a byte begin at its lowest bit.</summary>
    private int Shift(int index) => (index << _header.RefcountOrder) & 7;
}
