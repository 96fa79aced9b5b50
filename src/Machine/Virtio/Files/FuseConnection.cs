using System.Runtime.InteropServices;
using Bunraku.Platform;

namespace Bunraku.Machine.Virtio.Files;

/// <summary>What lives from a guest's INIT until it unmounts: the files that it knows, those that it has open, and what was agreed on.</summary>
internal sealed class FuseConnection(SharedFolder folder, FuseFeature features) : IDisposable
{
    private const ulong ForEver = 1 << 30; // seconds

    private readonly Lock _devicesLock = new();
    private readonly List<ulong> _devices = [(ulong)folder.RootStatus.DeviceMajor << 32 | folder.RootStatus.DeviceMinor];

    public NodeTable Nodes { get; } = new(folder.Root, folder.RootStatus, folder.MostDescriptors / 2);
    public HandleTable Handles { get; } = new(folder.MostDescriptors / 2);
    public OwnerPolicy Owners { get; } = OwnerPolicy.For(folder.Owners);
    public bool IsReadOnly => folder.IsReadOnly;
    public FileCache Cache => folder.Cache;

    /// <summary>Writes may wait in the guest's pages, which reads through handles that only write.</summary>
    public bool HasWriteback => features.HasFlag(FuseFeature.WritebackCache);

    private ulong Seconds => folder.Cache switch { FileCache.Auto => 1, FileCache.Always => ForEver, _ => 0 };

    /// <summary>A name of the guest's: one step in a folder, and nothing else.</summary>
    public static int CheckName(ReadOnlySpan<byte> name)
    {
        if (name.Length > FolderCalls.LongestName) return Errno.NameTooLong;
        return name.IsEmpty || name.Contains((byte)'/') || name.SequenceEqual("."u8) || name.SequenceEqual(".."u8) ? Errno.Invalid : 0;
    }

    /// <summary>Numbers of files of other file systems that are mounted in the folder could be the same: each file system has its own upper bits.</summary>
    public ulong InodeOf(in HostFileStatus status) => InodeOf(FileIdentity.Of(status));

    public ulong InodeOf(FileIdentity identity)
    {
        const int shift = 48, most = 1 << 15;
        if (identity.Device == _devices[0]) return identity.Inode;
        lock (_devicesLock)
        {
            int n = _devices.IndexOf(identity.Device);
            if (n < 0 && _devices.Count < most)
            {
                n = _devices.Count;
                _devices.Add(identity.Device);
            }
            return identity.Inode ^ (ulong)(uint)n << shift;
        }
    }

    /// <summary>What the guest is told of a file.</summary>
    public FuseAttributes Describe(in HostFileStatus status, GuestStatus seen) => new()
    {
        Inode = InodeOf(status),
        Size = status.Size,
        Blocks = status.Blocks,
        Accessed = (ulong)status.Accessed.Seconds,
        Modified = (ulong)status.Modified.Seconds,
        Changed = (ulong)status.Changed.Seconds,
        AccessedNs = status.Accessed.Nanoseconds,
        ModifiedNs = status.Modified.Nanoseconds,
        ChangedNs = status.Changed.Nanoseconds,
        Mode = seen.Mode,
        Links = status.Links,
        User = seen.User,
        Group = seen.Group,
        Device = seen.Minor & 0xFF | seen.Major << 8 | (seen.Minor & ~0xFFu) << 12, // new_encode_dev of linux/kdev_t.h
        BlockSize = status.BlockSize,
    };

    /// <summary>Answers what the guest sees of a file.</summary>
    public int PutAttributes(int descriptor, ref FuseReply reply)
    {
        int errno = FolderCalls.Status(descriptor, out HostFileStatus status);
        if (errno == 0) reply.Put(new FuseAttributesOut { Valid = Seconds, Attributes = Describe(status, Owners.See(descriptor, status)) });
        return errno;
    }

    /// <summary>Answers a file that the guest is told of, and counts that it was.</summary>
    /// <param name="descriptor">Names it; is the table's from now on, also where this fails.</param>
    public int PutEntry(FileNode parent, ReadOnlySpan<byte> name, int descriptor, ref FuseReply reply, out FileNode? node)
    {
        node = null;
        int errno = FolderCalls.Status(descriptor, out HostFileStatus status);
        bool isKernels = errno == 0 && (status.DeviceMajor, status.DeviceMinor) != (folder.RootStatus.DeviceMajor, folder.RootStatus.DeviceMinor)
            && FolderCalls.IsKernels(descriptor);
        // A guest whose root folder this is mounts its own over it.
        if (isKernels && (status.Mode & FileBits.Kind) != FileBits.Folder) errno = Errno.AccessDenied;
        if (errno != 0)
        {
            FolderCalls.Close(descriptor);
            return errno;
        }
        GuestStatus seen = Owners.See(descriptor, status); // before the descriptor is another's
        errno = Nodes.Enter(parent, name, descriptor, status, isKernels, out node);
        if (errno == 0) reply.Put(Entry(node!.Id, Describe(status, seen)));
        return errno;
    }

    /// <summary>What the guest is told of a name.</summary>
    /// <param name="node">0: only what it is, not by which number it is known.</param>
    public FuseEntryOut Entry(ulong node, in FuseAttributes attributes) =>
        new() { Node = node, EntryValid = Seconds, AttributesValid = Seconds, Attributes = attributes };

    /// <summary>Whose a new file is: the caller's, but the group of a folder that hands its own on, as Linux has it.</summary>
    public int OwnersOfNew(in FuseInHeader caller, int folder, uint mode, out GuestStatus wanted)
    {
        wanted = new GuestStatus(mode, caller.User, caller.Group);
        int errno = FolderCalls.Status(folder, out HostFileStatus status);
        if (errno != 0) return errno;
        GuestStatus above = Owners.See(folder, status);
        if ((above.Mode & FileBits.SetGroup) == 0) return 0;
        wanted = wanted with { Group = above.Group, Mode = wanted.Kind == FileBits.Folder ? wanted.Mode | FileBits.SetGroup : wanted.Mode };
        return 0;
    }

    /// <summary>Gives something new that was made on the host the owner and permissions that the guest wants.</summary>
    /// <param name="hostKind">What it is on the host; another kind is not what was made.</param>
    public int Finish(int descriptor, uint hostKind, GuestStatus wanted)
    {
        int errno = FolderCalls.Status(descriptor, out HostFileStatus status);
        if (errno != 0) return errno;
        if ((status.Mode & FileBits.Kind) != hostKind) return Errno.Io;
        return Owners.Change(descriptor, status, Owners.See(descriptor, status), wanted);
    }

    /// <summary>Takes set-user-ID and such away, as Linux does before a write.</summary>
    public int KillPrivileges(int descriptor)
    {
        int errno = FolderCalls.Status(descriptor, out HostFileStatus status);
        if (errno != 0) return errno;
        GuestStatus seen = Owners.See(descriptor, status);
        return Owners.Change(descriptor, status, seen, seen.WithoutPrivileges());
    }

    public void Dispose()
    {
        Handles.Dispose();
        Nodes.Dispose();
    }
}
