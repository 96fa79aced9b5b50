using Bunraku.Platform;

namespace Bunraku.Machine.Virtio.Files;

/// <summary>Which file it is, whatever its names are.</summary>
internal readonly record struct FileIdentity(ulong Device, ulong Inode)
{
    public static FileIdentity Of(in HostFileStatus status) => new((ulong)status.DeviceMajor << 32 | status.DeviceMinor, status.Inode);
}

/// <summary>A file that the guest knows by a number. Its fields are the table's, guarded by the table's lock, but for those that never change.</summary>
internal sealed class FileNode(ulong id, FileIdentity identity, HostFileTime born, uint kind, bool isBarred = false)
{
    public ulong Id { get; } = id;
    public FileIdentity Identity { get; } = identity;

    /// <summary>Tells it from an earlier file whose number in the file system it has.</summary>
    public HostFileTime Born { get; } = born;

    /// <summary>What it is on the host: of <see cref="FileBits.Kind"/>. It never becomes anything else.</summary>
    public uint Kind { get; } = kind;

    /// <summary>It is seen, and nothing can be done with it: a folder where a file system of the host's kernel is mounted.</summary>
    public bool IsBarred { get; } = isBarred;

    /// <summary>Names it (O_PATH); negative: it has none at the moment, and is found by <see cref="Name"/>.</summary>
    public int Descriptor { get; set; } = -1;

    /// <summary>How often the guest was told of it and has not forgotten it.</summary>
    public ulong Lookups { get; set; }

    /// <summary>Who works with the descriptor at the moment.</summary>
    public int Uses { get; set; }

    /// <summary>The guest has forgotten it: the descriptor is closed with the last use.</summary>
    public bool IsGone { get; set; }

    /// <summary>Where it was last seen, and under which name.</summary>
    public FileNode? Parent { get; set; }
    public byte[]? Name { get; set; }

    /// <summary>Neighbours among those with a descriptor, the most recently used first.</summary>
    public FileNode? Newer { get; set; }
    public FileNode? Older { get; set; }
}

/// <summary>A node whose descriptor stays until this is disposed of; or why there is none.</summary>
internal readonly struct NodeUse(NodeTable? table, FileNode? node, int descriptor, bool isOwn, int error) : IDisposable
{
    public static NodeUse Failed(int error) => new(null, null, -1, false, error);

    /// <summary>0, or an error number: then nothing else is of use.</summary>
    public int Error { get; } = error;

    public FileNode Node => node!;

    /// <summary>Names the file.</summary>
    public int Descriptor { get; } = descriptor;

    public void Dispose()
    {
        if (isOwn) FolderCalls.Close(Descriptor);
        else if (node is not null) table!.EndUse(node);
    }
}

/// <summary>
/// The files that the guest knows: <c>nodeid</c> of the protocol. Each has a descriptor while there are few enough; the others are found again by the names
/// that they were last seen under, from the nearest folder on that has one, and only if that leads to the same file. Thread-safe.
/// </summary>
internal sealed class NodeTable : IDisposable
{
    /// <summary>FUSE_ROOT_ID.</summary>
    public const ulong RootId = 1;

    /// <summary>Most files that a guest can know. Beyond, it is told that there are too many (ENFILE) until it forgets some.</summary>
    public const int MostNodes = 1 << 20;

    /// <summary>A path of more names than any path can have: folders were moved around and seem to be in each other.</summary>
    private const int DeepestPath = FolderCalls.LongestPath / 2;

    private const int LooksForVictim = 8;

    private readonly Lock _lock = new();
    private readonly Dictionary<ulong, FileNode> _byId = [];
    private readonly Dictionary<FileIdentity, FileNode> _byIdentity = [];
    private readonly int _mostDescriptors;
    private readonly FileNode _root;
    private FileNode? _newest, _oldest; // with a descriptor, but for the root
    private int _descriptors, _without;
    private ulong _nextId = RootId + 1;
    private bool _disposed;

    /// <param name="root">Stays open, and is not closed here.</param>
    /// <param name="mostDescriptors">At least 1.</param>
    public NodeTable(int root, in HostFileStatus status, int mostDescriptors)
    {
        _mostDescriptors = mostDescriptors;
        _root = new FileNode(RootId, FileIdentity.Of(status), status.Born, FileBits.Folder) { Descriptor = root, Lookups = 1 };
        _byId[RootId] = _byIdentity[_root.Identity] = _root;
    }

    /// <summary>Files that have no descriptor at the moment.</summary>
    public int WithoutDescriptor => Volatile.Read(ref _without);

