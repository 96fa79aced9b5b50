namespace Bunraku.Storage.Qcow2;

/// <summary>What a check of an image found.</summary>
/// <param name="Errors">Things that lose data, now or later: counts that are too low, tables that lead nowhere.</param>
/// <param name="Leaks">Clusters that nobody refers to and nobody gets.</param>
/// <param name="Repaired">How many of both were there and were mended.</param>
/// <param name="Clusters">Clusters of the disk that lie in the image.</param>
/// <param name="Messages">What the errors are, a line each; not all, when they are many.</param>
public sealed record CheckResult(long Errors, long Leaks, long Repaired, long Clusters, IReadOnlyList<string> Messages);

/// <summary>Counts who refers to each cluster of an image, and compares with what the image says of it.</summary>
internal sealed class Qcow2Checker
{
    private const int MostMessages = 20;
    private const ulong MostClusters = 1 << 28;

    private readonly Qcow2Disk _disk;
    private readonly Qcow2Header _header;
    private readonly IImageFile _file;
    private readonly Refcounts _refcounts;
    private readonly uint[] _counted;
    private readonly List<string> _messages = [];
    private long _errors, _leaks, _clusters;

    private Qcow2Checker(Qcow2Disk disk, Refcounts refcounts)
    {
        (_disk, _header, _file, _refcounts) = (disk, disk.Header, disk.File, refcounts);
        ulong clusters = (_file.Length + (ulong)_header.ClusterSize - 1) >> _header.ClusterBits;
        if (clusters > MostClusters) throw new DiskException($"disk {_file.Name}: has {clusters} clusters, too many to be counted");
        _counted = new uint[clusters];
    }

    /// <summary>Looks and changes nothing.</summary>
    public static CheckResult Check(Qcow2Disk disk)
    {
        var checker = new Qcow2Checker(disk, new Refcounts(disk.File, disk.Header, _ => false));
        checker.Count();
        checker.Compare();
        checker.CompareOwners();
        return checker.Result(0);
    }

    /// <summary>Sets counts and owners' bits right, and says so in the header if nothing else is wrong.</summary>
    /// <param name="disk">Open to be written; nobody else uses it.</param>
    public static CheckResult Repair(Qcow2Disk disk)
    {
        var checker = new Qcow2Checker(disk, disk.Refcounts);
        checker.Count();
        long bad = checker._errors;
        if (bad > 0) return checker.Result(0); // tables that lead nowhere: nobody knows what they were
        checker.Compare();
        checker.CompareOwners();
        long found = checker._errors + checker._leaks;
        disk.InUse = cluster => cluster < (ulong)checker._counted.Length && checker._counted[cluster] > 0;
        disk.Mend(checker._counted);
        disk.InUse = null;
        var again = new Qcow2Checker(disk, disk.Refcounts);
        again.Count();
        again.Compare();
        again.CompareOwners();
        if (again._errors == 0) disk.MarkClean();
        return again.Result(found - again._errors - again._leaks);
    }

    private CheckResult Result(long repaired) => new(_errors, _leaks, repaired, _clusters, _messages);

    private void Error(string message)
    {
        if (++_errors <= MostMessages) _messages.Add(message);
    }

    private void Count()
    {
        Refer("the header", 0, 1);
        Refer("the table of reference counts", _header.RefcountTableOffset, (ulong)_header.RefcountTableClusters << _header.ClusterBits);
        foreach (ulong block in _refcounts.BlockOffsets) if (block != 0) Refer("a block of reference counts", block, 1);
        if (_disk.SnapshotTable.Bytes > 0) Refer("the table of snapshots", _header.SnapshotsOffset, _disk.SnapshotTable.Bytes);
        CountTables(_disk.L1, isDisk: true);
        foreach (Snapshot snapshot in _disk.SnapshotTable.All) CountTables(snapshot.LoadL1(_file), isDisk: false);
    }

    private void CountTables(WholeTable first, bool isDisk)
    {
        if (first.Length > 0) Refer("a first table", first.Offset, (ulong)first.Length * 8);
        for (int n = 0; n < first.Length; n++)
        {
            var entry = new TableEntry(first[n]);
            if (entry.Offset == 0 || !Refer("a table", entry.Offset, 1)) continue;
            CachedTable table = _disk.TableAt(entry.Offset);
            for (int k = 0; k < _header.L2Entries; k++) CountCluster(new TableEntry(table[k]), isDisk);
        }
    }

    private void CountCluster(TableEntry entry, bool isDisk)
    {
        if (entry.Kind == ClusterKind.Compressed)
        {
            (ulong position, int length) = entry.CompressedRange(_header.ClusterBits);
            ulong from = position >> _header.ClusterBits << _header.ClusterBits;
            // The last of them may end in the sector in which the file ends.
            Refer("a compressed cluster", from, Math.Min(position + (ulong)length, Math.Max(_file.Length, from + 1)) - from);
            if (isDisk) _clusters++;
        }
        else if (entry.Offset != 0)
        {
            Refer("a cluster", entry.Offset, 1);
            if (isDisk) _clusters++;
        }
    }

    /// <summary>False: it is outside the file, or not at the beginning of a cluster.</summary>
    private bool Refer(string what, ulong offset, ulong length)
    {
        if (offset % (ulong)_header.ClusterSize != 0 || offset >= _file.Length || length > _file.Length - offset)
        {
            Error($"{what} of {length} bytes at {offset:X} is outside the file, or begins inside a cluster");
            return false;
        }
        for (ulong n = offset >> _header.ClusterBits; n <= (offset + length - 1) >> _header.ClusterBits; n++) _counted[n]++;
        return true;
    }

    private void Compare()
    {
        for (ulong n = 0; n < (ulong)_counted.Length; n++)
        {
            ulong says = _refcounts.Get(n);
            if (says == _counted[n]) continue;
            if (says > _counted[n]) _leaks++;
            else Error($"cluster {n:X} is referred to {_counted[n]} times and counted {says} times");
        }
        // What lies behind the end of the file leaks as well.
        for (ulong n = (ulong)_counted.Length, end = Math.Min(_refcounts.Covered, n + MostClusters); n < end; n++)
        {
            if (_refcounts.SkipUncounted(ref n)) continue;
            if (_refcounts.Get(n) > 0) _leaks++;
        }
    }

    private void CompareOwners()
    {
        _disk.ForOwners((what, entry) =>
        {
            if (entry.Kind == ClusterKind.Compressed) return entry.IsOwned ? Wrong(what, entry, false) : entry;
            bool owned = _refcounts.Get(entry.Offset >> _header.ClusterBits) == 1;
            return owned == entry.IsOwned ? entry : Wrong(what, entry, owned);
        }, change: false);

        TableEntry Wrong(string what, TableEntry entry, bool owned)
        {
            Error($"{what} at {entry.Offset:X} is {(owned ? "not " : "")}marked as the disk's alone");
            return entry;
        }
    }
}
