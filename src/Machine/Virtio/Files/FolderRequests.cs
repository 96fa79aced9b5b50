using System.Buffers;
using System.Buffers.Binary;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Bunraku.Platform;

namespace Bunraku.Machine.Virtio.Files;

/// <summary>Requests about open folders.</summary>
internal static class FolderRequests
{
    private const int LargestRead = 32 << 10, SmallestRead = 1024;

    // struct linux_dirent64: inode, position of the next one, length, kind, name with NUL.
    private const int NextAt = 8, LengthAt = 16, KindAt = 18, NameAt = 19;

    public static int Open(FuseConnection c, ref FuseRequest request, ref FuseReply reply)
    {
        if (!request.TryTake(out FuseOpenIn _)) return Errno.Invalid;
        using NodeUse folder = c.Nodes.Use(request.Header.Node);
        if (folder.Error != 0) return folder.Error;
        if (folder.Node.Kind != FileBits.Folder) return Errno.NotAFolder;
        if (!c.Handles.HasRoom) return Errno.TooManyFilesOfAll;
        int errno = FolderCalls.ReopenFolder(folder.Descriptor, out int opened);
        if (errno != 0) return errno;
        if (!c.Handles.TryAdd(new FileHandle(opened, folder.Node.Id, isFolder: true, canWrite: false), out ulong id)) return Errno.TooManyFilesOfAll;
        reply.Put(new FuseOpenOut { Handle = id, Flags = c.Cache == FileCache.Always ? FuseOpened.CacheFolder | FuseOpened.KeepCache : FuseOpened.None });
        return 0;
    }

    public static int Read(FuseConnection c, ref FuseRequest request, ref FuseReply reply) => Read(c, ref request, ref reply, plus: false);

    public static int ReadPlus(FuseConnection c, ref FuseRequest request, ref FuseReply reply) => Read(c, ref request, ref reply, plus: true);

    private static int Read(FuseConnection c, ref FuseRequest request, ref FuseReply reply, bool plus)
    {
        if (!request.TryTake(out FuseTransferIn asked) || asked.Offset > long.MaxValue) return Errno.Invalid;
        using HandleUse open = c.Handles.Use(asked.Handle, isFolder: true);
        if (open.Error != 0) return open.Error;
        using NodeUse folder = c.Nodes.Use(open.Handle.Node);
        if (folder.Error != 0) return folder.Error;
        int room = (int)Math.Min(asked.Size, (uint)reply.Room.Length);
        byte[] buffer = ArrayPool<byte>.Shared.Rent(Math.Clamp(room, SmallestRead, LargestRead));
        try
        {
            lock (open.Handle.Reading)
            {
                long at = (long)asked.Offset;
                int errno = FolderCalls.ReadFolder(open.Descriptor, open.Handle.Position == at ? null : at, buffer, out int length);
                open.Handle.Position = null;
                if (errno != 0) return errno;
                int taken = Put(c, folder, buffer.AsSpan(0, length), room, plus, ref reply, out long next);
                if (taken == length && length > 0) open.Handle.Position = next;
                return taken == 0 && length > 0 ? Errno.Invalid : 0; // not even one has room
            }
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(buffer);
        }
    }

    /// <summary>Answers entries as long as there is room.</summary>
    /// <returns>Bytes of the host's entries that were answered.</returns>
    private static int Put(FuseConnection c, in NodeUse folder, ReadOnlySpan<byte> entries, int room, bool plus, ref FuseReply reply, out long next)
    {
        next = 0;
        int taken = 0;
        int extra = plus ? Unsafe.SizeOf<FuseEntryOut>() : 0;
        while (taken < entries.Length)
        {
            ReadOnlySpan<byte> entry = entries[taken..];
            entry = entry[..BinaryPrimitives.ReadUInt16LittleEndian(entry[LengthAt..])];
            ReadOnlySpan<byte> name = entry[NameAt..];
            name = name[..name.IndexOf((byte)0)];
            int length = extra + FuseFolderEntry.Length(name.Length);
            if (reply.Length + length > room || reply.Room.Length < length) break;
            var answer = new FuseFolderEntry
            {
                Inode = c.InodeOf(folder.Node.Identity with { Inode = BinaryPrimitives.ReadUInt64LittleEndian(entry) }),
                Offset = (ulong)BinaryPrimitives.ReadInt64LittleEndian(entry[NextAt..]),
                NameLength = (uint)name.Length,
                Type = entry[KindAt],
            };
            bool isUp = name.SequenceEqual(".."u8);
            // What lies above the folder is nothing of the guest's.
            if (isUp && folder.Node.Id == NodeTable.RootId) answer.Inode = c.InodeOf(folder.Node.Identity);
            if (plus) Tell(c, folder, name, isUp || name.SequenceEqual("."u8), ref answer, ref reply);
            Span<byte> place = reply.Room[..FuseFolderEntry.Length(name.Length)];
            place.Clear();
            MemoryMarshal.Write(place, answer);
            name.CopyTo(place[FuseFolderEntry.Size..]);
            reply.Advance(place.Length);
            taken += entry.Length;
            next = (long)answer.Offset;
        }
        return taken;
    }

    /// <summary>Answers what LOOKUP would, in front of an entry. What cannot be told is left to a LOOKUP.</summary>
    private static void Tell(
        FuseConnection c, in NodeUse folder, ReadOnlySpan<byte> name, bool isDots, ref FuseFolderEntry entry, ref FuseReply reply)
    {
        if (!isDots && FolderCalls.OpenChild(folder.Descriptor, name, out int descriptor) == 0
            && c.PutEntry(folder.Node, name, descriptor, ref reply, out _) == 0)
        {
            FuseAttributes told = MemoryMarshal.Read<FuseEntryOut>(reply.Last(Unsafe.SizeOf<FuseEntryOut>())).Attributes;
            (entry.Inode, entry.Type) = (told.Inode, told.Mode >> 12);
        }
        else
        {
            reply.Put(c.Entry(0, new FuseAttributes { Inode = entry.Inode, Mode = entry.Type << 12 }));
        }
    }

    public static int Sync(FuseConnection c, ref FuseRequest request, ref FuseReply reply)
    {
        if (!request.TryTake(out FuseHandleIn asked)) return Errno.Invalid;
        using HandleUse open = c.Handles.Use(asked.Handle, isFolder: true);
        return open.Error != 0 ? open.Error : FolderCalls.Sync(open.Descriptor, (asked.Flags & 1) != 0);
    }

    public static int SyncAll(FuseConnection c, ref FuseRequest request, ref FuseReply reply)
    {
        using NodeUse folder = c.Nodes.Use(NodeTable.RootId);
        if (folder.Error != 0) return folder.Error;
        int errno = FolderCalls.ReopenFolder(folder.Descriptor, out int opened);
        if (errno != 0) return errno;
        errno = FolderCalls.SyncFileSystem(opened);
        FolderCalls.Close(opened);
        return errno;
    }
}
