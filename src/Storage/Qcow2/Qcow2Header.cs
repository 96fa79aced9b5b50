using System.Buffers.Binary;
using System.Text;

namespace Bunraku.Storage.Qcow2;

/// <summary>Features without which an image cannot be understood: QEMU's docs/interop/qcow2.txt, "incompatible_features".</summary>
[Flags]
internal enum IncompatibleFeatures : ulong
{
    /// <summary>Reference counts may be wrong: whoever writes counts again first.</summary>
    Dirty = 1,
    /// <summary>Something is broken: nobody may write.</summary>
    Corrupt = 2,
    ExternalData = 4,
    /// <summary>Clusters are compressed by what <see cref="Qcow2Header.Compression"/> says.</summary>
    CompressionType = 8,
    /// <summary>Subclusters.</summary>
    ExtendedL2 = 16,
    Known = Dirty | Corrupt | CompressionType,
}

/// <summary>How clusters are compressed.</summary>
internal enum CompressionType : byte { Zlib = 0, Zstd = 1 }

/// <summary>The header of an image: docs/interop/qcow2.txt, "Header". Numbers are big-endian. The first 512 bytes change at once, or not at all.</summary>
internal sealed class Qcow2Header
{
    public const int MagicLength = 4;
    public const int MinClusterBits = 9, MaxClusterBits = 21;
    private const uint Magic = 0x514649FB; // QFI\xFB
    private const int Version2Length = 72, Version3Length = 104, AtomicLength = 512;
    // Of the same sizes as QEMU's, so that what one opens the other does, too.
    private const ulong MostTableBytes = 8 << 20, MostL1Entries = (32 << 20) / 8, MostSnapshots = 65536, LongestBackingName = 1023;
    private const uint BackingFormatExtension = 0xE2792ACA, FeatureNamesExtension = 0x6803F857;

    public uint Version { get; init; } = 3;
    public int ClusterBits { get; init; } = 16;
    /// <summary>Bytes of the disk.</summary>
    public ulong Size { get; set; }
    public string? Backing { get; init; }
    public string? BackingFormat { get; init; }
    public ulong L1Offset { get; set; }
    /// <summary>Entries of the first table.</summary>
    public uint L1Entries { get; set; }
    public ulong RefcountTableOffset { get; set; }
    public uint RefcountTableClusters { get; set; }
    public uint SnapshotCount { get; set; }
    public ulong SnapshotsOffset { get; set; }
    public IncompatibleFeatures Incompatible { get; set; }
    /// <summary>Bit 0: lazy reference counts are allowed.</summary>
    public ulong Compatible { get; init; }
    /// <summary>What only they who know a bit keep right: cleared before the first write by others.</summary>
    public ulong AutoClear { get; set; }
    /// <summary>A reference count has 2 to the power of so many bits.</summary>
    public int RefcountOrder { get; init; } = 4;
    public CompressionType Compression { get; init; }

    public int ClusterSize => 1 << ClusterBits;

    /// <summary>Entries of a table of the second level.</summary>
    public int L2Entries => ClusterSize / 8;

    /// <summary>Bytes of the disk that one entry of the first table covers.</summary>
    public ulong L2Coverage => (ulong)L2Entries << ClusterBits;

    public static bool HasMagic(ReadOnlySpan<byte> start) => start.Length >= MagicLength && BinaryPrimitives.ReadUInt32BigEndian(start) == Magic;

    /// <summary>Reads and checks the header, and nothing else.</summary>
    /// <exception cref="DiskException">It is none, or one that cannot be used.</exception>
    public static Qcow2Header Read(IImageFile file)
    {
        byte[] start = new byte[AtomicLength];
        file.Read(0, start);
        if (!HasMagic(start)) throw Bad(file, "is no qcow2 image");
        uint version = U32(start, 4);
        if (version is not (2 or 3)) throw Bad(file, $"is qcow2 version {version}; 2 and 3 are possible");
        int clusterBits = (int)U32(start, 20);
        if (clusterBits is < MinClusterBits or > MaxClusterBits) throw Bad(file, $"has clusters of 2^{(uint)clusterBits} bytes");
        uint length = version == 2 ? Version2Length : U32(start, 100);
        if (version == 3 && (length < Version3Length || length % 8 != 0 || length > 1u << clusterBits)) throw Bad(file, $"has a header of {length} bytes");
        if (U32(start, 32) != 0) throw Bad(file, "is encrypted, which is not supported; 'qemu-img convert' makes an image without encryption");
        var incompatible = (IncompatibleFeatures)(version == 2 ? 0 : U64(start, 72));
        byte[] cluster = new byte[1 << clusterBits];
        file.Read(0, cluster);
        (string? format, Dictionary<int, string> names) = Extensions(file, cluster, length);
        Refuse(file, incompatible, names);
        byte compression = length > Version3Length ? start[104] : (byte)0;
        if (compression > (byte)CompressionType.Zstd || compression != 0 != incompatible.HasFlag(IncompatibleFeatures.CompressionType))
            throw Bad(file, $"has clusters of compression type {compression}; zlib and zstd are possible");
        var header = new Qcow2Header
        {
            Version = version,
            ClusterBits = clusterBits,
            Size = U64(start, 24),
            Backing = BackingName(file, cluster, U64(start, 8), U32(start, 16)),
            BackingFormat = format,
            L1Entries = U32(start, 36),
            L1Offset = U64(start, 40),
            RefcountTableOffset = U64(start, 48),
            RefcountTableClusters = U32(start, 56),
            SnapshotCount = U32(start, 60),
            SnapshotsOffset = U64(start, 64),
            Incompatible = incompatible,
            Compatible = version == 2 ? 0 : U64(start, 80),
            AutoClear = version == 2 ? 0 : U64(start, 88),
            RefcountOrder = version == 2 ? 4 : (int)Math.Min(U32(start, 96), 7),
            Compression = (CompressionType)compression,
        };
        header.Check(file);
        return header;
    }

