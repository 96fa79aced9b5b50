namespace Bunraku.Storage.Qcow2;

public sealed partial class Qcow2Disk
{
    private const int MostFreed = 1 << 16;

    /// <summary>
    /// Clusters that lose a reference once the tables that referred to them are in the file as they are now, and whether the guest has discarded them. Nobody
    /// gets them before: after a power failure the old tables may be what there is.
    /// </summary>
    private readonly List<(ulong Cluster, bool Discard)> _freed = [];

    /// <inheritdoc/>
    public void Flush()
    {
        if (_options.ReadOnly) return;
        _lock.EnterUpgradeableReadLock();
        try
        {
            if (_broken is not null) throw Bad(_broken);
            if (!HasChanges)
            {
                _file.Flush();
                return;
            }
            _lock.EnterWriteLock();
            try
            {
                Commit();
            }
            finally
            {
                _lock.ExitWriteLock();
            }
        }
        finally
        {
            _lock.ExitUpgradeableReadLock();
        }
    }

    private bool HasChanges => _freed.Count > 0 || _l1.IsDirty || _l2.AnyDirty || Refcounts.AnyDirty;

    /// <summary>
    /// Writes data and tables so that the file is a right image whenever the power fails between. With the lock held for writing.
    /// First what nothing refers to yet (data, counts that went up, new tables); when that is lasting, what refers to it; and when that is lasting, counts that
    /// went down.
    /// </summary>
    /// <exception cref="IOException">The host cannot. What was not written stays to be written.</exception>
    private void Commit()
    {
        Refcounts.WriteTo(_file);
        List<CachedTable> tables = _l2.Dirty();
        foreach (CachedTable table in tables) if (table.IsNew) table.WriteTo(_file);
        _file.Flush();
        foreach (CachedTable table in tables)
        {
            table.IsNew = false;
            table.WriteTo(_file);
        }
        _l1.WriteTo(_file);
        _file.Flush();
        FreeNow();
    }

    private void FreeNow()
    {
        if (_freed.Count == 0) return;
        ulong from = 0, to = 0;
        while (_freed.Count > 0)
        {
            (ulong cluster, bool discard) = _freed[^1];
            if (Refcounts.Get(cluster) == 0) throw Broken($"is damaged: cluster {cluster:X} is in use and counted as free");
            Refcounts.Change(cluster, -1);
            _freed.RemoveAt(_freed.Count - 1);
            if (Refcounts.Get(cluster) > 0) continue;
            if (_metadata.Remove(cluster)) _l2.Forget(cluster << _header.ClusterBits);
            if (!discard) continue;
            // Neighbours together: they come in the order of the disk, taken from the end.
            if (cluster + 1 == from) from = cluster;
            else
            {
                GiveBack(from, to);
                (from, to) = (cluster, cluster + 1);
            }
        }
        GiveBack(from, to);
        Refcounts.WriteTo(_file);
    }

    private void GiveBack(ulong from, ulong to)
    {
        if (to > from && _options.Discard) _file.Discard(from << _header.ClusterBits, to - from << _header.ClusterBits);
    }

    private void NoteMetadata(ulong cluster, bool holdsTable)
    {
        if (!holdsTable) _metadata.Remove(cluster);
        else if (_metadata.Add(cluster)) _made?.Add(cluster);
    }

    /// <summary>Finds where tables lie, so that no data is ever written there, whatever the tables say.</summary>
    /// <exception cref="DiskException">They lie upon each other or outside the file.</exception>
    private void FindMetadata()
    {
        _metadata.Clear();
        NoteOnce("header", 0, 1);
        NoteOnce("first table", _header.L1Offset, _header.L1Entries * 8ul);
        NoteOnce("table of reference counts", _header.RefcountTableOffset, (ulong)_header.RefcountTableClusters << _header.ClusterBits);
        foreach (ulong block in Refcounts.BlockOffsets) if (block != 0) NoteOnce("block of reference counts", block, ClusterSize);
        if (_snapshots.Bytes > 0) NoteOnce("table of snapshots", _header.SnapshotsOffset, _snapshots.Bytes);
        foreach (Snapshot snapshot in _snapshots.All) if (snapshot.L1Entries > 0) NoteOnce("table of a snapshot", snapshot.L1Offset, snapshot.L1Entries * 8ul);
        var second = new HashSet<ulong>();
        NoteSecond(_l1, second, alone: true);
        foreach (Snapshot snapshot in _snapshots.All) NoteSecond(snapshot.LoadL1(_file), second, alone: false);
        foreach (ulong cluster in second) if (!_metadata.Add(cluster)) throw Upon("table", cluster);
    }

    private void NoteSecond(WholeTable first, HashSet<ulong> second, bool alone)
    {
        for (int n = 0; n < first.Length; n++)
        {
            var entry = new TableEntry(first[n]);
            if (entry.Offset == 0) continue;
            _header.Place(_file, "table of the second level", entry.Offset, ClusterSize);
            // Snapshots share tables; one disk has each only once.
            if (!second.Add(entry.Offset >> _header.ClusterBits) && alone) throw Upon("table", entry.Offset >> _header.ClusterBits);
        }
    }

    private void NoteOnce(string what, ulong offset, ulong length)
    {
        for (ulong at = offset; at < offset + length; at += ClusterSize)
            if (!_metadata.Add(at >> _header.ClusterBits)) throw Upon(what, at >> _header.ClusterBits);
    }

    private DiskException Upon(string what, ulong cluster) =>
        Bad($"is damaged and can only be read: its {what} lies upon another one, in cluster {cluster:X}");
}
