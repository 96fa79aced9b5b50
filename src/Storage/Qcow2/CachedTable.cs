using System.Buffers.Binary;
using System.Runtime.InteropServices;

namespace Bunraku.Storage.Qcow2;

/// <summary>One cluster of big-endian numbers, as it lies in the file, with what of it is not written yet.</summary>
internal sealed class CachedTable(ulong offset, byte[] bytes)
{
    private const int Sector = 512;
    private int _dirtyFrom = int.MaxValue, _dirtyTo;

    /// <summary>Where it lies.</summary>
    public ulong Offset { get; } = offset;

    public byte[] Bytes { get; } = bytes;

    /// <summary>Nothing in the file leads to it yet: it can be written in any order with data.</summary>
    public bool IsNew { get; set; }

    public bool IsDirty => _dirtyTo > 0;

    /// <summary>Goes up with each use.</summary>
    public long LastUse { get; set; }

    public ulong this[int index]
    {
        get => BinaryPrimitives.ReadUInt64BigEndian(Bytes.AsSpan(index * 8));
        set
        {
            BinaryPrimitives.WriteUInt64BigEndian(Bytes.AsSpan(index * 8), value);
            MarkDirty(index * 8, 8);
        }
    }

    public void MarkDirty(int at, int length)
    {
        _dirtyFrom = Math.Min(_dirtyFrom, at & ~(Sector - 1));
        _dirtyTo = Math.Max(_dirtyTo, (at + length + Sector - 1) & ~(Sector - 1));
    }

    /// <summary>Writes what has changed. When the host cannot, it stays to be written.</summary>
    public void WriteTo(IImageFile file)
    {
        if (!IsDirty) return;
        file.Write(Offset + (ulong)_dirtyFrom, Bytes.AsSpan(_dirtyFrom, _dirtyTo - _dirtyFrom));
        (_dirtyFrom, _dirtyTo) = (int.MaxValue, 0);
    }
}

/// <summary>
/// Tables of an image in memory. Look-ups from several threads at a time; tables are added and changed with the image's lock held for writing, but for those
/// that a look-up reads. What is not written yet is never dropped.
/// </summary>
/// <param name="most">Tables that are kept, as long as they are written.</param>
internal sealed class TableCache(IImageFile file, int clusterSize, int most)
{
    private readonly Lock _lock = new();
    private readonly Dictionary<ulong, CachedTable> _tables = [];
    private long _uses;

    /// <summary>The table at an offset inside the file.</summary>
    /// <param name="isOutside">Asked where no table is in memory: a new one lies behind the end of the file until it is written.</param>
    /// <returns>Null: it is outside.</returns>
    public CachedTable? Find(ulong offset, Func<ulong, bool> isOutside)
    {
        lock (_lock)
        {
            if (!_tables.ContainsKey(offset) && isOutside(offset)) return null;
            return Get(offset);
        }
    }

    /// <summary>The table at an offset, which is checked already.</summary>
    public CachedTable Get(ulong offset)
    {
        lock (_lock)
        {
            if (!_tables.TryGetValue(offset, out CachedTable? table))
            {
                DropClean(most - 1);
                byte[] bytes = new byte[clusterSize];
                file.Read(offset, bytes);
                table = new CachedTable(offset, bytes);
                _tables.Add(offset, table);
            }
            table.LastUse = ++_uses;
            return table;
        }
    }

    /// <summary>A table that is not in the file yet, or whose old contents do not count: all of it is to be written.</summary>
    public CachedTable Add(ulong offset, byte[] bytes)
    {
        var table = new CachedTable(offset, bytes) { IsNew = true };
        table.MarkDirty(0, bytes.Length);
        lock (_lock)
        {
            table.LastUse = ++_uses;
            _tables[offset] = table;
        }
        return table;
    }

    /// <summary>The table is none any more.</summary>
    public void Forget(ulong offset)
    {
        lock (_lock) _tables.Remove(offset);
    }

    /// <summary>Drops what is written until few are left. False: more wait to be written than should be kept.</summary>
    public bool Trim()
    {
        lock (_lock) return DropClean(most);
    }

    public bool AnyDirty
    {
        get
        {
            lock (_lock)
            {
                foreach (CachedTable table in _tables.Values) if (table.IsDirty) return true;
                return false;
            }
        }
    }

    /// <summary>Those with something to be written, in the order of their places.</summary>
    public List<CachedTable> Dirty()
    {
        lock (_lock)
        {
            List<CachedTable> dirty = [.. _tables.Values.Where(t => t.IsDirty || t.IsNew)];
            dirty.Sort((a, b) => a.Offset.CompareTo(b.Offset));
            return dirty;
        }
    }

    private bool DropClean(int keep)
    {
        if (_tables.Count <= keep) return true;
        // A quarter at a time, so that the order is not looked for with each new table.
        int drop = _tables.Count - keep + keep / 4;
        foreach (CachedTable table in _tables.Values.Where(t => !t.IsDirty && !t.IsNew).OrderBy(t => t.LastUse).Take(drop).ToArray())
            _tables.Remove(table.Offset);
        return _tables.Count <= keep;
    }
}

/// <summary>A table of numbers that is in memory as a whole: tables of the first level, and that of reference counts.</summary>
internal sealed class WholeTable
{
    private const int Sector = 512, PerSector = Sector / 8;
    private readonly ulong[] _entries;
    private readonly SortedSet<int> _dirty = [];

    public WholeTable(ulong offset, ulong[] entries) => (Offset, _entries) = (offset, entries);

    public static WholeTable Load(IImageFile file, ulong offset, int entries)
    {
        ulong[] table = new ulong[entries];
        Span<byte> bytes = MemoryMarshal.AsBytes(table.AsSpan());
        file.Read(offset, bytes);
        BinaryPrimitives.ReverseEndianness(table, table);
        return new WholeTable(offset, table);
    }

    public ulong Offset { get; }

    public int Length => _entries.Length;

    public ReadOnlySpan<ulong> Entries => _entries;

    public bool IsDirty => _dirty.Count > 0;

    public ulong this[int index]
    {
        get => _entries[index];
        set
        {
            _entries[index] = value;
            _dirty.Add(index / PerSector);
        }
    }

    /// <summary>Writes the sectors that have changed.</summary>
    public void WriteTo(IImageFile file)
    {
        Span<byte> bytes = stackalloc byte[Sector];
        while (_dirty.Count > 0)
        {
            int sector = _dirty.Min, first = sector * PerSector, count = Math.Min(PerSector, _entries.Length - first);
            for (int n = 0; n < count; n++) BinaryPrimitives.WriteUInt64BigEndian(bytes[(n * 8)..], _entries[first + n]);
            file.Write(Offset + (ulong)(first * 8L), bytes[..(count * 8)]);
            _dirty.Remove(sector);
        }
    }

    /// <summary>All of it, filled with zeros to whole clusters.</summary>
    public static byte[] Serialize(ReadOnlySpan<ulong> entries, int clusterSize)
    {
        byte[] bytes = new byte[(entries.Length * 8L + clusterSize - 1) / clusterSize * clusterSize];
        for (int n = 0; n < entries.Length; n++) BinaryPrimitives.WriteUInt64BigEndian(bytes.AsSpan(n * 8), entries[n]);
        return bytes;
    }
}
