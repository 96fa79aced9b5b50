using Bunraku.Platform;

namespace Bunraku.Machine.Virtio.Files;

/// <summary>Requests about names: what they lead to, making, removing and moving them.</summary>
internal static class NameRequests
{
    // renameat2(2).
    private const uint NoReplace = 1, Exchange = 2;

    public static int Lookup(FuseConnection c, ref FuseRequest request, ref FuseReply reply)
    {
        if (!request.TryTakeText(out ReadOnlySpan<byte> name)) return Errno.Invalid;
        if (FuseConnection.CheckName(name) is var wrong and not 0) return wrong;
        using NodeUse folder = c.Nodes.Use(request.Header.Node);
        if (folder.Error != 0) return folder.Error;
        int errno = FolderCalls.OpenChild(folder.Descriptor, name, out int descriptor);
        if (errno == Errno.NoEntry && c.Cache == FileCache.Always)
        {
            reply.Put(c.Entry(0, default)); // nobody else makes it: the guest need not ask again
            return 0;
        }
        return errno != 0 ? errno : c.PutEntry(folder.Node, name, descriptor, ref reply, out _);
    }

    public static int ReadLink(FuseConnection c, ref FuseRequest request, ref FuseReply reply)
    {
        using NodeUse link = c.Nodes.Use(request.Header.Node);
        if (link.Error != 0) return link.Error;
        if (link.Node.Kind != FileBits.Link) return Errno.Invalid;
        int errno = FolderCalls.ReadLink(link.Descriptor, reply.Room[..Math.Min(reply.Room.Length, FolderCalls.LongestPath)], out int length);
        if (errno == 0) reply.Advance(length);
        return errno;
    }

    public static int SymbolicLink(FuseConnection c, ref FuseRequest request, ref FuseReply reply)
    {
        if (!request.TryTakeText(out ReadOnlySpan<byte> name) || !request.TryTakeText(out ReadOnlySpan<byte> target)) return Errno.Invalid;
        if (FuseConnection.CheckName(name) is var wrong and not 0) return wrong;
        using NodeUse folder = c.Nodes.Use(request.Header.Node);
        if (folder.Error != 0) return folder.Error;
        int errno = c.OwnersOfNew(request.Header, folder.Descriptor, FileBits.Link | FileBits.Permissions, out GuestStatus wanted);
        if (errno == 0) errno = FolderCalls.MakeSymbolicLink(target, folder.Descriptor, name);
        return errno != 0 ? errno : TellNew(c, folder, name, FileBits.Link, wanted, isFolder: false, ref reply);
    }

    public static int MakeFolder(FuseConnection c, ref FuseRequest request, ref FuseReply reply)
    {
        if (!request.TryTake(out FuseMakeFolderIn asked) || !request.TryTakeText(out ReadOnlySpan<byte> name)) return Errno.Invalid;
        if (FuseConnection.CheckName(name) is var wrong and not 0) return wrong;
        using NodeUse folder = c.Nodes.Use(request.Header.Node);
        if (folder.Error != 0) return folder.Error;
        int errno = c.OwnersOfNew(request.Header, folder.Descriptor, FileBits.Folder | asked.Mode & FileBits.All, out GuestStatus wanted);
        if (errno == 0) errno = FolderCalls.MakeFolder(folder.Descriptor, name, c.Owners.FirstMode(wanted));
        return errno != 0 ? errno : TellNew(c, folder, name, FileBits.Folder, wanted, isFolder: true, ref reply);
    }

    public static int MakeNode(FuseConnection c, ref FuseRequest request, ref FuseReply reply)
    {
        if (!request.TryTake(out FuseMakeNodeIn asked) || !request.TryTakeText(out ReadOnlySpan<byte> name)) return Errno.Invalid;
        if (FuseConnection.CheckName(name) is var wrong and not 0) return wrong;
        uint kind = asked.Mode & FileBits.Kind;
        if (kind is not (FileBits.Regular or FileBits.Fifo or FileBits.Socket or FileBits.Character or FileBits.Block)) return Errno.Invalid;
        uint hostKind = kind == FileBits.Regular ? kind : c.Owners.HostKind(kind);
        if (hostKind == 0) return Errno.NotPermitted;
        using NodeUse folder = c.Nodes.Use(request.Header.Node);
        if (folder.Error != 0) return folder.Error;
        int errno = c.OwnersOfNew(request.Header, folder.Descriptor, kind | asked.Mode & FileBits.All, out GuestStatus wanted);
        if (errno != 0) return errno;
        if (kind is FileBits.Character or FileBits.Block)
            wanted = wanted with { Major = asked.Device >> 8 & 0xFFF, Minor = asked.Device & 0xFF | asked.Device >> 12 & 0xF_FF00 };
        if (hostKind == FileBits.Regular)
        {
            errno = FolderCalls.CreateFile(folder.Descriptor, name, FileAccessMode.Read, c.Owners.FirstMode(wanted), out int opened);
            if (errno == 0) FolderCalls.Close(opened);
        }
        else
        {
            errno = FolderCalls.MakeNode(folder.Descriptor, name, hostKind | c.Owners.FirstMode(wanted));
        }
        return errno != 0 ? errno : TellNew(c, folder, name, hostKind, wanted, isFolder: false, ref reply);
    }

