namespace Bunraku.Storage.Qcow2;

public sealed partial class Qcow2Disk
{
    private static readonly byte[] s_zeros = new byte[1 << 16];

    private ulong ClusterSize => (ulong)_header.ClusterSize;

    /// <inheritdoc/>
    public void Write(ulong position, ReadOnlySpan<byte> source)
    {
        while (!source.IsEmpty)
        {
            int written = WriteOwned(position, source);
            if (written == 0) written = Exclusive(position, source, WriteNew);
            source = source[written..];
            position += (uint)written;
        }
    }

    private delegate int Change(ulong position, ReadOnlySpan<byte> source);

    private int Exclusive(ulong position, ReadOnlySpan<byte> source, Change change)
    {
        _lock.EnterWriteLock();
        try
        {
            RequireWritable();
            int done = change(position, source);
            if (!_l2.Trim() | !_refcounts!.Trim() | _freed.Count > MostFreed)
            {
                Commit();
                _l2.Trim();
                _refcounts.Trim();
            }
            return done;
        }
        finally
        {
            _lock.ExitWriteLock();
        }
    }

    private void RequireWritable()
    {
        if (_options.ReadOnly) throw new IOException($"{_file.Name} is read-only");
        if (_broken is not null) throw Bad(_broken);
    }

    /// <summary>Writes what lies in clusters that are the disk's alone, up to the first that is not. With nothing to be changed in tables.</summary>
    private int WriteOwned(ulong position, ReadOnlySpan<byte> source)
    {
        _lock.EnterReadLock();
        try
        {
            RequireWritable();
            int done = 0;
            while (done < source.Length)
            {
                TableEntry entry = Find(position + (ulong)done);
                if (entry is not { Kind: ClusterKind.Data, IsOwned: true } || _metadata.Contains(entry.Offset >> _header.ClusterBits)) break;
                int length = Together(position + (ulong)done, entry, source.Length - done, owned: true);
                _file.Write(entry.Offset + (ulong)InCluster(position + (ulong)done), source.Slice(done, length));
                done += length;
            }
            return done;
        }
        finally
        {
            _lock.ExitReadLock();
        }
    }

    /// <summary>
    /// Writes into clusters that are not the disk's alone yet. With the lock held for writing. Returns how much: 0 when somebody came before.
    /// </summary>
    private int WriteNew(ulong position, ReadOnlySpan<byte> source)
    {
        TableEntry entry = Find(position);
        bool owned = entry.IsOwned && entry.Offset != 0 && entry.Kind != ClusterKind.Compressed;
        if (owned && _metadata.Contains(entry.Offset >> _header.ClusterBits))
            throw Broken($"is damaged: a cluster of the disk lies at {entry.Offset:X}, where a table is");
        if (owned && entry.Kind == ClusterKind.Data) return 0;
        (int first, int index) = Indexes(position);
        CachedTable table = L2ToWrite(first);
        int inside = InCluster(position);
        if (inside == 0 && source.Length >= _header.ClusterSize && !owned) return WriteWhole(position, source, table, index);

        int length = Math.Min(_header.ClusterSize - inside, source.Length);
        bool zero = entry.Kind == ClusterKind.Zero || entry.Kind == ClusterKind.Unallocated && IsZeroBelow(position - (ulong)inside);
        ulong offset = owned ? entry.Offset : Refcounts.Allocate(1, orLess: true).First << _header.ClusterBits;
        try
        {
            if (zero && offset >= _file.Length)
            {
                // Nothing was ever there: around what is written the file has zeros by itself.
                _file.Write(offset + (ulong)inside, source[..length]);
            }
            else
            {
                byte[] cluster = new byte[_header.ClusterSize];
                if (!zero) ReadLocked(position - (ulong)inside, cluster.AsSpan(0, (int)Math.Min(ClusterSize, Length - (position - (ulong)inside))));
                source[..length].CopyTo(cluster.AsSpan(inside));
                _file.Write(offset, cluster);
            }
        }
        catch when (!owned)
        {
            Refcounts.Set(offset >> _header.ClusterBits, 0); // nothing refers to it
            throw;
        }
        Replace(table, index, TableEntry.Owned(offset));
        return length;
    }

    /// <summary>Writes whole clusters, as many as lie one behind the other in new room.</summary>
    private int WriteWhole(ulong position, ReadOnlySpan<byte> source, CachedTable table, int index)
    {
        int wanted = Math.Min(source.Length >> _header.ClusterBits, _header.L2Entries - index), count = 1;
        for (; count < wanted; count++)
        {
            var next = new TableEntry(table[index + count]);
            if (next.IsOwned && next.Offset != 0 && next.Kind != ClusterKind.Compressed) break;
            Checked(next);
        }
        (ulong cluster, count) = Refcounts.Allocate(count, orLess: true);
        int length = count << _header.ClusterBits;
        try
        {
            _file.Write(cluster << _header.ClusterBits, source[..length]);
        }
        catch
        {
            for (int n = 0; n < count; n++) Refcounts.Set(cluster + (ulong)n, 0);
            throw;
        }
        for (int n = 0; n < count; n++) Replace(table, index + n, TableEntry.Owned(cluster + (ulong)n << _header.ClusterBits));
        return length;
    }

