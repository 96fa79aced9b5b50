using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Bunraku.Platform;

namespace Bunraku.Machine.Virtio.Files;

/// <summary>Requests about the guest's numbers, names and attributes.</summary>
internal static class NinePRequests
{
    private const byte LockSuccess = 0, NoLock = 2; // P9_LOCK_SUCCESS, P9_LOCK_TYPE_UNLCK

    /// <summary>A number for the folder itself. Whoever asks has it mounted: names of users and trees say nothing here.</summary>
    public static int Attach(NinePSession s, ref NinePRequest request, ref NinePReply reply)
    {
        uint number = request.Take32();
        request.Take32();
        request.TakeText();
        request.TakeText();
        uint user = request.Take32();
        if (request.IsShort) return Errno.Invalid;
        var root = new NinePFid(NodeTable.RootId, user == uint.MaxValue ? 0 : user);
        int errno = See(s, root, out FuseAttributes attributes);
        if (errno == 0) errno = s.Add(number, root);
        if (errno == 0) reply.PutQid(attributes);
        return errno;
    }

    private static int See(NinePSession s, NinePFid fid, out FuseAttributes attributes)
    {
        var answer = new FuseReply(stackalloc byte[Unsafe.SizeOf<FuseAttributesOut>()]);
        int errno = s.Call(fid, 0, AttributeRequests.Get, default(FuseGetAttributesIn), default, default, ref answer);
        attributes = errno == 0 ? MemoryMarshal.Read<FuseAttributesOut>(answer.Last(answer.Length)).Attributes : default;
        return errno;
    }

    /// <summary>A new number for what is so many names further. Where not all of them are there, the answer says how many are, and there is none.</summary>
    public static int Walk(NinePSession s, ref NinePRequest request, ref NinePReply reply)
    {
        uint number = request.Take32(), wanted = request.Take32();
        int names = request.Take<ushort>();
        if (request.IsShort || names > NineP.MostNames || reply.Room.Length < sizeof(ushort) + names * NineP.QidSize) return Errno.Invalid;
        if (!s.TryFind(number, out NinePFid from)) return Errno.BadDescriptor;
        if (from.Value is not null || number == wanted && from.Handle != 0) return Errno.Invalid;
        int place = reply.Length, done = 0, errno = 0;
        reply.Put((ushort)0);
        var at = new NinePFid(from.Node, from.User);
        s.Hold(at.Node, 0);
        for (; done < names && errno == 0; done++)
        {
            ReadOnlySpan<byte> name = request.TakeText();
            errno = request.IsShort ? Errno.Invalid : Step(s, at, name, ref reply);
            if (errno != 0) break;
        }
        if (done == names && errno == 0) errno = Take(s, number, wanted, at);
        else if (done > 0) errno = 0;
        s.Release(at.Node);
        MemoryMarshal.Write(reply.Answer[place..], (ushort)done);
        return errno;
    }

    private static int Step(NinePSession s, NinePFid at, ReadOnlySpan<byte> name, ref NinePReply reply)
    {
        var answer = new FuseReply(stackalloc byte[Unsafe.SizeOf<FuseEntryOut>()]);
        int errno = s.Call(at, 0, NameRequests.Lookup, default(NinePSession.Nothing), name, default, ref answer);
        if (errno != 0) return errno;
        FuseEntryOut entry = MemoryMarshal.Read<FuseEntryOut>(answer.Last(answer.Length));
        if (entry.Node == 0) return Errno.NoEntry;
        s.Hold(entry.Node, lookups: 1);
        s.Release(at.Node);
        at.Node = entry.Node;
        reply.PutQid(entry.Attributes);
        return 0;
    }

    private static int Take(NinePSession s, uint number, uint wanted, NinePFid at)
    {
        if (number != wanted) return s.Add(wanted, new NinePFid(at.Node, at.User));
        s.Remove(number);
        return s.Add(wanted, new NinePFid(at.Node, at.User));
    }

    public static int Clunk(NinePSession s, ref NinePRequest request, ref NinePReply reply)
    {
        uint number = request.Take32();
        return request.IsShort ? Errno.Invalid : s.Remove(number);
    }

    /// <summary>The number is let go whatever comes of it. Linux asks by Tunlinkat.</summary>
    public static int Remove(NinePSession s, ref NinePRequest request, ref NinePReply reply)
    {
        int errno = Clunk(s, ref request, ref reply);
        return errno != 0 ? errno : Errno.NotSupported;
    }

