using Bunraku.Platform;
using Bunraku.Storage.Qcow2;

namespace Bunraku.Storage;

/// <summary>What an image is.</summary>
/// <param name="Path">As the user wrote it.</param>
/// <param name="Size">Bytes of the disk.</param>
/// <param name="Allocated">Bytes that the file takes on the host.</param>
public sealed record ImageInfo(string Path, ImageFormat Format, ulong Size, ulong Allocated)
{
    /// <summary>Version of the format; 0 for raw.</summary>
    public int Version { get; init; }
    /// <summary>Bytes of a cluster; 0 for raw.</summary>
    public int ClusterSize { get; init; }
    /// <summary>Bits of a reference count; 0 for raw.</summary>
    public int RefcountBits { get; init; }
    /// <summary>How clusters are compressed; null for raw.</summary>
    public string? Compression { get; init; }
    /// <summary>Counts may be left open until the image is closed.</summary>
    public bool LazyRefcounts { get; init; }
    /// <summary>The image was not closed; the next one who writes counts again.</summary>
    public bool Dirty { get; init; }
    /// <summary>The image is marked as damaged.</summary>
    public bool Corrupt { get; init; }
    /// <summary>Name of the backing file as it stands in the image; null: none.</summary>
    public string? Backing { get; init; }
    /// <summary>Its format, as it stands there; null: it does not.</summary>
    public string? BackingFormat { get; init; }
    /// <summary>Snapshots inside.</summary>
    public IReadOnlyList<DiskSnapshot> Snapshots { get; init; } = [];
}

/// <summary>Makes, changes and looks at images that no machine uses. Errors are <see cref="DiskException"/>s of one line.</summary>
public static class ImageTools
{
    private const int Sector = 512, Chunk = 2 << 20;

    /// <summary>Makes a new image.</summary>
    /// <param name="size">Bytes of the disk; null: those of the backing file.</param>
    /// <param name="options">For qcow2.</param>
    /// <exception cref="IOException">The host cannot, or options do not go together.</exception>
    public static void Create(string path, ImageFormat format, ulong? size, Qcow2CreateOptions options)
    {
        if (format == ImageFormat.Raw && options.Backing is not null) throw new DiskException($"disk {path}: a raw disk has no backing file");
        if (options.Backing is { } name)
        {
            // A look at it also finds a wrong name or format before the image is made.
            using IBlockBackend backing = DiskImage.Open(
                new DiskOptions(DiskImage.BackingPath(path, name)) { Format = options.BackingFormat, ReadOnly = true, AllowBacking = true });
            size ??= backing.Length;
        }
        ulong bytes = size ?? throw new DiskException($"disk {path}: needs a size");
        using HostImageFile file = HostImageFile.Create(path, replace: false);
        Undone(path, () => Fill(file, format, bytes, options));
    }

    private static void Fill(HostImageFile file, ImageFormat format, ulong size, Qcow2CreateOptions options)
    {
        if (format == ImageFormat.Qcow2)
        {
            Qcow2Creator.Create(file, size, options);
            return;
        }
        if (size == 0 || size % Sector != 0) throw new DiskException($"disk {file.Name}: a disk has a multiple of {Sector} bytes");
        file.Resize(size);
        DiskImage.Remember(file, ImageFormat.Raw);
        file.Flush();
    }

    /// <summary>A file that was made for nothing is taken away.</summary>
    private static void Undone(string path, Action work)
    {
        try
        {
            work();
        }
        catch (Exception e)
        {
            File.Delete(path);
            if (e is not IOException or DiskException) throw;
            throw new DiskException($"disk {path}: {HostError.Reason(e)}", e);
        }
    }

    /// <summary>What an image is. One that is in use by a machine that writes is an error.</summary>
    /// <param name="format">Null: it is looked at.</param>
    public static ImageInfo Info(string path, ImageFormat? format = null)
    {
        using HostImageFile file = HostImageFile.Open(path, readOnly: true);
        if (DiskImage.FormatOf(file, format) == ImageFormat.Raw)
        {
            using var raw = new RawDisk(file, readOnly: true);
            return new ImageInfo(path, ImageFormat.Raw, raw.Length, file.AllocatedBytes);
        }
        using Qcow2Disk disk = Qcow2Disk.Open(file, new Qcow2OpenOptions { ReadOnly = true });
        Qcow2Header header = disk.Header;
        return new ImageInfo(path, ImageFormat.Qcow2, disk.Length, file.AllocatedBytes)
        {
            Version = (int)header.Version,
            ClusterSize = header.ClusterSize,
            RefcountBits = 1 << header.RefcountOrder,
            Compression = header.Compression == CompressionType.Zstd ? "zstd" : "zlib",
            LazyRefcounts = (header.Compatible & 1) != 0,
            Dirty = header.Incompatible.HasFlag(IncompatibleFeatures.Dirty),
            Corrupt = header.Incompatible.HasFlag(IncompatibleFeatures.Corrupt),
            Backing = header.Backing,
            BackingFormat = header.BackingFormat,
            Snapshots = disk.Snapshots,
        };
    }

