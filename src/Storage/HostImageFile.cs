using Bunraku.Platform;
using Microsoft.Win32.SafeHandles;

namespace Bunraku.Storage;

/// <summary>A file of the host that holds an image, locked as QEMU locks it.</summary>
public sealed class HostImageFile : IImageFile
{
    private const int ZeroChunk = 1 << 20;
    private static readonly byte[] s_zeros = new byte[ZeroChunk];

    private readonly SafeFileHandle _file;
    private volatile LostWritesException? _flushFailed;

    private HostImageFile(SafeFileHandle file, string path, bool readOnly) => (_file, Name, IsReadOnly) = (file, path, readOnly);

    /// <summary>Opens a file and locks it: with others that only read if it is opened to be read.</summary>
    /// <param name="path">As the user wrote it.</param>
    /// <exception cref="DiskException">It cannot be an image; the message says what and why.</exception>
    public static HostImageFile Open(string path, bool readOnly)
    {
        return Guarded(path, readOnly, () =>
        {
            if (Directory.Exists(path)) throw new DiskException($"disk {path}: is a directory, not a file");
            if (HostFile.IsDevice(path)) throw new DiskException($"disk {path}: is a device, not a file");
            return Locked(path, readOnly, FileMode.Open);
        });
    }

    /// <summary>Makes a new file, or empties one that nobody uses.</summary>
    /// <param name="path">As the user wrote it.</param>
    /// <param name="replace">An old file is emptied; else it is an error.</param>
    /// <exception cref="DiskException">The host does not allow it.</exception>
    public static HostImageFile Create(string path, bool replace) => Create(path, replace, isPrivate: false);

    /// <summary>Makes a new file that nobody but its user can open at any moment.</summary>
    /// <param name="path">Of the file, which is not there yet.</param>
    /// <exception cref="DiskException">The host does not allow it.</exception>
    public static HostImageFile CreatePrivate(string path) => Create(path, replace: false, isPrivate: true);

    private static HostImageFile Create(string path, bool replace, bool isPrivate)
    {
        return Guarded(path, readOnly: false, () =>
        {
            if (Directory.Exists(path)) throw new DiskException($"disk {path}: is a directory, not a file");
            if (HostFile.IsDevice(path)) throw new DiskException($"disk {path}: is a device, not a file");
            if (!replace && File.Exists(path)) throw new DiskException($"disk {path}: exists already; remove it first, or choose another name");
            if (isPrivate) HostFile.CreatePrivate(path);
            HostImageFile file = Locked(path, readOnly: false, replace ? FileMode.OpenOrCreate : isPrivate ? FileMode.Open : FileMode.CreateNew);
            RandomAccess.SetLength(file._file, 0);
            return file;
        });
    }