    /// <summary>Files that the guest knows.</summary>
    public int Count
    {
        get
        {
            lock (_lock) return _byId.Count;
        }
    }

    /// <summary>Descriptors that name files.</summary>
    public int Descriptors => Volatile.Read(ref _descriptors);

    /// <summary>Gives a node a descriptor for as long as the caller needs it.</summary>
    /// <param name="looks">Only to see what it is, which is all that a node may be used for that <see cref="FileNode.IsBarred"/>.</param>
    public NodeUse Use(ulong id, bool looks = false)
    {
        List<(FileNode Node, byte[] Name)> path;
        FileNode node, from;
        lock (_lock)
        {
            if (_disposed || !_byId.TryGetValue(id, out node!)) return NodeUse.Failed(Errno.Stale);
            if (node.IsBarred && !looks) return NodeUse.Failed(Errno.AccessDenied);
            if (node.Descriptor >= 0) return Begin(node);
            path = [];
            for (from = node; from.Descriptor < 0; from = from.Parent)
            {
                if (from.Name is not { } name || from.Parent is null || path.Count > DeepestPath) return NodeUse.Failed(Errno.Stale);
                path.Add((from, name));
            }
            from.Uses++;
        }
        int errno = Walk(from.Descriptor, path, out int descriptor);
        EndUse(from);
        if (errno != 0) return NodeUse.Failed(errno is Errno.NoEntry or Errno.NotAFolder or Errno.Loop ? Errno.Stale : errno);
        lock (_lock)
        {
            if (node.Descriptor >= 0)
            {
                FolderCalls.Close(descriptor);
                return Begin(node);
            }
            if (_disposed || node.IsGone || !MakeRoom()) return new NodeUse(this, node, descriptor, isOwn: true, 0);
            Adopt(node, descriptor);
            _without--;
            return Begin(node);
        }
    }

    private NodeUse Begin(FileNode node)
    {
        node.Uses++;
        if (node != _root && node.Newer is not null)
        {
            Unlink(node);
            LinkNewest(node);
        }
        return new NodeUse(this, node, node.Descriptor, isOwn: false, 0);
    }

    internal void EndUse(FileNode node)
    {
        int close = -1;
        lock (_lock)
        {
            if (--node.Uses == 0 && node.IsGone) close = TakeDescriptor(node);
        }
        if (close >= 0) FolderCalls.Close(close);
    }

    private static int Walk(int from, List<(FileNode Node, byte[] Name)> path, out int descriptor)
    {
        descriptor = -1;
        for (int n = path.Count - 1; n >= 0; n--)
        {
            int errno = FolderCalls.OpenChild(descriptor >= 0 ? descriptor : from, path[n].Name, out int next);
            if (descriptor >= 0) FolderCalls.Close(descriptor);
            descriptor = next;
            if (errno != 0) return errno;
            errno = FolderCalls.Status(next, out HostFileStatus status);
            if (errno == 0 && (FileIdentity.Of(status) != path[n].Node.Identity || status.Born != path[n].Node.Born)) errno = Errno.Stale;
            if (errno == 0) continue;
            FolderCalls.Close(next);
            return errno;
        }
        return 0;
    }

    /// <summary>The guest is told of a file once more.</summary>
    /// <param name="descriptor">Names it; is the table's from now on, also where this fails.</param>
    /// <param name="isBarred">See <see cref="FileNode.IsBarred"/>; the same each time.</param>
    /// <param name="node">Null where this fails.</param>
    public int Enter(FileNode parent, ReadOnlySpan<byte> name, int descriptor, in HostFileStatus status, bool isBarred, out FileNode? node)
    {
        FileIdentity identity = FileIdentity.Of(status);
        int unused = -1, errno = 0;
        lock (_lock)
        {
            if (_byIdentity.TryGetValue(identity, out node) && node.Descriptor < 0 && node.Born != status.Born)
            {
                // Another file has taken the number of one that is gone.
                _byIdentity.Remove(identity);
                node = null;
            }
            if (_disposed || node is null && _byId.Count >= MostNodes)
            {
                (node, unused, errno) = (null, descriptor, _disposed ? Errno.Stale : Errno.TooManyFilesOfAll);
            }
            else
            {
                if (node is null)
                {
                    node = new FileNode(_nextId++, identity, status.Born, status.Mode & FileBits.Kind, isBarred);
                    _byId[node.Id] = _byIdentity[identity] = node;
                    _without++;
                }
                if (node != _root)
                {
                    node.Parent = parent;
                    if (!name.SequenceEqual(node.Name)) node.Name = name.ToArray();
                }
                if (node.Lookups < ulong.MaxValue) node.Lookups++;
                if (node.Descriptor < 0 && MakeRoom())
                {
                    Adopt(node, descriptor);
                    _without--;
                }
                else
                {
                    unused = descriptor;
                }
            }
        }
        if (unused >= 0) FolderCalls.Close(unused);
        return errno;
    }

