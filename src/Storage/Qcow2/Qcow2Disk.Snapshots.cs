namespace Bunraku.Storage.Qcow2;

/// <summary>A snapshot inside an image.</summary>
/// <param name="Id">A number that the image gave it.</param>
/// <param name="Name">What its maker called it.</param>
/// <param name="Taken">UTC.</param>
/// <param name="DiskSize">Bytes of the disk then.</param>
/// <param name="StateSize">Bytes of a machine's state that belongs to it, as QEMU saves it.</param>
public sealed record DiskSnapshot(string Id, string Name, DateTime Taken, ulong DiskSize, ulong StateSize);

public sealed partial class Qcow2Disk
{
    /// <summary>The snapshots inside the image, in the order in which they were taken.</summary>
    public IReadOnlyList<DiskSnapshot> Snapshots =>
        [.. _snapshots.All.Select(s => new DiskSnapshot(s.Id, s.Name, s.Taken, s.DiskSize ?? Length, s.StateSize))];

    /// <summary>Takes a snapshot of the disk as it is now.</summary>
    /// <exception cref="IOException">The name is taken, or the host cannot.</exception>
    public void TakeSnapshot(string name, DateTime now)
    {
        if (name.Length is 0 or > 200) throw new DiskException("the name of a snapshot has 1 to 200 characters");
        if (_snapshots.All.Any(s => s.Name == name)) throw new DiskException($"disk {_file.Name}: has a snapshot '{name}' already");
        if (_snapshots.All.Count >= 65536) throw new DiskException($"disk {_file.Name}: has 65536 snapshots, and no more are possible");
        Structurally(() =>
        {
            ulong l1 = WriteTable(_l1.Entries.ToArray().Select(e => new TableEntry(e).WithOwned(false).Value).ToArray());
            ForReferences(_l1, 1);
            WriteCounts();
            // From here on the disk writes nothing in place that the snapshot will have.
            ForOwners((_, entry) => entry.WithOwned(false), change: true);
            Commit();
            int id = _snapshots.All.Select(s => int.TryParse(s.Id, out int n) ? n : 0).DefaultIfEmpty().Max() + 1;
            SetSnapshots([.. _snapshots.All, new Snapshot
            {
                Id = $"{id}",
                Name = name,
                L1Offset = l1,
                L1Entries = (uint)_l1.Length,
                DiskSize = Length,
                Taken = now,
            }]);
        });
    }

    /// <summary>Forgets a snapshot.</summary>
    /// <param name="name">Its name, or its number.</param>
    /// <exception cref="IOException">There is none, or the host cannot.</exception>
    public void DeleteSnapshot(string name)
    {
        Snapshot snapshot = FindSnapshot(name);
        Structurally(() =>
        {
            WholeTable first = snapshot.LoadL1(_file);
            SetSnapshots([.. _snapshots.All.Where(s => s != snapshot)]);
            Release(first);
            MarkOwners();
        });
    }

    /// <summary>The disk becomes what it was when a snapshot was taken. What was written since is lost, but for other snapshots.</summary>
    /// <param name="name">Its name, or its number.</param>
    /// <exception cref="IOException">There is none, or the host cannot.</exception>
    public void ApplySnapshot(string name)
    {
        Snapshot snapshot = FindSnapshot(name);
        Structurally(() =>
        {
            WholeTable then = snapshot.LoadL1(_file), before = _l1;
            ulong size = snapshot.DiskSize is > 0 and var s && s % 512 == 0 ? s : Length;
            ulong[] entries = new ulong[Math.Max((ulong)then.Length, _header.L1EntriesFor(size))];
            then.Entries.CopyTo(entries);
            for (int n = 0; n < entries.Length; n++) entries[n] = new TableEntry(entries[n]).WithOwned(false).Value;
            ForReferences(then, 1);
            ulong offset = WriteTable(entries);
            WriteCounts();
            (_header.L1Offset, _header.L1Entries, _header.Size) = (offset, (uint)entries.Length, size);
            UpdateHeader();
            _l1 = new WholeTable(offset, entries);
            Release(before);
            MarkOwners();
        });
    }

    private Snapshot FindSnapshot(string name) =>
        _snapshots.All.FirstOrDefault(s => s.Name == name) ?? _snapshots.All.FirstOrDefault(s => s.Id == name)
            ?? throw new DiskException($"disk {_file.Name}: has no snapshot '{name}'" + (_snapshots.All.Count == 0 ? ""
                : $"; it has {string.Join(", ", _snapshots.All.Take(10).Select(s => $"'{s.Name}'"))}"));

