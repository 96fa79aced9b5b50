using System.Buffers;
using System.Runtime.InteropServices;
using Bunraku.Platform;

namespace Bunraku.Machine.Virtio.Files;

/// <summary>Requests about what is open: reading, writing, and extended attributes, which are read and written as files are.</summary>
internal static class NinePTransfers
{
    /// <summary>XATTR_SIZE_MAX of linux/limits.h.</summary>
    private const int LargestValue = 64 << 10;

    public static int Read(NinePSession s, ref NinePRequest request, ref NinePReply reply)
    {
        uint number = request.Take32();
        ulong offset = request.Take64();
        uint count = request.Take32();
        if (request.IsShort || offset > long.MaxValue) return Errno.Invalid;
        if (!s.TryFind(number, out NinePFid fid)) return Errno.BadDescriptor;
        Span<byte> room = reply.Room[4..];
        if (room.Length > count) room = room[..(int)count];
        int done, errno = 0;
        if (fid.Value is { } value)
        {
            if (fid.ValueName is not null) return Errno.Invalid;
            done = offset >= (ulong)value.Length ? 0 : Math.Min(room.Length, value.Length - (int)offset);
            if (done > 0) value.AsSpan((int)offset, done).CopyTo(room);
        }
        else
        {
            errno = FileRequests.ReadAt(s.Files, fid.Handle, (long)offset, room, out done);
        }
        if (errno != 0) return errno;
        reply.Put((uint)done);
        reply.Advance(done);
        return 0;
    }

    public static int Write(NinePSession s, ref NinePRequest request, ref NinePReply reply)
    {
        uint number = request.Take32();
        ulong offset = request.Take64();
        uint count = request.Take32();
        if (request.IsShort || offset > long.MaxValue || count > request.Rest.Length) return Errno.Invalid;
        if (!s.TryFind(number, out NinePFid fid)) return Errno.BadDescriptor;
        ReadOnlySpan<byte> data = request.Rest[..(int)count];
        int done, errno = 0;
        if (fid.Value is { } value)
        {
            // Front to back, as a value is.
            if (fid.ValueName is null || offset != (ulong)fid.ValueLength || data.Length > value.Length - fid.ValueLength) return Errno.Invalid;
            data.CopyTo(value.AsSpan(fid.ValueLength));
            fid.ValueLength += done = data.Length;
        }
        else
        {
            errno = FileRequests.WriteAt(s.Files, fid.Handle, (long)offset, data, (fid.Flags & FileBits.Append) != 0, fid.User != 0, out done);
        }
        if (errno == 0) reply.Put((uint)done);
        return errno;
    }

    /// <summary>Entries of FUSE have the same, in another order, and take no less room.</summary>
    public static int ReadFolder(NinePSession s, ref NinePRequest request, ref NinePReply reply)
    {
        uint number = request.Take32();
        ulong offset = request.Take64();
        uint count = request.Take32();
        if (request.IsShort) return Errno.Invalid;
        if (!s.TryFind(number, out NinePFid fid)) return Errno.BadDescriptor;
        if (!fid.IsFolder) return Errno.NotAFolder;
        int room = (int)Math.Min(count, (uint)reply.Room.Length - 4);
        byte[] entries = ArrayPool<byte>.Shared.Rent(Math.Max(room, 1));
        try
        {
            var answer = new FuseReply(entries.AsSpan(0, room));
            int errno = s.Call(fid, 0, FolderRequests.Read, new FuseTransferIn { Handle = fid.Handle, Offset = offset, Size = (uint)room }, default, default,
                ref answer);
            if (errno != 0) return errno;
            int start = reply.Length;
            reply.Put(0u);
            ReadOnlySpan<byte> rest = answer.Last(answer.Length);
            while (!rest.IsEmpty)
            {
                FuseFolderEntry entry = MemoryMarshal.Read<FuseFolderEntry>(rest);
                int name = (int)entry.NameLength;
                reply.PutQid(entry.Type << 12, 0, entry.Inode);
                reply.Put(entry.Offset);
                reply.Put((byte)entry.Type);
                reply.TryPutText(rest.Slice(FuseFolderEntry.Size, name));
                rest = rest[FuseFolderEntry.Length(name)..];
            }
            MemoryMarshal.Write(reply.Answer[start..], (uint)(reply.Length - start - sizeof(uint)));
            return 0;
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(entries);
        }
    }

    public static int Sync(NinePSession s, ref NinePRequest request, ref NinePReply reply)
    {
        uint number = request.Take32();
        uint dataOnly = request.Rest.Length >= 4 ? request.Take32() : 0;
        if (request.IsShort) return Errno.Invalid;
        if (!s.TryFind(number, out NinePFid fid)) return Errno.BadDescriptor;
        return s.Call(fid, fid.IsFolder ? FolderRequests.Sync : FileRequests.Sync,
            new FuseHandleIn { Handle = fid.Handle, Flags = dataOnly == 0 ? 0u : 1u }, default, default);
    }

    /// <summary>A number for an attribute, or for the list of their names; the answer is its length.</summary>
    public static int XattrWalk(NinePSession s, ref NinePRequest request, ref NinePReply reply)
    {
        uint number = request.Take32(), wanted = request.Take32();
        ReadOnlySpan<byte> name = request.TakeText();
        if (request.IsShort || number == wanted) return Errno.Invalid;
        if (!s.TryFind(number, out NinePFid fid)) return Errno.BadDescriptor;
        byte[] value = ArrayPool<byte>.Shared.Rent(LargestValue);
        try
        {
            var answer = new FuseReply(value.AsSpan(0, LargestValue));
            var asked = new FuseXattrIn { Size = LargestValue };
            int errno = name.IsEmpty ? s.Call(fid, 0, XattrRequests.List, asked, default, default, ref answer)
                : s.Call(fid, 0, XattrRequests.Get, asked, name, default, ref answer);
            if (errno != 0) return errno;
            errno = s.Add(wanted, new NinePFid(fid.Node, fid.User) { Value = answer.Last(answer.Length).ToArray() });
            if (errno == 0) reply.Put((ulong)answer.Length);
            return errno;
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(value);
        }
    }

    /// <summary>The number becomes an attribute's, which is written when it is let go: all of it, or nothing. An empty one is removed, as Linux asks.</summary>
    public static int XattrCreate(NinePSession s, ref NinePRequest request, ref NinePReply reply)
    {
        uint number = request.Take32();
        ReadOnlySpan<byte> name = request.TakeText();
        ulong size = request.Take64();
        uint flags = request.Take32();
        if (request.IsShort || name.IsEmpty) return Errno.Invalid;
        if (name.Length > FolderCalls.LongestName) return Errno.OutOfRange;
        if (size > LargestValue) return Errno.TooBig;
        return s.TryFind(number, out NinePFid fid) ? s.MakeValue(fid, new byte[size], name.ToArray(), flags) : Errno.BadDescriptor;
    }
}