    private static HostImageFile Locked(string path, bool readOnly, FileMode mode)
    {
        SafeFileHandle handle = File.OpenHandle(path, mode, readOnly ? FileAccess.Read : FileAccess.ReadWrite, FileShare.ReadWrite | FileShare.Delete);
        var file = new HostImageFile(handle, path, readOnly);
        try
        {
            file.Lock();
            return file;
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    private static HostImageFile Guarded(string path, bool readOnly, Func<HostImageFile> open)
    {
        try
        {
            return open();
        }
        catch (DiskException)
        {
            throw;
        }
        catch (UnauthorizedAccessException e)
        {
            throw new DiskException($"disk {path}: permission denied{(readOnly ? "" : " (a disk that this user may only read can be used read-only)")}", e);
        }
        catch (Exception e) when (e is FileNotFoundException or DirectoryNotFoundException)
        {
            throw new DiskException($"disk {path}: no such file", e);
        }
        catch (Exception e) when (e is IOException or NotSupportedException or ArgumentException)
        {
            throw new DiskException($"disk {path}: cannot be opened: {HostError.Reason(e)}", e);
        }
    }

    /// <summary>
    /// QEMU's locks (block/file-posix.c in its sources): a byte for each thing that a user does with the file, and one for each that it does not let others do.
    /// Each takes its own and then looks whether somebody has the opposite one.
    /// </summary>
    /// <remarks>
    /// A lock of this process that was given up may be held for a moment longer by a child of it that has not come to its exec yet: what is taken is tried
    /// again for a second.
    /// </remarks>
    private void Lock()
    {
        const int attempts = 50, pauseMilliseconds = 20;
        for (int n = 0; !TryLock(); n++)
        {
            if (n == attempts)
                throw new DiskException($"disk {Name}: is in use by another virtual machine or tool{(IsReadOnly ? ", which writes" : "")}; end that first"
                    + (IsReadOnly ? "" : ", or use the disk read-only if it only reads"));
            Thread.Sleep(pauseMilliseconds);
        }
    }

    private bool TryLock()
    {
        const int doesBase = 100, forbidsBase = 200, read = 0, write = 1, resize = 3;
        ReadOnlySpan<int> does = IsReadOnly ? [read] : [read, write, resize], forbids = [write, resize];
        bool taken = true;
        foreach (int what in does) taken &= HostFile.TryLockByte(_file, doesBase + what);
        foreach (int what in forbids) taken &= HostFile.TryLockByte(_file, forbidsBase + what);
        foreach (int what in does) taken &= !HostFile.IsByteLocked(_file, forbidsBase + what);
        foreach (int what in forbids) taken &= !HostFile.IsByteLocked(_file, doesBase + what);
        return taken;
    }

    /// <inheritdoc/>
    public string Name { get; }

    /// <summary>It was opened to be read.</summary>
    public bool IsReadOnly { get; }

    /// <summary>Which file it is.</summary>
    internal (ulong Device, ulong Inode) Identity => HostFile.Identity(_file);

    /// <summary>Bytes that it takes on the host.</summary>
    public ulong AllocatedBytes => HostFile.AllocatedBytes(_file);

    /// <summary>An extended attribute; null: there is none.</summary>
    internal string? GetAttribute(string name) => HostFile.GetAttribute(_file, name);

    /// <summary>False: it cannot be kept.</summary>
    internal bool TrySetAttribute(string name, string value) => HostFile.TrySetAttribute(_file, name, value);

    /// <inheritdoc/>
    public ulong Length => (ulong)RandomAccess.GetLength(_file);

    /// <inheritdoc/>
    public int Read(ulong position, Span<byte> destination)
    {
        int done = HostFile.Read(_file, destination, (long)position);
        destination[done..].Clear();
        return done;
    }

    /// <inheritdoc/>
    public void Write(ulong position, ReadOnlySpan<byte> source) => RandomAccess.Write(_file, source, (long)position);

    /// <inheritdoc/>
    public void Flush()
    {
        if (_flushFailed is { } failed) throw new LostWritesException(failed.Message, failed.InnerException!);
        try
        {
            RandomAccess.FlushToDisk(_file);
        }
        catch (IOException e)
        {
            // The kernel has dropped what it could not write, and a second call would succeed.
            _flushFailed = new LostWritesException(e.Message, e);
            throw _flushFailed;
        }
    }

    /// <inheritdoc/>
    public void Zero(ulong position, ulong length, bool unmap)
    {
        if (length == 0 || (unmap ? HostFile.TryPunchHole(_file, position, length) : HostFile.TryZeroRange(_file, position, length))) return;
        for (; length > 0;)
        {
            int n = (int)Math.Min(length, ZeroChunk);
            Write(position, s_zeros.AsSpan(0, n));
            position += (uint)n;
            length -= (uint)n;
        }
    }

    /// <inheritdoc/>
    public void Discard(ulong position, ulong length)
    {
        if (length > 0) HostFile.TryPunchHole(_file, position, length);
    }

    /// <inheritdoc/>
    public void Resize(ulong length) => RandomAccess.SetLength(_file, (long)length);

    /// <inheritdoc/>
    public ulong Hole(ulong position)
    {
        ulong length = Length;
        return position >= length ? 0 : (HostFile.NextData(_file, position) ?? length) - position;
    }

    /// <summary>Closes the file, which gives its locks back.</summary>
    public void Dispose() => _file.Dispose();
}