    private void Check(IImageFile file)
    {
        if (RefcountOrder > 6) throw Bad(file, "has reference counts of more than 64 bits");
        if (Size == 0 || Size % 512 != 0 || Size > long.MaxValue) throw Bad(file, $"has a disk of {Size} bytes, and a disk has a multiple of 512");
        if (L1Entries > MostL1Entries) throw Bad(file, $"has a first table of {L1Entries} entries; at most {MostL1Entries} are possible");
        if (L1Entries < L1EntriesFor(Size)) throw Bad(file, $"has a first table of {L1Entries} entries, too few for its {Size} bytes");
        if ((ulong)RefcountTableClusters << ClusterBits > MostTableBytes || RefcountTableClusters == 0)
            throw Bad(file, $"has a table of reference counts of {RefcountTableClusters} clusters");
        if (SnapshotCount > MostSnapshots) throw Bad(file, $"has {SnapshotCount} snapshots; at most {MostSnapshots} are possible");
        Place(file, "first table", L1Offset, L1Entries * 8ul);
        Place(file, "table of reference counts", RefcountTableOffset, (ulong)RefcountTableClusters << ClusterBits);
        if (SnapshotCount > 0) Place(file, "table of snapshots", SnapshotsOffset, 1);
    }

    /// <summary>A table lies at the beginning of a cluster inside the file.</summary>
    /// <exception cref="DiskException">It does not.</exception>
    public void Place(IImageFile file, string what, ulong offset, ulong length)
    {
        if (offset == 0 || offset % (ulong)ClusterSize != 0 || offset > file.Length || length > file.Length - offset)
            throw Bad(file, $"is damaged: its {what} of {length} bytes lies at {offset:X}, and the file has {file.Length:X} bytes (numbers are hexadecimal)");
    }

    /// <summary>Entries that the first table needs for a disk.</summary>
    public ulong L1EntriesFor(ulong size) => size / L2Coverage + (size % L2Coverage != 0 ? 1u : 0);

    /// <summary>The largest disk that clusters of this size can have.</summary>
    public static ulong MaxSize(int clusterBits) => MostL1Entries << (2 * clusterBits - 3) > long.MaxValue || 2 * clusterBits - 3 > 40
        ? long.MaxValue & ~511ul : MostL1Entries << (2 * clusterBits - 3);

    private static void Refuse(IImageFile file, IncompatibleFeatures features, Dictionary<int, string> names)
    {
        if (features.HasFlag(IncompatibleFeatures.ExternalData))
            throw Bad(file, "has its data in another file, which is not supported; 'qemu-img convert' makes an image without");
        if (features.HasFlag(IncompatibleFeatures.ExtendedL2))
            throw Bad(file, "has subclusters (extended_l2), which are not supported; 'qemu-img convert' makes an image without");
        if ((features & ~IncompatibleFeatures.Known) is var unknown and not 0)
        {
            int bit = int.CreateTruncating(ulong.TrailingZeroCount((ulong)unknown));
            throw Bad(file, $"needs a feature that is not supported: {(names.TryGetValue(bit, out string? name) ? $"'{name}'" : $"number {bit}")}");
        }
    }

    private static string? BackingName(IImageFile file, byte[] cluster, ulong offset, uint length)
    {
        if (offset == 0 || length == 0) return null;
        if (length > LongestBackingName || offset > (ulong)cluster.Length || length > (ulong)cluster.Length - offset)
            throw Bad(file, $"is damaged: the name of its backing file has {length} bytes at {offset:X}");
        return Encoding.UTF8.GetString(cluster, (int)offset, (int)length);
    }