    /// <summary>What came before is done: requests are done in their order.</summary>
    public static int Flush(NinePSession s, ref NinePRequest request, ref NinePReply reply) => 0;

    public static int Open(NinePSession s, ref NinePRequest request, ref NinePReply reply)
    {
        uint number = request.Take32(), flags = request.Take32();
        if (request.IsShort) return Errno.Invalid;
        if (!s.TryFind(number, out NinePFid fid)) return Errno.BadDescriptor;
        if (fid.Handle != 0 || fid.Value is not null) return Errno.Invalid;
        int errno = See(s, fid, out FuseAttributes attributes);
        if (errno != 0) return errno;
        bool isFolder = (attributes.Mode & FileBits.Kind) == FileBits.Folder;
        if (isFolder && (flags & (FileBits.AccessMask | FileBits.Truncate)) != 0) return Errno.IsAFolder;
        var answer = new FuseReply(stackalloc byte[Unsafe.SizeOf<FuseOpenOut>()]);
        var asked = new FuseOpenIn { Flags = flags, OpenFlags = fid.User == 0 ? 0 : FuseOpenIn.KillPrivileges };
        errno = s.Call(fid, 0, isFolder ? FolderRequests.Open : FileRequests.Open, asked, default, default, ref answer);
        if (errno != 0) return errno;
        (fid.Handle, fid.Flags, fid.IsFolder) = (MemoryMarshal.Read<FuseOpenOut>(answer.Last(answer.Length)).Handle, flags, isFolder);
        reply.PutQid(attributes);
        reply.Put(0u); // as much at a time as the messages have room for
        return 0;
    }

    /// <summary>A file is made and opened, and the number, which was its folder's, is its own.</summary>
    public static int Create(NinePSession s, ref NinePRequest request, ref NinePReply reply)
    {
        uint number = request.Take32();
        ReadOnlySpan<byte> name = request.TakeText();
        uint flags = request.Take32(), mode = request.Take32(), group = request.Take32();
        if (request.IsShort) return Errno.Invalid;
        if (!s.TryFind(number, out NinePFid fid)) return Errno.BadDescriptor;
        if (fid.Handle != 0 || fid.Value is not null) return Errno.Invalid;
        var answer = new FuseReply(stackalloc byte[Unsafe.SizeOf<FuseEntryOut>() + Unsafe.SizeOf<FuseOpenOut>()]);
        var asked = new FuseCreateIn { Flags = flags, Mode = mode, OpenFlags = fid.User == 0 ? 0 : FuseOpenIn.KillPrivileges };
        int errno = s.Call(fid, group, FileRequests.Create, asked, name, default, ref answer);
        if (errno != 0) return errno;
        ReadOnlySpan<byte> all = answer.Last(answer.Length);
        FuseEntryOut entry = MemoryMarshal.Read<FuseEntryOut>(all);
        s.Hold(entry.Node, lookups: 1);
        s.Release(fid.Node);
        ulong handle = MemoryMarshal.Read<FuseOpenOut>(all[Unsafe.SizeOf<FuseEntryOut>()..]).Handle;
        (fid.Node, fid.Handle, fid.Flags, fid.IsFolder) = (entry.Node, handle, flags, false);
        reply.PutQid(entry.Attributes);
        reply.Put(0u);
        return 0;
    }

    public static int GetAttributes(NinePSession s, ref NinePRequest request, ref NinePReply reply)
    {
        uint number = request.Take32();
        if (request.IsShort) return Errno.Invalid;
        if (!s.TryFind(number, out NinePFid fid)) return Errno.BadDescriptor;
        int errno = See(s, fid, out FuseAttributes a);
        if (errno != 0) return errno;
        reply.Put(NineP.BasicAttributes);
        reply.PutQid(a);
        reply.Put(a.Mode);
        reply.Put(a.User);
        reply.Put(a.Group);
        ReadOnlySpan<ulong> numbers =
        [
            a.Links, a.Device, a.Size, a.BlockSize, a.Blocks, a.Accessed, a.AccessedNs, a.Modified, a.ModifiedNs, a.Changed, a.ChangedNs, 0, 0, 0, 0,
        ];
        foreach (ulong number64 in numbers) reply.Put(number64);
        return 0;
    }

