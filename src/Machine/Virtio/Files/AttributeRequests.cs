using Bunraku.Platform;

namespace Bunraku.Machine.Virtio.Files;

/// <summary>Requests about what files are: attributes, and the file system.</summary>
internal static class AttributeRequests
{
    public static int Get(FuseConnection c, ref FuseRequest request, ref FuseReply reply)
    {
        if (!request.TryTake(out FuseGetAttributesIn _)) return Errno.Invalid; // an open file is the same file
        using NodeUse file = c.Nodes.Use(request.Header.Node, looks: true);
        return file.Error != 0 ? file.Error : c.PutAttributes(file.Descriptor, ref reply);
    }

    public static int Set(FuseConnection c, ref FuseRequest request, ref FuseReply reply)
    {
        if (!request.TryTake(out FuseSetAttributesIn asked)) return Errno.Invalid;
        using NodeUse file = c.Nodes.Use(request.Header.Node);
        if (file.Error != 0) return file.Error;
        int errno = SetOwners(c, file.Descriptor, asked);
        if (errno == 0 && asked.Valid.HasFlag(FuseSet.Size)) errno = SetSize(c, file, asked);
        if (errno == 0) errno = SetTimes(file.Descriptor, asked);
        return errno != 0 ? errno : c.PutAttributes(file.Descriptor, ref reply);
    }

    private static int SetOwners(FuseConnection c, int descriptor, in FuseSetAttributesIn asked)
    {
        const FuseSet owners = FuseSet.User | FuseSet.Group;
        if ((asked.Valid & (owners | FuseSet.Mode | FuseSet.KillPrivileges)) == 0) return 0;
        int errno = FolderCalls.Status(descriptor, out HostFileStatus status);
        if (errno != 0) return errno;
        GuestStatus seen = c.Owners.See(descriptor, status), wanted = seen;
        if (asked.Valid.HasFlag(FuseSet.User)) wanted = wanted with { User = asked.User };
        if (asked.Valid.HasFlag(FuseSet.Group)) wanted = wanted with { Group = asked.Group };
        if (asked.Valid.HasFlag(FuseSet.Mode)) wanted = wanted with { Mode = wanted.Kind | asked.Mode & FileBits.All };
        else if ((asked.Valid & (owners | FuseSet.KillPrivileges)) != 0) wanted = wanted.WithoutPrivileges();
        if (wanted.User == uint.MaxValue || wanted.Group == uint.MaxValue) return Errno.Invalid; // to the host it would mean something else
        return c.Owners.Change(descriptor, status, seen, wanted);
    }

    private static int SetSize(FuseConnection c, in NodeUse file, in FuseSetAttributesIn asked)
    {
        if (file.Node.Kind != FileBits.Regular) return file.Node.Kind == FileBits.Folder ? Errno.IsAFolder : Errno.Invalid;
        if (asked.Size > long.MaxValue) return Errno.Invalid;
        if (asked.Valid.HasFlag(FuseSet.Handle))
        {
            using HandleUse open = c.Handles.Use(asked.Handle, isFolder: false);
            if (open.Error == 0 && open.Handle.CanWrite && open.Handle.Node == file.Node.Id)
                return FolderCalls.SetLength(open.Descriptor, isOpen: true, (long)asked.Size);
        }
        return FolderCalls.SetLength(file.Descriptor, isOpen: false, (long)asked.Size);
    }

    private static int SetTimes(int descriptor, in FuseSetAttributesIn asked)
    {
        if ((asked.Valid & (FuseSet.Accessed | FuseSet.Modified)) == 0) return 0;
        return FolderCalls.SetTimes(descriptor,
            Time(asked.Valid.HasFlag(FuseSet.Accessed), asked.Valid.HasFlag(FuseSet.AccessedNow), asked.Accessed, asked.AccessedNs),
            Time(asked.Valid.HasFlag(FuseSet.Modified), asked.Valid.HasFlag(FuseSet.ModifiedNow), asked.Modified, asked.ModifiedNs));
    }

    private static HostFileTime Time(bool isSet, bool isNow, ulong seconds, uint nanoseconds) => new()
    {
        Seconds = isSet && !isNow ? (long)seconds : 0,
        // The host refuses what is no number of nanoseconds, but for its own two words.
        Nanoseconds = !isSet ? HostFileTime.Keep : isNow ? HostFileTime.Now : Math.Min(nanoseconds, 999_999_999),
    };

    public static int FileSystem(FuseConnection c, ref FuseRequest request, ref FuseReply reply)
    {
        using NodeUse file = c.Nodes.Use(request.Header.Node);
        if (file.Error != 0) return file.Error;
        int errno = FolderCalls.FileSystem(file.Descriptor, out HostFileSystem s);
        if (errno != 0) return errno;
        reply.Put(new FuseFileSystem
        {
            Blocks = s.Blocks,
            Free = s.Free,
            Available = s.Available,
            Files = s.Files,
            FreeFiles = s.FreeFiles,
            BlockSize = (uint)s.BlockSize,
            LongestName = s.LongestName,
            Unit = (uint)s.Unit,
        });
        return 0;
    }
}