    /// <summary>Header extensions: what is not known is skipped.</summary>
    private static (string? BackingFormat, Dictionary<int, string> Features) Extensions(IImageFile file, byte[] cluster, uint at)
    {
        string? format = null;
        var names = new Dictionary<int, string>();
        ulong end = U64(cluster, 8) is > 0 and var backing && backing < (ulong)cluster.Length ? backing : (ulong)cluster.Length;
        while (at + 8 <= end)
        {
            (uint type, uint length) = (U32(cluster, (int)at), U32(cluster, (int)at + 4));
            if (type == 0) break;
            if (length > end - at - 8) throw Bad(file, $"is damaged: a header extension has {length} bytes");
            ReadOnlySpan<byte> body = cluster.AsSpan((int)at + 8, (int)length);
            if (type == BackingFormatExtension) format = Encoding.UTF8.GetString(body);
            const int entry = 48;
            for (int n = 0; type == FeatureNamesExtension && n + entry <= body.Length; n += entry)
                if (body[n] == 0) names.TryAdd(body[n + 1], Encoding.UTF8.GetString(body.Slice(n + 2, entry - 2)).TrimEnd('\0'));
            at += 8 + (length + 7 & ~7u);
        }
        return (format, names);
    }

    /// <summary>The changing part, to be written at once: all that can change lies in the first sector, and extensions and names behind it stay.</summary>
    public void Update(IImageFile file)
    {
        byte[] start = new byte[AtomicLength];
        file.Read(0, start);
        Put(start);
        file.Write(0, start);
    }

    private void Put(Span<byte> start)
    {
        BinaryPrimitives.WriteUInt64BigEndian(start[24..], Size);
        BinaryPrimitives.WriteUInt32BigEndian(start[36..], L1Entries);
        BinaryPrimitives.WriteUInt64BigEndian(start[40..], L1Offset);
        BinaryPrimitives.WriteUInt64BigEndian(start[48..], RefcountTableOffset);
        BinaryPrimitives.WriteUInt32BigEndian(start[56..], RefcountTableClusters);
        BinaryPrimitives.WriteUInt32BigEndian(start[60..], SnapshotCount);
        BinaryPrimitives.WriteUInt64BigEndian(start[64..], SnapshotsOffset);
        if (Version == 2) return;
        BinaryPrimitives.WriteUInt64BigEndian(start[72..], (ulong)Incompatible);
        BinaryPrimitives.WriteUInt64BigEndian(start[88..], AutoClear);
    }

    /// <summary>The whole first cluster of a new image.</summary>
    /// <exception cref="DiskException">The name of the backing file is too long.</exception>
    public byte[] NewCluster(string image)
    {
        byte[] all = new byte[ClusterSize];
        BinaryPrimitives.WriteUInt32BigEndian(all, Magic);
        BinaryPrimitives.WriteUInt32BigEndian(all.AsSpan(4), Version);
        BinaryPrimitives.WriteUInt32BigEndian(all.AsSpan(20), (uint)ClusterBits);
        Put(all);
        int at = Version2Length;
        if (Version == 3)
        {
            BinaryPrimitives.WriteUInt64BigEndian(all.AsSpan(80), Compatible);
            BinaryPrimitives.WriteUInt32BigEndian(all.AsSpan(96), (uint)RefcountOrder);
            BinaryPrimitives.WriteUInt32BigEndian(all.AsSpan(100), Version3Length + 8);
            all[104] = (byte)Compression;
            at = Version3Length + 8;
        }
        if (Backing is null) return all;
        byte[] name = Encoding.UTF8.GetBytes(Backing), format = Encoding.UTF8.GetBytes(BackingFormat ?? "");
        if (name.Length > (int)LongestBackingName || at + 24 + format.Length + name.Length > all.Length)
            throw new DiskException($"disk {image}: the name of its backing file is too long, {name.Length} bytes");
        if (format.Length > 0)
        {
            BinaryPrimitives.WriteUInt32BigEndian(all.AsSpan(at), BackingFormatExtension);
            BinaryPrimitives.WriteUInt32BigEndian(all.AsSpan(at + 4), (uint)format.Length);
            format.CopyTo(all.AsSpan(at + 8));
            at += 8 + (format.Length + 7 & ~7);
        }
        at += 8; // the end of the extensions: zeros
        name.CopyTo(all.AsSpan(at));
        BinaryPrimitives.WriteUInt64BigEndian(all.AsSpan(8), (ulong)at);
        BinaryPrimitives.WriteUInt32BigEndian(all.AsSpan(16), (uint)name.Length);
        return all;
    }

    public static DiskException Bad(IImageFile file, string problem) => new($"disk {file.Name}: {problem}");

    private static uint U32(ReadOnlySpan<byte> bytes, int at) => BinaryPrimitives.ReadUInt32BigEndian(bytes[at..]);

    private static ulong U64(ReadOnlySpan<byte> bytes, int at) => BinaryPrimitives.ReadUInt64BigEndian(bytes[at..]);
}
