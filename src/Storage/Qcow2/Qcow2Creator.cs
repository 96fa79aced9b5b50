namespace Bunraku.Storage.Qcow2;

/// <summary>How a new image is to be.</summary>
public sealed record Qcow2CreateOptions
{
    /// <summary>2 or 3.</summary>
    public int Version { get; init; } = 3;
    /// <summary>Bytes of a cluster: a power of two from 512 to 2 MiB.</summary>
    public int ClusterSize { get; init; } = 1 << 16;
    /// <summary>Bits of a reference count: 1, 2, 4, 8, 16, 32 or 64; version 2 has 16.</summary>
    public int RefcountBits { get; init; } = 16;
    /// <summary>Writers may leave counts open until the image is closed.</summary>
    public bool LazyRefcounts { get; init; }
    /// <summary>Compressed clusters are made by zstd, not by zlib.</summary>
    public bool Zstd { get; init; }
    /// <summary>Name of the backing file as it is to stand in the image; null: none.</summary>
    public string? Backing { get; init; }
    /// <summary>Its format.</summary>
    public ImageFormat BackingFormat { get; init; }
}

/// <summary>Makes empty images.</summary>
internal static class Qcow2Creator
{
    /// <summary>Writes an empty image into an empty file.</summary>
    /// <exception cref="DiskException">It cannot be so.</exception>
    public static void Create(IImageFile file, ulong size, Qcow2CreateOptions options)
    {
        if (options.Version is not (2 or 3)) throw Wrong($"version {options.Version} is not possible; 2 and 3 are");
        if (!int.IsPow2(options.ClusterSize) || options.ClusterSize is < 1 << Qcow2Header.MinClusterBits or > 1 << Qcow2Header.MaxClusterBits)
            throw Wrong($"clusters of {options.ClusterSize} bytes are not possible; a power of two from 512 to 2M is");
        if (!int.IsPow2(options.RefcountBits) || options.RefcountBits is < 1 or > 64)
            throw Wrong($"reference counts of {options.RefcountBits} bits are not possible; 1, 2, 4, 8, 16, 32 and 64 are");
        if (options.Version == 2 && (options.RefcountBits != 16 || options.LazyRefcounts || options.Zstd))
            throw Wrong("version 2 has reference counts of 16 bits, no lazy ones and zlib");
        int bits = int.Log2(options.ClusterSize);
        if (size == 0 || size % 512 != 0) throw Wrong("a disk has a multiple of 512 bytes");
        if (size > Qcow2Header.MaxSize(bits)) throw Wrong($"with clusters of {options.ClusterSize} bytes a disk has at most {Qcow2Header.MaxSize(bits)} bytes");

        var draft = new Qcow2Header { ClusterBits = bits };
        int clusterSize = draft.ClusterSize, order = int.Log2(options.RefcountBits);
        ulong l1Entries = draft.L1EntriesFor(size), l1Clusters = (l1Entries * 8 + (ulong)clusterSize - 1) >> bits, perBlock = (ulong)clusterSize * 8 >> order;
        // Header, table of counts, blocks, first table: the blocks count all of them.
        ulong blocks = 1, tableClusters;
        while (true)
        {
            tableClusters = (blocks * 8 + (ulong)clusterSize - 1) >> bits;
            if (blocks * perBlock >= 1 + tableClusters + blocks + l1Clusters) break;
            blocks++;
        }
        ulong tableAt = 1, blocksAt = tableAt + tableClusters, l1At = blocksAt + blocks, used = l1At + l1Clusters;
        var header = new Qcow2Header
        {
            Version = (uint)options.Version,
            ClusterBits = bits,
            Size = size,
            Backing = options.Backing,
            BackingFormat = options.Backing is null ? null : DiskImage.Word(options.BackingFormat),
            L1Entries = (uint)l1Entries,
            L1Offset = l1At << bits,
            RefcountTableOffset = tableAt << bits,
            RefcountTableClusters = (uint)tableClusters,
            RefcountOrder = order,
            Compatible = options.LazyRefcounts ? 1u : 0,
            Incompatible = options.Zstd ? IncompatibleFeatures.CompressionType : 0,
            Compression = options.Zstd ? CompressionType.Zstd : CompressionType.Zlib,
        };
        byte[] first = header.NewCluster(file.Name);
        ulong[] table = new ulong[blocks];
        for (ulong n = 0; n < blocks; n++) table[n] = blocksAt + n << bits;
        file.Resize(used << bits);
        file.Write(tableAt << bits, WholeTable.Serialize(table, clusterSize));
        file.Write(0, first);
        var counts = new Refcounts(file, header, _ => false);
        for (ulong n = 0; n < used; n++) counts.Set(n, 1);
        counts.WriteTo(file);
        file.Flush();

        DiskException Wrong(string problem) => new($"disk {file.Name}: {problem}");
    }
}
