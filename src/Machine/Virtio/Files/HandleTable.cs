using Bunraku.Platform;

namespace Bunraku.Machine.Virtio.Files;

/// <summary>A file or folder that the guest has open.</summary>
internal sealed class FileHandle(int descriptor, ulong node, bool isFolder, bool canWrite)
{
    public int Descriptor { get; } = descriptor;

    /// <summary>Its <c>nodeid</c>.</summary>
    public ulong Node { get; } = node;

    public bool IsFolder { get; } = isFolder;
    public bool CanWrite { get; } = canWrite;

    /// <summary>Guards reading a folder, and <see cref="Position"/>.</summary>
    public Lock Reading { get; } = new();

    /// <summary>Of a folder: where the next entry that the host gives lies; null: somewhere else than anybody said.</summary>
    public long? Position { get; set; } = 0;

    /// <summary>Of the table: who works with it, and whether it is closed when nobody does.</summary>
    internal int Uses { get; set; }
    internal bool IsGone { get; set; }
}

/// <summary>A handle whose descriptor stays until this is disposed of; or why there is none.</summary>
internal readonly struct HandleUse(HandleTable? table, FileHandle? handle, int error) : IDisposable
{
    /// <summary>0, or an error number: then nothing else is of use.</summary>
    public int Error { get; } = error;

    public FileHandle Handle => handle!;

    public int Descriptor => handle!.Descriptor;

    public void Dispose()
    {
        if (handle is not null) table!.EndUse(handle);
    }
}

/// <summary>What the guest has open: <c>fh</c> of the protocol. Thread-safe.</summary>
internal sealed class HandleTable(int most) : IDisposable
{
    private readonly Lock _lock = new();
    private readonly Dictionary<ulong, FileHandle> _handles = [];
    private ulong _next = 1;
    private bool _disposed;

    /// <summary>How many there are.</summary>
    public int Count
    {
        get
        {
            lock (_lock) return _handles.Count;
        }
    }

    /// <summary>There may be one more. Ask before something is opened.</summary>
    public bool HasRoom
    {
        get
        {
            lock (_lock) return !_disposed && _handles.Count < most;
        }
    }

    /// <summary>Adds one. False: there are too many; it is closed.</summary>
    public bool TryAdd(FileHandle handle, out ulong id)
    {
        lock (_lock)
        {
            id = _next;
            if (!_disposed && _handles.Count < most)
            {
                _handles[_next++] = handle;
                return true;
            }
        }
        FolderCalls.Close(handle.Descriptor);
        return false;
    }

    /// <summary>Works with a handle.</summary>
    public HandleUse Use(ulong id, bool isFolder)
    {
        lock (_lock)
        {
            if (!_handles.TryGetValue(id, out FileHandle? handle)) return new HandleUse(null, null, Errno.BadDescriptor);
            if (handle.IsFolder != isFolder) return new HandleUse(null, null, isFolder ? Errno.NotAFolder : Errno.IsAFolder);
            handle.Uses++;
            return new HandleUse(this, handle, 0);
        }
    }

    internal void EndUse(FileHandle handle)
    {
        bool close;
        lock (_lock) close = --handle.Uses == 0 && handle.IsGone;
        if (close) FolderCalls.Close(handle.Descriptor);
    }

    /// <summary>Closes one.</summary>
    public bool Remove(ulong id)
    {
        FileHandle? handle;
        bool close;
        lock (_lock)
        {
            if (!_handles.Remove(id, out handle)) return false;
            handle.IsGone = true;
            close = handle.Uses == 0;
        }
        if (close) FolderCalls.Close(handle.Descriptor);
        return true;
    }

    /// <summary>Closes all, those that are in use when they are not any more.</summary>
    public void Dispose()
    {
        lock (_lock)
        {
            _disposed = true;
            foreach (FileHandle handle in _handles.Values)
            {
                handle.IsGone = true;
                if (handle.Uses == 0) FolderCalls.Close(handle.Descriptor);
            }
            _handles.Clear();
        }
    }
}