    /// <summary>Looks whether a qcow2 image is right.</summary>
    /// <param name="repair">Counts are set right.</param>
    /// <exception cref="DiskException">It is no qcow2 image, or so damaged that it cannot be looked at.</exception>
    public static CheckResult Check(string path, bool repair)
    {
        using Qcow2Disk disk = OpenQcow2(path, readOnly: !repair, repairs: true);
        return repair ? Qcow2Checker.Repair(disk) : Qcow2Checker.Check(disk);
    }

    private static Qcow2Disk OpenQcow2(string path, bool readOnly, bool repairs = false)
    {
        HostImageFile file = HostImageFile.Open(path, readOnly);
        try
        {
            if (DiskImage.FormatOf(file, null) != ImageFormat.Qcow2) throw new DiskException($"disk {path}: is a raw disk; this is for qcow2 images");
            return Qcow2Disk.Open(file, new Qcow2OpenOptions
            {
                ReadOnly = readOnly,
                Repairs = repairs,
                // What is below matters where the disk ends or grows; counts need nothing of it.
                OpenBacking = repairs ? null
                    : (name, format) => DiskImage.Open(new DiskOptions(DiskImage.BackingPath(path, name))
                    {
                        Format = format is null ? null : DiskImage.ParseFormat(format),
                        ReadOnly = true,
                        AllowBacking = true,
                    }),
            });
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <summary>Makes a disk larger or smaller.</summary>
    /// <param name="size">Bytes, a multiple of 512.</param>
    /// <param name="shrink">It may become smaller, which loses what is behind the new end.</param>
    /// <param name="format">Null: it is looked at.</param>
    public static void Resize(string path, ulong size, bool shrink, ImageFormat? format = null)
    {
        using IBlockBackend disk = DiskImage.Open(new DiskOptions(path) { Format = format, AllowBacking = true });
        if (size == 0 || size % Sector != 0) throw new DiskException($"disk {path}: a disk has a multiple of {Sector} bytes");
        if (size < disk.Length && !shrink)
            throw new DiskException($"disk {path}: would lose what is behind its first {size} bytes; --shrink allows that");
        if (disk is Qcow2Disk image) image.Resize(size);
        else ((RawDisk)disk).Resize(size);
        disk.Flush();
    }

    /// <summary>Does something with the snapshots of a qcow2 image.</summary>
    public static void WithSnapshots(string path, Action<Qcow2Disk> work)
    {
        using Qcow2Disk disk = OpenQcow2(path, readOnly: false);
        work(disk);
        disk.Flush();
    }

    /// <summary>Copies a disk into a new image, without what is zero.</summary>
    /// <param name="source">What is copied, with its backing files.</param>
    /// <param name="options">For qcow2.</param>
    /// <param name="compress">Clusters are compressed, by zstd.</param>
    /// <param name="progress">Told of bytes that are done and of all.</param>
    public static void Convert(DiskOptions source, string target, ImageFormat format, Qcow2CreateOptions options, bool compress, Action<ulong, ulong>? progress)
    {
        if (compress && format == ImageFormat.Raw) throw new DiskException($"disk {target}: a raw disk is not compressed");
        using IBlockBackend from = DiskImage.Open(source with { ReadOnly = true });
        using HostImageFile file = HostImageFile.Create(target, replace: false);
        Undone(target, () =>
        {
            Fill(file, format, from.Length, compress ? options with { Zstd = true } : options);
            using IBlockBackend to = format == ImageFormat.Raw ? new RawDisk(file, readOnly: false)
                : Qcow2Disk.Open(file, new Qcow2OpenOptions { OpenBacking = (_, _) => throw new DiskException("a copy has no backing file") });
            Copy(from, to, compress, progress);
            to.Flush();
        });
    }

    private static void Copy(IBlockBackend from, IBlockBackend to, bool compress, Action<ulong, ulong>? progress)
    {
        int piece = compress ? (int)to.Granularity : (int)Math.Max(to.Granularity, 4096), chunk = Math.Max(Chunk, piece);
        byte[] bytes = new byte[chunk], packed = new byte[piece];
        for (ulong at = 0; at < from.Length;)
        {
            progress?.Invoke(at, from.Length);
            ulong zeros = from.KnownZeros(at) & ~((ulong)piece - 1);
            if (zeros > 0)
            {
                at += zeros;
                continue;
            }
            int length = (int)Math.Min((ulong)chunk, from.Length - at);
            from.Read(at, bytes.AsSpan(0, length));
            for (int n = 0; n < length; n += piece)
            {
                // As many pieces together as are not zero.
                int end = n;
                while (end < length && bytes.AsSpan(end, Math.Min(piece, length - end)).ContainsAnyExcept((byte)0)) end = Math.Min(end + piece, length);
                if (end == n) continue;
                for (int k = n; compress && k < end; k += piece)
                {
                    packed.AsSpan().Clear();
                    bytes.AsSpan(k, Math.Min(piece, end - k)).CopyTo(packed);
                    ((Qcow2Disk)to).WritePacked(at + (ulong)k, packed);
                }
                if (!compress) to.Write(at + (ulong)n, bytes.AsSpan(n, end - n));
                n = end - piece + (end % piece == 0 ? 0 : piece - end % piece);
            }
            at += (ulong)length;
        }
        progress?.Invoke(from.Length, from.Length);
    }
}
