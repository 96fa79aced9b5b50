using Bunraku.Platform;

namespace Bunraku.Machine.Virtio.Files;

/// <summary>Requests about open files.</summary>
internal static class FileRequests
{
    /// <summary>Bytes that one request copies: a longer one ends early, as it may, and does not keep others waiting.</summary>
    private const ulong LongestCopy = 64 << 20;

    // fallocate(2): the length stays; a hole; zeros.
    private const uint KeepSize = 1, PunchHole = 2, ZeroRange = 16;

    private static FileAccessMode Access(FuseConnection c, uint flags) => (flags & FileBits.AccessMask) switch
    {
        // The guest's pages are filled up from the host before a part of them is written.
        FileBits.WriteOnly => c.HasWriteback ? FileAccessMode.ReadWrite : FileAccessMode.Write,
        FileBits.ReadWrite => FileAccessMode.ReadWrite,
        _ => FileAccessMode.Read,
    };

    private static FuseOpened Opened(FuseConnection c, FileAccessMode access) => (c.Cache == FileCache.Always ? FuseOpened.KeepCache : FuseOpened.None)
        | (access == FileAccessMode.Read ? FuseOpened.NoFlush : FuseOpened.None);

    public static int Open(FuseConnection c, ref FuseRequest request, ref FuseReply reply)
    {
        if (!request.TryTake(out FuseOpenIn asked)) return Errno.Invalid;
        using NodeUse file = c.Nodes.Use(request.Header.Node);
        if (file.Error != 0) return file.Error;
        bool kills = (asked.OpenFlags & FuseOpenIn.KillPrivileges) != 0;
        int errno = Open(c, file.Node, file.Descriptor, asked.Flags, kills, out FuseOpenOut opened);
        if (errno == 0) reply.Put(opened);
        return errno;
    }

    private static int Open(FuseConnection c, FileNode node, int descriptor, uint flags, bool kills, out FuseOpenOut answer)
    {
        answer = default;
        FileAccessMode access = Access(c, flags);
        bool truncate = (flags & FileBits.Truncate) != 0;
        if (c.IsReadOnly && (access != FileAccessMode.Read || truncate)) return Errno.ReadOnly;
        // Never anything else: a FIFO would wait, a device do something.
        if (node.Kind != FileBits.Regular) return node.Kind == FileBits.Folder ? Errno.IsAFolder : Errno.AccessDenied;
        if (!c.Handles.HasRoom) return Errno.TooManyFilesOfAll;
        int errno = FolderCalls.Status(descriptor, out HostFileStatus status);
        if (errno != 0) return errno;
        if (c.Owners.See(descriptor, status).Kind != FileBits.Regular) return Errno.AccessDenied; // a device node of the guest's
        if (truncate && kills) errno = c.KillPrivileges(descriptor);
        if (errno != 0) return errno;
        errno = FolderCalls.Reopen(descriptor, access, truncate, out int opened);
        if (errno == Errno.AccessDenied && access == FileAccessMode.ReadWrite && (flags & FileBits.AccessMask) == FileBits.WriteOnly)
            errno = FolderCalls.Reopen(descriptor, access = FileAccessMode.Write, truncate, out opened);
        return errno != 0 ? errno : Add(c, new FileHandle(opened, node.Id, isFolder: false, access != FileAccessMode.Read), access, out answer);
    }

    private static int Add(FuseConnection c, FileHandle handle, FileAccessMode access, out FuseOpenOut answer)
    {
        bool added = c.Handles.TryAdd(handle, out ulong id);
        answer = new FuseOpenOut { Handle = id, Flags = Opened(c, access) };
        return added ? 0 : Errno.TooManyFilesOfAll;
    }

