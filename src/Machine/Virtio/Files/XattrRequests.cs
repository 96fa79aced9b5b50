using System.Buffers;
using Bunraku.Platform;

namespace Bunraku.Machine.Virtio.Files;

/// <summary>
/// Requests about extended attributes. The guest has those of users (<c>user.</c>) alone: the others say what a file may do on the host. Our own are not the
/// guest's.
/// </summary>
internal static class XattrRequests
{
    /// <summary>XATTR_SIZE_MAX, XATTR_LIST_MAX of linux/limits.h.</summary>
    private const int Largest = 64 << 10;

    private static bool IsGuests(ReadOnlySpan<byte> name) => name.StartsWith("user."u8) && !OwnerPolicy.IsOurs(name);

    public static int Get(FuseConnection c, ref FuseRequest request, ref FuseReply reply)
    {
        if (!request.TryTake(out FuseXattrIn asked) || !request.TryTakeText(out ReadOnlySpan<byte> name)) return Errno.Invalid;
        if (!IsGuests(name)) return OwnerPolicy.IsOurs(name) ? Errno.NoData : Errno.NotSupported;
        using NodeUse file = c.Nodes.Use(request.Header.Node);
        if (file.Error != 0) return file.Error;
        int room = (int)Math.Min(asked.Size, (uint)Math.Min(reply.Room.Length, Largest));
        if (asked.Size > 0 && room == 0) return Errno.OutOfRange; // to the host, no room at all asks for the length
        int errno = FolderCalls.GetAttribute(file.Descriptor, name, reply.Room[..room], out int length);
        if (errno != 0) return errno;
        return Answer(asked.Size, length, ref reply);
    }

    /// <summary>The value, which is there already, or its length where that was asked for.</summary>
    private static int Answer(uint size, int length, ref FuseReply reply)
    {
        if (size > 0) reply.Advance(length);
        else if (reply.Room.Length >= 8) reply.Put(new FuseSizeOut { Size = (uint)length });
        else return Errno.Invalid;
        return 0;
    }

    public static int Set(FuseConnection c, ref FuseRequest request, ref FuseReply reply)
    {
        const uint knownFlags = 3; // XATTR_CREATE, XATTR_REPLACE
        if (!request.TryTake(out FuseXattrIn asked) || !request.TryTakeText(out ReadOnlySpan<byte> name) || asked.Size > request.Rest.Length)
            return Errno.Invalid;
        if (asked.Size > Largest) return Errno.TooBig;
        if ((asked.Flags & ~knownFlags) != 0) return Errno.Invalid;
        if (!IsGuests(name)) return OwnerPolicy.IsOurs(name) ? Errno.NotPermitted : Errno.NotSupported;
        using NodeUse file = c.Nodes.Use(request.Header.Node);
        return file.Error != 0 ? file.Error : FolderCalls.SetAttribute(file.Descriptor, name, request.Rest[..(int)asked.Size], (int)asked.Flags);
    }

    public static int Remove(FuseConnection c, ref FuseRequest request, ref FuseReply reply)
    {
        if (!request.TryTakeText(out ReadOnlySpan<byte> name)) return Errno.Invalid;
        if (!IsGuests(name)) return OwnerPolicy.IsOurs(name) ? Errno.NoData : Errno.NotSupported;
        using NodeUse file = c.Nodes.Use(request.Header.Node);
        return file.Error != 0 ? file.Error : FolderCalls.RemoveAttribute(file.Descriptor, name);
    }

    public static int List(FuseConnection c, ref FuseRequest request, ref FuseReply reply)
    {
        if (!request.TryTake(out FuseXattrIn asked)) return Errno.Invalid;
        using NodeUse file = c.Nodes.Use(request.Header.Node);
        if (file.Error != 0) return file.Error;
        byte[] all = ArrayPool<byte>.Shared.Rent(Largest);
        try
        {
            int errno = FolderCalls.ListAttributes(file.Descriptor, all.AsSpan(0, Largest), out int length);
            if (errno != 0) return errno;
            int kept = Keep(all.AsSpan(0, length));
            if (asked.Size > 0 && kept > Math.Min(asked.Size, (uint)reply.Room.Length)) return Errno.OutOfRange;
            if (asked.Size > 0) all.AsSpan(0, kept).CopyTo(reply.Room);
            return Answer(asked.Size, kept, ref reply);
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(all);
        }
    }

    /// <summary>Moves the guest's names to the front. Returns how many bytes they are.</summary>
    private static int Keep(Span<byte> names)
    {
        int kept = 0;
        for (int at = 0; at < names.Length;)
        {
            int length = names[at..].IndexOf((byte)0) + 1;
            if (length == 0) break;
            if (IsGuests(names.Slice(at, length - 1)))
            {
                names.Slice(at, length).CopyTo(names[kept..]);
                kept += length;
            }
            at += length;
        }
        return kept;
    }
}