    private bool IsZeroBelow(ulong position) =>
        BackingZeros(position, Math.Min(position + ClusterSize, Length)) == Math.Min(position + ClusterSize, Length) - position;

    /// <summary>The table of the second level for an entry of the first, which is the disk's alone.</summary>
    private CachedTable L2ToWrite(int first)
    {
        var entry = new TableEntry(_l1[first]);
        if (entry is { IsOwned: true, Offset: not 0 }) return L2At(entry);
        CachedTable? old = entry.Offset == 0 ? null : L2At(entry);
        ulong cluster = Refcounts.Allocate(1, orLess: true).First, offset = cluster << _header.ClusterBits;
        CachedTable table = _l2.Add(offset, old is null ? new byte[_header.ClusterSize] : [.. old.Bytes]);
        _metadata.Add(cluster);
        _l1[first] = TableEntry.Owned(offset).Value;
        if (old is not null) Free(old.Offset, 1, discard: false);
        return table;
    }

    /// <summary>Changes an entry. What it referred to is free when the change is in the file.</summary>
    private void Replace(CachedTable table, int index, TableEntry entry, bool discard = false)
    {
        var old = new TableEntry(table[index]);
        table[index] = entry.Value;
        if (old.Kind == ClusterKind.Compressed)
        {
            (ulong position, int length) = old.CompressedRange(_header.ClusterBits);
            ulong from = position & ~(ClusterSize - 1);
            Free(from, (int)((position + (ulong)length - 1 - from) >> _header.ClusterBits) + 1, discard);
            _unpacked.Clear();
        }
        else if (old.Offset != 0 && old.Offset != entry.Offset)
        {
            Free(old.Offset, 1, discard);
        }
    }

    private void Free(ulong offset, int count, bool discard)
    {
        for (int n = 0; n < count; n++) _freed.Add(((offset >> _header.ClusterBits) + (ulong)n, discard));
    }

    /// <inheritdoc/>
    public void WriteZeroes(ulong position, ulong length, bool unmap)
    {
        for (ulong end = position + length; position < end;)
        {
            ulong inside = (ulong)InCluster(position), piece = Math.Min(ClusterSize - inside, end - position);
            if (inside == 0 && (piece == ClusterSize || position + piece == Length))
            {
                int clusters = Clear(position, end, TableZero(unmap), unmap && _options.Discard);
                if (clusters > 0)
                {
                    position = Math.Min(position + (ulong)clusters * ClusterSize, end);
                    continue;
                }
            }
            if (KnownZeros(position) < piece)
            {
                for (ulong at = position, left = piece; left > 0;)
                {
                    int chunk = (int)Math.Min(left, (ulong)s_zeros.Length);
                    Write(at, s_zeros.AsSpan(0, chunk));
                    at += (ulong)chunk;
                    left -= (ulong)chunk;
                }
            }
            position += piece;
        }
    }

    /// <inheritdoc/>
    public void Discard(ulong position, ulong length)
    {
        if (!_options.Discard) return;
        ulong end = position + length, first = position + ClusterSize - 1 & ~(ClusterSize - 1);
        while (first < end && (end == Length || end - first >= ClusterSize))
        {
            int clusters = Clear(first, end, TableZero(unmap: true), discard: true);
            first += (ulong)Math.Max(clusters, 1) * ClusterSize; // what cannot be discarded stays
        }
    }

    /// <summary>How the entry of a cluster becomes one that reads as zeros; null: it cannot, and zeros have to be written.</summary>
    private Func<ulong, TableEntry, TableEntry?> TableZero(bool unmap) => (position, entry) =>
    {
        switch (entry.Kind)
        {
            case ClusterKind.Zero when !unmap || entry.Offset == 0:
            case ClusterKind.Unallocated when IsZeroBelow(position):
                return entry;
            case ClusterKind.Data when _header.Version > 2 && !unmap && entry.IsOwned:
                return new TableEntry(entry.Value | TableEntry.Zero.Value);
            default:
                return _header.Version > 2 ? TableEntry.Zero : unmap && IsZeroBelow(position) ? default(TableEntry) : null;
        }
    };

    /// <summary>
    /// Changes entries from a position on, of whole clusters (that at the end of the disk may have less), up to the end of their table. Returns how many were
    /// done.
    /// </summary>
    private int Clear(ulong position, ulong end, Func<ulong, TableEntry, TableEntry?> change, bool discard)
    {
        return Exclusive(position, default, (at, _) =>
        {
            (int first, int index) = Indexes(at);
            if (end < Length) end &= ~(ClusterSize - 1);
            int count = (int)Math.Min((ulong)(_header.L2Entries - index), (end - at + ClusterSize - 1) >> _header.ClusterBits), done = 0;
            for (; done < count; done++)
            {
                ulong cluster = at + (ulong)done * ClusterSize;
                TableEntry old = Find(cluster);
                if (change(cluster, old) is not { } entry) break;
                if (entry != old) Replace(L2ToWrite(first), index + done, entry, discard);
            }
            return done;
        });
    }

    private DiskException Broken(string problem)
    {
        _broken = problem;
        _header.Incompatible |= _header.Version > 2 ? IncompatibleFeatures.Corrupt : 0;
        if (_header.Version > 2) _header.Update(_file);
        return Bad(problem);
    }
}
