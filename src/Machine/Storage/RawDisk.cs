using Bunraku.Platform;
using Microsoft.Win32.SafeHandles;

namespace Bunraku.Machine.Storage;

/// <summary>A disk whose bytes are those of a file.</summary>
public sealed class RawDisk : IBlockBackend
{
    private const int Sector = 512, ZeroChunk = 1 << 20;
    private static readonly byte[] s_zeros = new byte[ZeroChunk];

    private readonly SafeFileHandle _file;
    private readonly string _path;
    private IOException? _flushFailed;

    private RawDisk(SafeFileHandle file, string path, ulong length, bool readOnly) => (_file, _path, Length, IsReadOnly) = (file, path, length, readOnly);

    /// <summary>Opens a disk image.</summary>
    /// <param name="path">As the user wrote it.</param>
    /// <exception cref="DiskException">It cannot be a disk; the message says what and why.</exception>
    public static RawDisk Open(string path, bool readOnly)
    {
        SafeFileHandle? file = null;
        try
        {
            if (Directory.Exists(path)) throw new DiskException($"disk {path}: is a directory, not a file");
            if (HostFile.IsDevice(path)) throw new DiskException($"disk {path}: is a device, not a file");
            file = File.OpenHandle(path, FileMode.Open, readOnly ? FileAccess.Read : FileAccess.ReadWrite, readOnly ? FileShare.Read : FileShare.None);
            long length = RandomAccess.GetLength(file);
            if (length <= 0 || length % Sector != 0) throw new DiskException($"disk {path}: has {length} bytes, and a disk has a multiple of {Sector}");
            var disk = new RawDisk(file, path, (ulong)length, readOnly);
            file = null;
            return disk;
        }
        catch (Exception e) when (e is FileNotFoundException or DirectoryNotFoundException)
        {
            throw new DiskException($"disk {path}: no such file", e);
        }
        catch (UnauthorizedAccessException e)
        {
            throw new DiskException($"disk {path}: permission denied{(readOnly ? "" : " (a disk that this user may only read can be used read-only)")}", e);
        }
        catch (Exception e) when (e is IOException or NotSupportedException)
        {
            throw new DiskException($"disk {path}: cannot be opened: {e.Message.ReplaceLineEndings(" ")}", e);
        }
        finally
        {
            file?.Dispose();
        }
    }

    /// <inheritdoc/>
    public ulong Length { get; }

    /// <inheritdoc/>
    public bool IsReadOnly { get; }

    /// <inheritdoc/>
    public void Read(ulong position, Span<byte> destination)
    {
        while (!destination.IsEmpty)
        {
            int n = RandomAccess.Read(_file, destination, (long)position);
            if (n == 0) throw new IOException($"{_path} has become shorter than the disk");
            destination = destination[n..];
            position += (uint)n;
        }
    }

    /// <inheritdoc/>
    public void Write(ulong position, ReadOnlySpan<byte> source) => RandomAccess.Write(_file, source, (long)position);

    /// <inheritdoc/>
    public void Flush()
    {
        if (_flushFailed is not null) throw _flushFailed;
        try
        {
            RandomAccess.FlushToDisk(_file);
        }
        catch (IOException e)
        {
            // The kernel has dropped what it could not write, and a second call would succeed.
            _flushFailed = e;
            throw;
        }
    }

    /// <inheritdoc/>
    public void WriteZeroes(ulong position, ulong length, bool unmap)
    {
        for (; length > 0;)
        {
            int n = (int)Math.Min(length, ZeroChunk);
            Write(position, s_zeros.AsSpan(0, n));
            position += (uint)n;
            length -= (uint)n;
        }
    }

    /// <summary>Leaves the bytes as they are, which a discard may.</summary>
    public void Discard(ulong position, ulong length)
    {
    }

    /// <inheritdoc/>
    public void Dispose() => _file.Dispose();
}

/// <summary>A disk cannot be had; the message is one line for the user.</summary>
public sealed class DiskException(string message, Exception? inner = null) : Exception(message, inner);