    /// <summary>Makes the disk larger or smaller. What is cut off is lost; what is added is zero.</summary>
    /// <param name="length">A multiple of 512, not 0.</param>
    /// <exception cref="IOException">The image cannot be so large, or the host cannot.</exception>
    public void Resize(ulong length)
    {
        if (length == 0 || length % 512 != 0) throw new DiskException($"disk {_file.Name}: a disk has a multiple of 512 bytes");
        ulong most = Qcow2Header.MaxSize(_header.ClusterBits);
        if (length > most) throw new DiskException($"disk {_file.Name}: with clusters of {ClusterSize} bytes a disk has at most {most} bytes");
        if (_header.Version == 2 && _snapshots.All.Count > 0 && length < Length)
            throw new DiskException($"disk {_file.Name}: a qcow2 image of version 2 with snapshots cannot become smaller");
        ulong before = Length;
        if (length < before)
        {
            ulong end = length + ClusterSize - 1 & ~(ClusterSize - 1);
            for (ulong at = end; at < before;)
                at += (ulong)Clear(at, before, (_, entry) => default(TableEntry), discard: true) * ClusterSize;
            // The rest of the last cluster would come back when the disk grows again.
            if (end > length) WriteZeroes(length, Math.Min(end, before) - length, unmap: false);
        }
        Structurally(() =>
        {
            ulong needed = _header.L1EntriesFor(length);
            if (needed > (ulong)_l1.Length)
            {
                ulong[] entries = new ulong[needed];
                _l1.Entries.CopyTo(entries);
                ulong old = _header.L1Offset, oldBytes = _header.L1Entries * 8ul, offset = WriteTable(entries);
                WriteCounts();
                (_header.L1Offset, _header.L1Entries) = (offset, (uint)needed);
                UpdateHeader();
                _l1 = new WholeTable(offset, entries);
                Free(old, (int)((oldBytes + ClusterSize - 1) >> _header.ClusterBits), discard: false);
            }
            _header.Size = length;
            if (length < before || _backing is null) UpdateHeader();
        });
        if (length <= before || _backing is null) return;
        // A longer backing file must not come through where the disk had ended.
        ulong hidden = Math.Min(_backing.Length, length);
        try
        {
            if (hidden > before) WriteZeroes(before, hidden - before, unmap: false);
        }
        finally
        {
            Structurally(UpdateHeader);
        }
    }

    /// <summary>
    /// A change of tables as a whole. While it lasts the header says that counts may be wrong, if the version can say so: who finds it so after a power failure
    /// counts again.
    /// </summary>
    private void Structurally(Action change)
    {
        _lock.EnterWriteLock();
        try
        {
            RequireWritable();
            Commit();
            SetDirty(true);
            change();
            Commit();
            _file.Flush();
            SetDirty(false);
        }
        catch (IOException)
        {
            TakeBack();
            throw;
        }
        finally
        {
            _lock.ExitWriteLock();
        }
    }

    /// <summary>Counts that went up for what did not come about go down again. Where that fails, too, the header says so to whoever comes next.</summary>
    private void TakeBack()
    {
        try
        {
            if (_broken is null) Qcow2Checker.Repair(this);
        }
        catch (IOException)
        {
        }
    }

    private void SetDirty(bool dirty)
    {
        if (_header.Version == 2) return;
        _header.Incompatible = dirty ? _header.Incompatible | IncompatibleFeatures.Dirty : _header.Incompatible & ~IncompatibleFeatures.Dirty;
        UpdateHeader();
    }

    private void UpdateHeader()
    {
        _header.Update(_file);
        _file.Flush();
    }

    private void WriteCounts()
    {
        Refcounts.WriteTo(_file);
        _file.Flush();
    }

    /// <summary>Writes a table into new clusters, one behind the other.</summary>
    private ulong WriteTable(ReadOnlySpan<ulong> entries) => WriteBytes(WholeTable.Serialize(entries, _header.ClusterSize));

    private ulong WriteBytes(byte[] bytes)
    {
        int clusters = (bytes.Length + _header.ClusterSize - 1) >> _header.ClusterBits;
        ulong first = Refcounts.Allocate(clusters, orLess: false).First;
        for (int n = 0; n < clusters; n++) _metadata.Add(first + (ulong)n);
        Array.Resize(ref bytes, clusters << _header.ClusterBits);
        _file.Write(first << _header.ClusterBits, bytes);
        return first << _header.ClusterBits;
    }

    private void SetSnapshots(IReadOnlyList<Snapshot> snapshots)
    {
        byte[] bytes = SnapshotTable.Serialize(snapshots);
        (ulong old, ulong oldBytes) = (_header.SnapshotsOffset, _snapshots.Bytes);
        _header.SnapshotsOffset = bytes.Length == 0 ? 0 : WriteBytes(bytes);
        _header.SnapshotCount = (uint)snapshots.Count;
        WriteCounts();
        UpdateHeader();
        _snapshots = new SnapshotTable { All = snapshots, Bytes = (ulong)bytes.Length };
        if (oldBytes > 0) Free(old, (int)((oldBytes + ClusterSize - 1) >> _header.ClusterBits), discard: false);
    }