    public static int SetAttributes(NinePSession s, ref NinePRequest request, ref NinePReply reply)
    {
        uint number = request.Take32();
        var set = (NinePSet)request.Take32();
        uint mode = request.Take32(), user = request.Take32(), group = request.Take32();
        ulong size = request.Take64(), accessed = request.Take64(), accessedNs = request.Take64(), modified = request.Take64(), modifiedNs = request.Take64();
        if (request.IsShort) return Errno.Invalid;
        if (!s.TryFind(number, out NinePFid fid)) return Errno.BadDescriptor;
        FuseSet valid = (FuseSet)(set & (NinePSet.Mode | NinePSet.User | NinePSet.Group | NinePSet.Size));
        if (set.HasFlag(NinePSet.Accessed)) valid |= FuseSet.Accessed | (set.HasFlag(NinePSet.AccessedTo) ? 0 : FuseSet.AccessedNow);
        if (set.HasFlag(NinePSet.Modified)) valid |= FuseSet.Modified | (set.HasFlag(NinePSet.ModifiedTo) ? 0 : FuseSet.ModifiedNow);
        if (set.HasFlag(NinePSet.Size) && fid.User != 0) valid |= FuseSet.KillPrivileges;
        if (fid is { Handle: not 0, IsFolder: false }) valid |= FuseSet.Handle;
        return s.Call(fid, AttributeRequests.Set, new FuseSetAttributesIn
        {
            Valid = valid,
            Handle = fid.Handle,
            Size = size,
            Mode = mode,
            User = user,
            Group = group,
            Accessed = accessed,
            AccessedNs = (uint)Math.Min(accessedNs, uint.MaxValue),
            Modified = modified,
            ModifiedNs = (uint)Math.Min(modifiedNs, uint.MaxValue),
        }, default, default);
    }

    public static int FileSystem(NinePSession s, ref NinePRequest request, ref NinePReply reply)
    {
        uint number = request.Take32();
        if (request.IsShort) return Errno.Invalid;
        if (!s.TryFind(number, out NinePFid fid)) return Errno.BadDescriptor;
        var answer = new FuseReply(stackalloc byte[Unsafe.SizeOf<FuseFileSystem>()]);
        int errno = s.Call(fid, 0, AttributeRequests.FileSystem, default(NinePSession.Nothing), default, default, ref answer);
        if (errno != 0) return errno;
        FuseFileSystem f = MemoryMarshal.Read<FuseFileSystem>(answer.Last(answer.Length));
        reply.Put(NineP.FileSystemType);
        reply.Put(f.Unit); // what the numbers of blocks count
        foreach (ulong value in (ReadOnlySpan<ulong>)[f.Blocks, f.Free, f.Available, f.Files, f.FreeFiles, 0]) reply.Put(value);
        reply.Put(f.LongestName);
        return 0;
    }

    public static int ReadLink(NinePSession s, ref NinePRequest request, ref NinePReply reply)
    {
        uint number = request.Take32();
        if (request.IsShort) return Errno.Invalid;
        if (!s.TryFind(number, out NinePFid fid)) return Errno.BadDescriptor;
        var answer = new FuseReply(stackalloc byte[FolderCalls.LongestPath]);
        int errno = s.Call(fid, 0, NameRequests.ReadLink, default(NinePSession.Nothing), default, default, ref answer);
        if (errno != 0) return errno;
        return reply.TryPutText(answer.Last(answer.Length)) ? 0 : Errno.OutOfRange;
    }

    /// <summary>Something new: of what was made the guest is told, and gets no number.</summary>
    private static int Make<T>(
        NinePSession s, NinePFid folder, uint group, NinePSession.Operation operation, T asked, ReadOnlySpan<byte> name, ReadOnlySpan<byte> second,
        ref NinePReply reply, bool tells = true) where T : unmanaged
    {
        var answer = new FuseReply(stackalloc byte[Unsafe.SizeOf<FuseEntryOut>()]);
        int errno = s.Call(folder, group, operation, asked, name, second, ref answer);
        if (errno != 0) return errno;
        FuseEntryOut entry = MemoryMarshal.Read<FuseEntryOut>(answer.Last(answer.Length));
        s.Hold(entry.Node, lookups: 1);
        s.Release(entry.Node);
        if (tells) reply.PutQid(entry.Attributes);
        return 0;
    }