    /// <summary>Something new was made on the host: it gets its owner, or is taken away again, and the guest is told of it.</summary>
    private static int TellNew(
        FuseConnection c, in NodeUse folder, ReadOnlySpan<byte> name, uint hostKind, GuestStatus wanted, bool isFolder, ref FuseReply reply)
    {
        int errno = FolderCalls.OpenChild(folder.Descriptor, name, out int descriptor);
        if (errno != 0) return errno;
        errno = c.Finish(descriptor, hostKind, wanted);
        if (errno == 0) return c.PutEntry(folder.Node, name, descriptor, ref reply, out _);
        FolderCalls.Close(descriptor);
        _ = FolderCalls.Remove(folder.Descriptor, name, isFolder);
        return errno;
    }

    public static int Unlink(FuseConnection c, ref FuseRequest request, ref FuseReply reply) => Remove(c, ref request, isFolder: false);

    public static int RemoveFolder(FuseConnection c, ref FuseRequest request, ref FuseReply reply) => Remove(c, ref request, isFolder: true);

    private static int Remove(FuseConnection c, ref FuseRequest request, bool isFolder)
    {
        if (!request.TryTakeText(out ReadOnlySpan<byte> name)) return Errno.Invalid;
        if (FuseConnection.CheckName(name) is var wrong and not 0) return wrong;
        using NodeUse folder = c.Nodes.Use(request.Header.Node);
        if (folder.Error != 0) return folder.Error;
        c.Nodes.Keep(folder.Descriptor, name);
        return FolderCalls.Remove(folder.Descriptor, name, isFolder);
    }

    public static int Rename(FuseConnection c, ref FuseRequest request, ref FuseReply reply) =>
        request.TryTake(out ulong newFolder) ? Rename(c, ref request, newFolder, 0) : Errno.Invalid;

    public static int Rename2(FuseConnection c, ref FuseRequest request, ref FuseReply reply)
    {
        if (!request.TryTake(out FuseRename2In asked)) return Errno.Invalid;
        return asked.Flags is 0 or NoReplace or Exchange ? Rename(c, ref request, asked.NewFolder, asked.Flags) : Errno.Invalid;
    }

    private static int Rename(FuseConnection c, ref FuseRequest request, ulong newFolder, uint flags)
    {
        if (!request.TryTakeText(out ReadOnlySpan<byte> oldName) || !request.TryTakeText(out ReadOnlySpan<byte> name)) return Errno.Invalid;
        if (FuseConnection.CheckName(oldName) is var wrong and not 0) return wrong;
        if (FuseConnection.CheckName(name) is var wrongToo and not 0) return wrongToo;
        using NodeUse from = c.Nodes.Use(request.Header.Node);
        if (from.Error != 0) return from.Error;
        using NodeUse to = c.Nodes.Use(newFolder);
        if (to.Error != 0) return to.Error;
        if (flags == 0) c.Nodes.Keep(to.Descriptor, name);
        int errno = FolderCalls.Rename(from.Descriptor, oldName, to.Descriptor, name, flags);
        if (errno != 0) return errno;
        c.Nodes.Moved(to.Node, to.Descriptor, name);
        if (flags == Exchange) c.Nodes.Moved(from.Node, from.Descriptor, oldName);
        return 0;
    }

    public static int Link(FuseConnection c, ref FuseRequest request, ref FuseReply reply)
    {
        if (!request.TryTake(out ulong id) || !request.TryTakeText(out ReadOnlySpan<byte> name)) return Errno.Invalid;
        if (FuseConnection.CheckName(name) is var wrong and not 0) return wrong;
        using NodeUse folder = c.Nodes.Use(request.Header.Node);
        if (folder.Error != 0) return folder.Error;
        using NodeUse file = c.Nodes.Use(id);
        if (file.Error != 0) return file.Error;
        if (file.Node.Kind == FileBits.Folder) return Errno.NotPermitted;
        int errno = FolderCalls.MakeHardLink(file.Descriptor, folder.Descriptor, name);
        if (errno != 0) return errno;
        errno = FolderCalls.OpenChild(folder.Descriptor, name, out int descriptor);
        return errno != 0 ? errno : c.PutEntry(folder.Node, name, descriptor, ref reply, out _);
    }
}