    /// <summary>The guest was told of nodes and has forgotten them.</summary>
    public void Forget(ulong id, ulong count)
    {
        int close = -1;
        lock (_lock)
        {
            if (id == RootId || _disposed || !_byId.TryGetValue(id, out FileNode? node)) return;
            node.Lookups -= Math.Min(count, node.Lookups);
            if (node.Lookups > 0) return;
            _byId.Remove(id);
            if (_byIdentity.TryGetValue(node.Identity, out FileNode? own) && own == node) _byIdentity.Remove(node.Identity);
            node.IsGone = true;
            if (node.Descriptor < 0) _without--;
            else if (node.Uses == 0) close = TakeDescriptor(node);
        }
        if (close >= 0) FolderCalls.Close(close);
    }

    /// <summary>A file is about to lose a name, perhaps its last one: where the guest knows it, a descriptor keeps it.</summary>
    public void Keep(int folder, ReadOnlySpan<byte> name)
    {
        if (WithoutDescriptor == 0 || FolderCalls.OpenChild(folder, name, out int descriptor) != 0) return;
        if (FolderCalls.Status(descriptor, out HostFileStatus status) == 0)
        {
            lock (_lock)
            {
                if (!_disposed && _byIdentity.TryGetValue(FileIdentity.Of(status), out FileNode? node) && node.Descriptor < 0 && node.Born == status.Born
                    && MakeRoom())
                {
                    Adopt(node, descriptor);
                    _without--;
                    return;
                }
            }
        }
        FolderCalls.Close(descriptor);
    }

    /// <summary>A file has another name now: what has no descriptor is found by it.</summary>
    public void Moved(FileNode parent, int folder, ReadOnlySpan<byte> name)
    {
        if (FolderCalls.OpenChild(folder, name, out int descriptor) != 0) return;
        if (FolderCalls.Status(descriptor, out HostFileStatus status) == 0)
        {
            lock (_lock)
            {
                if (_byIdentity.TryGetValue(FileIdentity.Of(status), out FileNode? node) && node != _root) (node.Parent, node.Name) = (parent, name.ToArray());
            }
        }
        FolderCalls.Close(descriptor);
    }

    /// <summary>False: there are as many descriptors as may be, and none can be given up.</summary>
    private bool MakeRoom()
    {
        if (_descriptors < _mostDescriptors) return true;
        FileNode? victim = _oldest;
        for (int n = 0; n < LooksForVictim && victim is not null; n++)
        {
            FileNode? newer = victim.Newer;
            // What has no name any more could not be found again.
            if (victim.Uses == 0 && FolderCalls.Status(victim.Descriptor, out HostFileStatus status) == 0 && status.Links > 0)
            {
                FolderCalls.Close(TakeDescriptor(victim));
                _without++;
                return true;
            }
            if (victim != _newest)
            {
                Unlink(victim);
                LinkNewest(victim);
            }
            victim = newer;
        }
        return false;
    }

    private void Adopt(FileNode node, int descriptor)
    {
        node.Descriptor = descriptor;
        _descriptors++;
        LinkNewest(node);
    }

    private int TakeDescriptor(FileNode node)
    {
        int descriptor = node.Descriptor;
        if (descriptor < 0 || node == _root) return -1;
        node.Descriptor = -1;
        _descriptors--;
        Unlink(node);
        return descriptor;
    }

    private void LinkNewest(FileNode node)
    {
        (node.Newer, node.Older) = (null, _newest);
        if (_newest is not null) _newest.Newer = node;
        _newest = node;
        _oldest ??= node;
    }

    private void Unlink(FileNode node)
    {
        if (node.Newer is { } newer) newer.Older = node.Older;
        else _newest = node.Older;
        if (node.Older is { } older) older.Newer = node.Newer;
        else _oldest = node.Newer;
        (node.Newer, node.Older) = (null, null);
    }

    /// <summary>Closes all descriptors, those that are in use when they are not any more.</summary>
    public void Dispose()
    {
        lock (_lock)
        {
            if (_disposed) return;
            _disposed = true;
            foreach (FileNode node in _byId.Values)
            {
                if (node == _root) continue;
                node.IsGone = true;
                if (node.Uses == 0 && node.Descriptor >= 0) FolderCalls.Close(TakeDescriptor(node));
            }
            _byId.Clear();
            _byIdentity.Clear();
        }
    }
}