    /// <summary>Nobody needs a table of the first level any more, nor what it leads to.</summary>
    private void Release(WholeTable first)
    {
        ForReferences(first, -1);
        if (first.Length > 0) Free(first.Offset, (int)(((ulong)first.Length * 8 + ClusterSize - 1) >> _header.ClusterBits), discard: false);
        Commit();
    }

    /// <summary>Counts one up or down for everything that a table of the first level leads to.</summary>
    private void ForReferences(WholeTable first, int by)
    {
        for (int n = 0; n < first.Length; n++)
        {
            var l1Entry = new TableEntry(first[n]);
            if (l1Entry.Offset == 0) continue;
            CachedTable table = L2At(l1Entry);
            for (int k = 0; k < _header.L2Entries; k++)
            {
                TableEntry entry = Checked(new TableEntry(table[k]));
                if (entry.Kind == ClusterKind.Compressed)
                {
                    (ulong position, int length) = entry.CompressedRange(_header.ClusterBits);
                    ulong from = position >> _header.ClusterBits, to = (position + (ulong)length - 1) >> _header.ClusterBits;
                    for (ulong cluster = from; cluster <= to; cluster++) Refer(cluster, by);
                }
                else if (entry.Offset != 0)
                {
                    Refer(entry.Offset >> _header.ClusterBits, by);
                }
            }
            Refer(l1Entry.Offset >> _header.ClusterBits, by);
            TrimInBetween();
        }
        if (by < 0) _unpacked.Clear();
    }

    private void Refer(ulong cluster, int by)
    {
        if (by > 0) Refcounts.Change(cluster, by);
        else _freed.Add((cluster, true));
    }

    private void TrimInBetween()
    {
        if (_l2.Trim() & Refcounts.Trim() && _freed.Count <= MostFreed) return;
        Commit();
        _l2.Trim();
        Refcounts.Trim();
    }

    private void MarkOwners()
    {
        ForOwners((_, entry) => entry.WithOwned(entry.Kind != ClusterKind.Compressed && Refcounts.Get(entry.Offset >> _header.ClusterBits) == 1), change: true);
    }

    /// <summary>Goes through all entries of the disk's tables that lead somewhere, those of the first level with word.</summary>
    /// <param name="visit">What an entry is to become.</param>
    /// <param name="change">They do become that.</param>
    internal void ForOwners(Func<string, TableEntry, TableEntry> visit, bool change)
    {
        for (int n = 0; n < _l1.Length; n++)
        {
            var l1Entry = new TableEntry(_l1[n]);
            if (l1Entry.Offset == 0) continue;
            TableEntry next = visit("a table", l1Entry);
            if (change && next != l1Entry) _l1[n] = next.Value;
            CachedTable table = L2At(l1Entry);
            for (int k = 0; k < _header.L2Entries; k++)
            {
                var entry = new TableEntry(table[k]);
                if (entry.Kind != ClusterKind.Compressed && entry.Offset == 0) continue;
                next = visit("a cluster", entry);
                if (change && next != entry) table[k] = next.Value;
            }
            if (change) TrimInBetween();
        }
    }

    /// <summary>A table of the second level, for a check: its place was looked at.</summary>
    internal CachedTable TableAt(ulong offset) => _l2.Get(offset);

    /// <summary>Blocks of counts that a repair has made: they count themselves.</summary>
    private HashSet<ulong>? _made;

    /// <summary>Sets all counts to what was counted, those that go up before the others, and owners' bits to what they say.</summary>
    internal void Mend(uint[] counted)
    {
        _made = [];
        for (int pass = 0; pass < 2; pass++)
        {
            for (ulong n = 0; n < (ulong)counted.Length; n++)
            {
                ulong says = Refcounts.Get(n);
                if (says == counted[n] || says > counted[n] != (pass == 1) || _made.Contains(n)) continue;
                Refcounts.Set(n, counted[n]);
                if ((n & 0xFFFF) == 0) TrimInBetween();
            }
            WriteCounts();
        }
        for (ulong n = (ulong)counted.Length; n < Refcounts.Covered; n++)
            if (!Refcounts.SkipUncounted(ref n) && Refcounts.Get(n) > 0 && !_made.Contains(n)) Refcounts.Set(n, 0);
        _made = null;
        MarkOwners();
        Commit();
    }

    /// <summary>Nothing is wrong with the image any more.</summary>
    internal void MarkClean()
    {
        _header.Incompatible &= ~(IncompatibleFeatures.Dirty | IncompatibleFeatures.Corrupt);
        UpdateHeader();
    }
}
