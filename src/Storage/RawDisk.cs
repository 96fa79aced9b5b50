using Bunraku.Storage.Qcow2;

namespace Bunraku.Storage;

/// <summary>A disk whose bytes are those of a file.</summary>
public sealed class RawDisk : IBlockBackend
{
    private const int Sector = 512;
    private const uint PageSize = 4096;

    private readonly IImageFile _file;
    private readonly bool _guardsFormat;

    /// <param name="file">Closed with the disk.</param>
    /// <param name="guardsFormat">
    /// Nobody remembers that this file is raw: what would make it look like another format at the next start is not written into its first sector.
    /// </param>
    /// <exception cref="DiskException">It is not a whole number of sectors.</exception>
    internal RawDisk(IImageFile file, bool readOnly, bool guardsFormat = false)
    {
        ulong length = file.Length;
        if (length == 0 || length % Sector != 0) throw new DiskException($"disk {file.Name}: has {length} bytes, and a disk has a multiple of {Sector}");
        (_file, IsReadOnly, _guardsFormat, Length) = (file, readOnly, guardsFormat, length);
    }

    /// <summary>Opens a file as a raw disk, whatever is in it.</summary>
    /// <param name="path">As the user wrote it.</param>
    /// <exception cref="DiskException">It cannot be a disk; the message says what and why.</exception>
    public static RawDisk Open(string path, bool readOnly)
    {
        HostImageFile file = HostImageFile.Open(path, readOnly);
        try
        {
            return new RawDisk(file, readOnly);
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public ulong Length { get; private set; }

    /// <inheritdoc/>
    public bool IsReadOnly { get; }

    /// <inheritdoc/>
    public uint Granularity => PageSize;

    /// <inheritdoc/>
    public void Read(ulong position, Span<byte> destination)
    {
        if (_file.Read(position, destination) < destination.Length) throw new IOException($"{_file.Name} has become shorter than the disk");
    }

    /// <inheritdoc/>
    public void Write(ulong position, ReadOnlySpan<byte> source)
    {
        if (_guardsFormat && position < Qcow2Header.MagicLength) CheckMagic(position, source);
        _file.Write(position, source);
    }

    private void CheckMagic(ulong position, ReadOnlySpan<byte> source)
    {
        Span<byte> start = stackalloc byte[Qcow2Header.MagicLength];
        _file.Read(0, start);
        source[..Math.Min(source.Length, start.Length - (int)position)].CopyTo(start[(int)position..]);
        if (Qcow2Header.HasMagic(start))
            throw new IOException($"{_file.Name}: the guest writes what would make its raw disk look like a qcow2 image; format=raw allows it");
    }

    /// <inheritdoc/>
    public void Flush() => _file.Flush();

    /// <inheritdoc/>
    public void WriteZeroes(ulong position, ulong length, bool unmap) => _file.Zero(position, length, unmap);

    /// <inheritdoc/>
    public void Discard(ulong position, ulong length) => _file.Discard(position, length);

    /// <inheritdoc/>
    public ulong KnownZeros(ulong position) => _file.Hole(position);

    /// <summary>Makes the disk larger or smaller.</summary>
    /// <param name="length">A multiple of 512, not 0.</param>
    public void Resize(ulong length)
    {
        _file.Resize(length);
        Length = length;
    }

    /// <inheritdoc/>
    public void Dispose() => _file.Dispose();
}