    public static int Create(FuseConnection c, ref FuseRequest request, ref FuseReply reply)
    {
        if (!request.TryTake(out FuseCreateIn asked) || !request.TryTakeText(out ReadOnlySpan<byte> name)) return Errno.Invalid;
        if (FuseConnection.CheckName(name) is var wrong and not 0) return wrong;
        using NodeUse folder = c.Nodes.Use(request.Header.Node);
        if (folder.Error != 0) return folder.Error;
        if (!c.Handles.HasRoom) return Errno.TooManyFilesOfAll;
        int errno = c.OwnersOfNew(request.Header, folder.Descriptor, FileBits.Regular | asked.Mode & FileBits.All, out GuestStatus wanted);
        if (errno != 0) return errno;
        FileAccessMode access = Access(c, asked.Flags);
        errno = FolderCalls.CreateFile(folder.Descriptor, name, access, c.Owners.FirstMode(wanted), out int opened);
        if (errno == Errno.Exists && (asked.Flags & FileBits.Exclusive) == 0) return OpenExisting(c, folder, name, asked, ref reply);
        if (errno != 0) return errno;
        // By what was opened, and not by the name.
        errno = FolderCalls.Name(opened, out int descriptor);
        if (errno == 0) errno = c.Finish(descriptor, FileBits.Regular, wanted);
        if (errno != 0)
        {
            if (descriptor >= 0) FolderCalls.Close(descriptor);
            FolderCalls.Close(opened);
            _ = FolderCalls.Remove(folder.Descriptor, name, isFolder: false);
            return errno;
        }
        errno = c.PutEntry(folder.Node, name, descriptor, ref reply, out FileNode? node);
        if (errno != 0)
        {
            FolderCalls.Close(opened);
            return errno;
        }
        errno = Add(c, new FileHandle(opened, node!.Id, isFolder: false, access != FileAccessMode.Read), access, out FuseOpenOut answer);
        if (errno == 0) reply.Put(answer);
        else c.Nodes.Forget(node.Id, 1);
        return errno;
    }

    /// <summary>Somebody else was quicker.</summary>
    private static int OpenExisting(FuseConnection c, in NodeUse folder, ReadOnlySpan<byte> name, in FuseCreateIn asked, ref FuseReply reply)
    {
        int errno = FolderCalls.OpenChild(folder.Descriptor, name, out int descriptor);
        if (errno != 0) return errno;
        errno = c.PutEntry(folder.Node, name, descriptor, ref reply, out FileNode? node);
        if (errno != 0) return errno;
        using NodeUse file = c.Nodes.Use(node!.Id);
        errno = file.Error;
        FuseOpenOut opened = default;
        if (errno == 0)
            errno = node.Kind == FileBits.Link ? Errno.Loop
                : Open(c, node, file.Descriptor, asked.Flags, (asked.OpenFlags & FuseOpenIn.KillPrivileges) != 0, out opened);
        if (errno == 0) reply.Put(opened);
        else c.Nodes.Forget(node.Id, 1);
        return errno;
    }

    public static int Read(FuseConnection c, ref FuseRequest request, ref FuseReply reply)
    {
        if (!request.TryTake(out FuseTransferIn asked) || asked.Offset > long.MaxValue) return Errno.Invalid;
        int length = (int)Math.Min(asked.Size, (uint)Math.Min(reply.Room.Length, FuseServer.LargestTransfer));
        int errno = ReadAt(c, asked.Handle, (long)asked.Offset, reply.Room[..length], out int done);
        if (errno == 0) reply.Advance(done);
        return errno;
    }

    public static int ReadAt(FuseConnection c, ulong handle, long offset, Span<byte> room, out int done)
    {
        done = 0;
        using HandleUse open = c.Handles.Use(handle, isFolder: false);
        return open.Error != 0 ? open.Error : FolderCalls.Read(open.Descriptor, offset, room, out done);
    }

    public static int Write(FuseConnection c, ref FuseRequest request, ref FuseReply reply)
    {
        if (!request.TryTake(out FuseTransferIn asked) || asked.Offset > long.MaxValue || asked.Size > request.Rest.Length) return Errno.Invalid;
        // Pages of the cache go where they belong, by whatever handle they come; a write that appends goes to where the file ends now.
        bool append = (asked.Flags & FileBits.Append) != 0 && (asked.TransferFlags & FuseTransferIn.FromCache) == 0;
        bool kills = (asked.TransferFlags & FuseTransferIn.KillPrivileges) != 0;
        int errno = WriteAt(c, asked.Handle, (long)asked.Offset, request.Rest[..(int)asked.Size], append, kills, out int done);
        if (errno == 0) reply.Put(new FuseSizeOut { Size = (uint)done });
        return errno;
    }