    public static int SymbolicLink(NinePSession s, ref NinePRequest request, ref NinePReply reply)
    {
        uint number = request.Take32();
        ReadOnlySpan<byte> name = request.TakeText(), target = request.TakeText();
        uint group = request.Take32();
        if (request.IsShort) return Errno.Invalid;
        return s.TryFind(number, out NinePFid folder)
            ? Make(s, folder, group, NameRequests.SymbolicLink, default(NinePSession.Nothing), name, target, ref reply) : Errno.BadDescriptor;
    }

    public static int MakeNode(NinePSession s, ref NinePRequest request, ref NinePReply reply)
    {
        uint number = request.Take32();
        ReadOnlySpan<byte> name = request.TakeText();
        uint mode = request.Take32(), major = request.Take32(), minor = request.Take32(), group = request.Take32();
        if (request.IsShort || major > 0xFFF || minor > 0xF_FFFF) return Errno.Invalid;
        uint device = minor & 0xFF | major << 8 | (minor & ~0xFFu) << 12; // new_encode_dev of linux/kdev_t.h
        return s.TryFind(number, out NinePFid folder)
            ? Make(s, folder, group, NameRequests.MakeNode, new FuseMakeNodeIn { Mode = mode, Device = device }, name, default, ref reply)
            : Errno.BadDescriptor;
    }

    public static int MakeFolder(NinePSession s, ref NinePRequest request, ref NinePReply reply)
    {
        uint number = request.Take32();
        ReadOnlySpan<byte> name = request.TakeText();
        uint mode = request.Take32(), group = request.Take32();
        if (request.IsShort) return Errno.Invalid;
        return s.TryFind(number, out NinePFid folder)
            ? Make(s, folder, group, NameRequests.MakeFolder, new FuseMakeFolderIn { Mode = mode }, name, default, ref reply) : Errno.BadDescriptor;
    }

    public static int Link(NinePSession s, ref NinePRequest request, ref NinePReply reply)
    {
        uint number = request.Take32(), file = request.Take32();
        ReadOnlySpan<byte> name = request.TakeText();
        if (request.IsShort) return Errno.Invalid;
        return s.TryFind(number, out NinePFid folder) && s.TryFind(file, out NinePFid linked)
            ? Make(s, folder, 0, NameRequests.Link, linked.Node, name, default, ref reply, tells: false) : Errno.BadDescriptor;
    }

    public static int RenameAt(NinePSession s, ref NinePRequest request, ref NinePReply reply)
    {
        uint from = request.Take32();
        ReadOnlySpan<byte> oldName = request.TakeText();
        uint to = request.Take32();
        ReadOnlySpan<byte> name = request.TakeText();
        if (request.IsShort) return Errno.Invalid;
        return s.TryFind(from, out NinePFid folder) && s.TryFind(to, out NinePFid other)
            ? s.Call(folder, NameRequests.Rename, other.Node, oldName, name) : Errno.BadDescriptor;
    }

    public static int UnlinkAt(NinePSession s, ref NinePRequest request, ref NinePReply reply)
    {
        uint number = request.Take32();
        ReadOnlySpan<byte> name = request.TakeText();
        uint flags = request.Take32();
        if (request.IsShort || (flags & ~NineP.RemoveFolder) != 0) return Errno.Invalid;
        NinePSession.Operation operation = flags == 0 ? NameRequests.Unlink : NameRequests.RemoveFolder;
        return s.TryFind(number, out NinePFid folder) ? s.Call(folder, operation, default(NinePSession.Nothing), name, default) : Errno.BadDescriptor;
    }

    /// <summary>The guest's own kernel keeps its locks. The host's programs do not see them, as those of virtio-fs.</summary>
    public static int Lock(NinePSession s, ref NinePRequest request, ref NinePReply reply)
    {
        uint number = request.Take32();
        if (request.IsShort) return Errno.Invalid;
        if (!s.TryFind(number, out _)) return Errno.BadDescriptor;
        reply.Put(LockSuccess);
        return 0;
    }

    public static int GetLock(NinePSession s, ref NinePRequest request, ref NinePReply reply)
    {
        uint number = request.Take32();
        request.Take<byte>();
        ulong start = request.Take64(), length = request.Take64();
        uint process = request.Take32();
        ReadOnlySpan<byte> client = request.TakeText();
        if (request.IsShort) return Errno.Invalid;
        if (!s.TryFind(number, out _)) return Errno.BadDescriptor;
        reply.Put(NoLock);
        reply.Put(start);
        reply.Put(length);
        reply.Put(process);
        return reply.TryPutText(client) ? 0 : Errno.OutOfRange;
    }
}
