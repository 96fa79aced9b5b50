using Bunraku.Storage.Qcow2;

namespace Bunraku.Storage;

/// <summary>
/// A disk whose image is only read: what is written goes into a file that nobody else sees and that is gone at the end. A copy of that file, made at any
/// moment, is what another such disk can begin with. Threads as <see cref="IBlockBackend"/> says.
/// </summary>
public sealed class ThrowawayDisk : IBlockBackend
{
    private const string Below = "below"; // no file's name: who opens it says what lies there
    private const int Piece = 1 << 20;

    private readonly HostImageFile _file;
    private readonly Qcow2Disk _disk;

    /// <param name="options">The image.</param>
    /// <param name="size">Bytes of the disk, at least those of the image; null: the same.</param>
    /// <param name="begun">A file from <see cref="CopyTo"/>, which is only read as well; null: nothing was written before.</param>
    /// <exception cref="DiskException">It cannot be had; the message is one line.</exception>
    public ThrowawayDisk(DiskOptions options, ulong? size = null, string? begun = null)
    {
        IBlockBackend below = DiskImage.Open(options with { ReadOnly = true });
        HostImageFile? file = null;
        try
        {
            if (begun is not null)
            {
                IBlockBackend image = below;
                file = HostImageFile.Open(begun, readOnly: true);
                below = Qcow2Disk.Open(file, new Qcow2OpenOptions { ReadOnly = true, OpenBacking = (_, _) => image });
                file = null;
            }
            string path = Path.Combine(Path.GetTempPath(), $"bunraku-disk-{Guid.NewGuid():N}");
            file = _file = HostImageFile.CreatePrivate(path);
            File.Delete(path);
            if (size < below.Length) throw new DiskException($"disk {options.Path}: has {below.Length} bytes, and a disk over it is no smaller");
            Qcow2Creator.Create(file, size ?? below.Length, new Qcow2CreateOptions { Backing = Below });
            _disk = Qcow2Disk.Open(file, new Qcow2OpenOptions { Discard = options.Discard, OpenBacking = (_, _) => below });
        }
        catch
        {
            below.Dispose();
            file?.Dispose();
            throw;
        }
    }

    /// <summary>Writes what was written to the disk into a new file, which only its user may read. While nobody writes to the disk.</summary>
    /// <param name="path">Of the file, which is not there yet.</param>
    /// <exception cref="IOException">It cannot be written.</exception>
    public void CopyTo(string path)
    {
        _disk.Flush();
        using HostImageFile copy = HostImageFile.CreatePrivate(path);
        copy.Resize(_file.Length);
        byte[] piece = new byte[Piece];
        for (ulong at = 0, end = _file.Length; at < end;)
        {
            if (_file.Hole(at) is > 0 and ulong hole)
            {
                at += hole;
                continue;
            }
            int count = _file.Read(at, piece.AsSpan(0, (int)Math.Min(Piece, end - at)));
            copy.Write(at, piece.AsSpan(0, count));
            at += (ulong)count;
        }
    }

    /// <inheritdoc/>
    public ulong Length => _disk.Length;
    /// <inheritdoc/>
    public bool IsReadOnly => false;
    /// <inheritdoc/>
    public uint Granularity => _disk.Granularity;
    /// <inheritdoc/>
    public void Read(ulong position, Span<byte> destination) => _disk.Read(position, destination);
    /// <inheritdoc/>
    public void Write(ulong position, ReadOnlySpan<byte> source) => _disk.Write(position, source);
    /// <inheritdoc/>
    public void Flush() => _disk.Flush();
    /// <inheritdoc/>
    public void WriteZeroes(ulong position, ulong length, bool unmap) => _disk.WriteZeroes(position, length, unmap);
    /// <inheritdoc/>
    public void Discard(ulong position, ulong length) => _disk.Discard(position, length);
    /// <inheritdoc/>
    public ulong KnownZeros(ulong position) => _disk.KnownZeros(position);
    /// <inheritdoc/>
    public void Dispose() => _disk.Dispose();
}