    public static int WriteAt(FuseConnection c, ulong handle, long offset, ReadOnlySpan<byte> data, bool append, bool kills, out int done)
    {
        done = 0;
        using HandleUse open = c.Handles.Use(handle, isFolder: false);
        if (open.Error != 0) return open.Error;
        if (!open.Handle.CanWrite) return Errno.BadDescriptor;
        if (kills)
        {
            using NodeUse file = c.Nodes.Use(open.Handle.Node);
            if (file.Error == 0 && c.KillPrivileges(file.Descriptor) is var denied and not 0) return denied;
        }
        return FolderCalls.Write(open.Descriptor, offset, data, append, out done);
    }

    public static int Flush(FuseConnection c, ref FuseRequest request, ref FuseReply reply)
    {
        if (!request.TryTake(out FuseHandleIn asked)) return Errno.Invalid;
        using HandleUse open = c.Handles.Use(asked.Handle, isFolder: false);
        return open.Error != 0 ? open.Error : FolderCalls.Flush(open.Descriptor);
    }

    public static int Sync(FuseConnection c, ref FuseRequest request, ref FuseReply reply)
    {
        if (!request.TryTake(out FuseHandleIn asked)) return Errno.Invalid;
        using HandleUse open = c.Handles.Use(asked.Handle, isFolder: false);
        return open.Error != 0 ? open.Error : FolderCalls.Sync(open.Descriptor, (asked.Flags & 1) != 0);
    }

    public static int Release(FuseConnection c, ref FuseRequest request, ref FuseReply reply) =>
        !request.TryTake(out FuseHandleIn asked) ? Errno.Invalid : c.Handles.Remove(asked.Handle) ? 0 : Errno.BadDescriptor;

    public static int Allocate(FuseConnection c, ref FuseRequest request, ref FuseReply reply)
    {
        if (!request.TryTake(out FuseAllocateIn asked) || asked.Offset > long.MaxValue || asked.Length > long.MaxValue) return Errno.Invalid;
        if ((asked.Mode & ~(KeepSize | PunchHole | ZeroRange)) != 0) return Errno.NotSupported;
        using HandleUse open = c.Handles.Use(asked.Handle, isFolder: false);
        return open.Error != 0 ? open.Error : FolderCalls.Allocate(open.Descriptor, (int)asked.Mode, (long)asked.Offset, (long)asked.Length);
    }

    public static int Seek(FuseConnection c, ref FuseRequest request, ref FuseReply reply)
    {
        if (!request.TryTake(out FuseSeekIn asked) || asked.Offset > long.MaxValue || asked.Whence is not (FuseSeekIn.Data or FuseSeekIn.Hole))
            return Errno.Invalid;
        using HandleUse open = c.Handles.Use(asked.Handle, isFolder: false);
        if (open.Error != 0) return open.Error;
        int errno = FolderCalls.FindData(open.Descriptor, (long)asked.Offset, asked.Whence == FuseSeekIn.Hole, out long found);
        if (errno == 0) reply.Put((ulong)found);
        return errno;
    }

    public static int CopyRange(FuseConnection c, ref FuseRequest request, ref FuseReply reply)
    {
        if (!request.TryTake(out FuseCopyRangeIn asked) || asked.Flags != 0 || asked.OffsetIn > long.MaxValue || asked.OffsetOut > long.MaxValue)
            return Errno.Invalid;
        using HandleUse from = c.Handles.Use(asked.HandleIn, isFolder: false);
        if (from.Error != 0) return from.Error;
        using HandleUse to = c.Handles.Use(asked.HandleOut, isFolder: false);
        if (to.Error != 0) return to.Error;
        int errno = FolderCalls.Copy(
            from.Descriptor, (long)asked.OffsetIn, to.Descriptor, (long)asked.OffsetOut, Math.Min(asked.Length, LongestCopy), out long done);
        if (errno == 0) reply.Put(new FuseSizeOut { Size = (uint)done });
        return errno;
    }
}
