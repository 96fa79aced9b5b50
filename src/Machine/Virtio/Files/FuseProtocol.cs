using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Bunraku.Machine.Virtio.Files;

#pragma warning disable CS0169 // fields that are there for their room

// The FUSE protocol, version 7.38, as Linux's include/uapi/linux/fuse.h has it: names, values and layouts.

/// <summary>enum fuse_opcode.</summary>
internal enum FuseOpcode : uint
{
    Lookup = 1, Forget = 2, GetAttributes = 3, SetAttributes = 4, ReadLink = 5, SymbolicLink = 6, MakeNode = 8, MakeFolder = 9, Unlink = 10, RemoveFolder = 11,
    Rename = 12, Link = 13, Open = 14, Read = 15, Write = 16, FileSystem = 17, Release = 18, Sync = 20, SetXattr = 21, GetXattr = 22, ListXattr = 23,
    RemoveXattr = 24, Flush = 25, Init = 26, OpenFolder = 27, ReadFolder = 28, ReleaseFolder = 29, SyncFolder = 30, Create = 35, Interrupt = 36, Destroy = 38,
    BatchForget = 42, Allocate = 43, ReadFolderPlus = 44, Rename2 = 45, Seek = 46, CopyRange = 47, SyncFileSystem = 50,
}

/// <summary>Flags of INIT, both words.</summary>
[Flags]
internal enum FuseFeature : ulong
{
    AsyncRead = 1 << 0, AtomicTruncate = 1 << 3, BigWrites = 1 << 5, AutoInvalidateData = 1 << 12, ReadFolderPlus = 1 << 13, ReadFolderPlusAuto = 1 << 14,
    AsyncDirect = 1 << 15, WritebackCache = 1 << 16, ParallelFolders = 1 << 18, MaxPages = 1 << 22, CacheLinks = 1 << 23, KillPrivileges2 = 1 << 28,
    InitExtension = 1 << 30,
}

/// <summary>FATTR_*: what of <see cref="FuseSetAttributesIn"/> is meant.</summary>
[Flags]
internal enum FuseSet : uint
{
    Mode = 1, User = 2, Group = 4, Size = 8, Accessed = 16, Modified = 32, Handle = 64, AccessedNow = 128, ModifiedNow = 256, KillPrivileges = 1 << 11,
}

/// <summary>FOPEN_*.</summary>
[Flags]
internal enum FuseOpened : uint
{
    None = 0, KeepCache = 2, CacheFolder = 8, NoFlush = 32,
}

/// <summary>struct fuse_in_header.</summary>
internal struct FuseInHeader
{
    public uint Length;
    public FuseOpcode Opcode;
    public ulong Unique, Node;
    public uint User, Group, Process;
    private readonly uint _extensions;

    /// <summary>Bytes.</summary>
    public const int Size = 40;
}

/// <summary>struct fuse_out_header.</summary>
internal struct FuseOutHeader
{
    public uint Length;
    /// <summary>0, or an error number below 0.</summary>
    public int Error;
    public ulong Unique;

    /// <summary>Bytes.</summary>
    public const int Size = 16;
}

/// <summary>struct fuse_init_in, from 7.36 on; before that it ends behind <see cref="Flags"/>.</summary>
internal struct FuseInitIn
{
    public uint Major, Minor, MaxReadahead, Flags;

    /// <summary>Bytes up to here.</summary>
    public const int OldSize = 16;
}

/// <summary>struct fuse_init_out.</summary>
internal unsafe struct FuseInitOut
{
    public uint Major, Minor, MaxReadahead, Flags;
    public ushort MaxBackground, CongestionThreshold;
    public uint MaxWrite, TimeGranularity;
    public ushort MaxPages, MapAlignment;
    public uint Flags2;
    private fixed uint _unused[7];
}

/// <summary>struct fuse_attr.</summary>
internal struct FuseAttributes
{
    public ulong Inode, Size, Blocks, Accessed, Modified, Changed;
    public uint AccessedNs, ModifiedNs, ChangedNs, Mode, Links, User, Group, Device, BlockSize, Flags;
}

/// <summary>struct fuse_entry_out.</summary>
internal struct FuseEntryOut
{
    public ulong Node, Generation, EntryValid, AttributesValid;
    public uint EntryValidNs, AttributesValidNs;
    public FuseAttributes Attributes;
}

/// <summary>struct fuse_attr_out.</summary>
internal struct FuseAttributesOut
{
    public ulong Valid;
    public uint ValidNs;
    private readonly uint _dummy;
    public FuseAttributes Attributes;
}

/// <summary>struct fuse_getattr_in.</summary>
internal struct FuseGetAttributesIn
{
    public uint Flags;
    private readonly uint _dummy;
    public ulong Handle;

    /// <summary>FUSE_GETATTR_FH: <see cref="Handle"/> is meant.</summary>
    public const uint HasHandle = 1;
}

/// <summary>struct fuse_setattr_in.</summary>
internal struct FuseSetAttributesIn
{
    public FuseSet Valid;
    private readonly uint _padding;
    public ulong Handle, Size;
    private readonly ulong _lockOwner;
    public ulong Accessed, Modified, Changed;
    public uint AccessedNs, ModifiedNs, ChangedNs, Mode;
    private readonly uint _unused4;
    public uint User, Group;
    private readonly uint _unused5;
}

/// <summary>struct fuse_mknod_in.</summary>
internal struct FuseMakeNodeIn
{
    public uint Mode, Device, Mask;
    private readonly uint _padding;
}

/// <summary>struct fuse_mkdir_in.</summary>
internal struct FuseMakeFolderIn
{
    public uint Mode, Mask;
}

/// <summary>struct fuse_rename2_in; that of RENAME ends behind <see cref="NewFolder"/>.</summary>
internal struct FuseRename2In
{
    public ulong NewFolder;
    public uint Flags;
    private readonly uint _padding;
}

/// <summary>struct fuse_open_in.</summary>
internal struct FuseOpenIn
{
    public uint Flags, OpenFlags;

    /// <summary>FUSE_OPEN_KILL_SUIDGID.</summary>
    public const uint KillPrivileges = 1;
}

/// <summary>struct fuse_create_in.</summary>
internal struct FuseCreateIn
{
    public uint Flags, Mode, Mask, OpenFlags;
}

/// <summary>struct fuse_open_out.</summary>
internal struct FuseOpenOut
{
    public ulong Handle;
    public FuseOpened Flags;
    private readonly uint _padding;
}

/// <summary>struct fuse_release_in, fuse_flush_in and fuse_fsync_in begin alike.</summary>
internal struct FuseHandleIn
{
    public ulong Handle;
    /// <summary>Of FSYNC and FSYNCDIR: 1 is data alone.</summary>
    public uint Flags;
    private readonly uint _padding;
}

/// <summary>struct fuse_read_in and fuse_write_in.</summary>
internal struct FuseTransferIn
{
    public ulong Handle, Offset;
    public uint Size;
    public uint TransferFlags;
    private readonly ulong _lockOwner;
    /// <summary>Of the open file: open(2).</summary>
    public uint Flags;
    private readonly uint _padding;

    /// <summary>FUSE_WRITE_CACHE: pages of the cache, by any handle of the file that can write; FUSE_WRITE_KILL_SUIDGID.</summary>
    public const uint FromCache = 1, KillPrivileges = 4;
}

/// <summary>struct fuse_write_out, and fuse_getxattr_out.</summary>
internal struct FuseSizeOut
{
    public uint Size;
    private readonly uint _padding;
}

/// <summary>struct fuse_kstatfs.</summary>
internal unsafe struct FuseFileSystem
{
    public ulong Blocks, Free, Available, Files, FreeFiles;
    public uint BlockSize, LongestName, Unit;
    private readonly uint _padding;
    private fixed uint _spare[6];
}

/// <summary>struct fuse_setxattr_in without the extension, and fuse_getxattr_in.</summary>
internal struct FuseXattrIn
{
    public uint Size, Flags;
}

/// <summary>struct fuse_forget_one.</summary>
internal struct FuseForget
{
    public ulong Node, Count;
}

/// <summary>struct fuse_batch_forget_in.</summary>
internal struct FuseBatchForgetIn
{
    public uint Count;
    private readonly uint _dummy;
}

/// <summary>struct fuse_fallocate_in.</summary>
internal struct FuseAllocateIn
{
    public ulong Handle, Offset, Length;
    public uint Mode;
    private readonly uint _padding;
}

/// <summary>struct fuse_lseek_in.</summary>
internal struct FuseSeekIn
{
    public ulong Handle, Offset;
    public uint Whence;
    private readonly uint _padding;

    /// <summary>SEEK_DATA, SEEK_HOLE.</summary>
    public const uint Data = 3, Hole = 4;
}

/// <summary>struct fuse_copy_file_range_in.</summary>
internal struct FuseCopyRangeIn
{
    public ulong HandleIn, OffsetIn, NodeOut, HandleOut, OffsetOut, Length, Flags;
}

/// <summary>struct fuse_dirent, and what a name behind it takes.</summary>
internal struct FuseFolderEntry
{
    public ulong Inode, Offset;
    public uint NameLength, Type;

    /// <summary>Bytes in front of the name.</summary>
    public const int Size = 24;

    /// <summary>Bytes of an entry with its name, padded.</summary>
    public static int Length(int name) => Size + name + 7 & ~7;
}

/// <summary>The two kernels' numbers of what both know: inode(7), open(2).</summary>
internal static class FileBits
{
    public const uint Kind = 0xF000, Fifo = 0x1000, Character = 0x2000, Folder = 0x4000, Block = 0x6000, Regular = 0x8000, Link = 0xA000, Socket = 0xC000;
    public const uint Permissions = 0x1FF, All = 0xFFF, SetUser = 0x800, SetGroup = 0x400, GroupExecutes = 8;
    public const uint AccessMask = 3, WriteOnly = 1, ReadWrite = 2, Truncate = 0x200, Append = 0x400, Exclusive = 0x80;
}

/// <summary>A request of the guest: header, and what stands behind it. The guest is hostile: nothing of it is known to be sensible.</summary>
internal ref struct FuseRequest(FuseInHeader header, ReadOnlySpan<byte> body)
{
    public readonly FuseInHeader Header = header;

    /// <summary>What was not taken yet.</summary>
    public ReadOnlySpan<byte> Rest { get; private set; } = body;

    /// <summary>Takes a structure. False: there is less.</summary>
    public bool TryTake<T>(out T value) where T : unmanaged
    {
        if (!MemoryMarshal.TryRead(Rest, out value)) return false;
        Rest = Rest[Unsafe.SizeOf<T>()..];
        return true;
    }

    /// <summary>Takes bytes up to a NUL. False: there is none.</summary>
    public bool TryTakeText(out ReadOnlySpan<byte> text)
    {
        int end = Rest.IndexOf((byte)0);
        text = end < 0 ? default : Rest[..end];
        if (end < 0) return false;
        Rest = Rest[(end + 1)..];
        return true;
    }
}

/// <summary>What goes back behind the header.</summary>
internal ref struct FuseReply(Span<byte> room)
{
    private readonly Span<byte> _room = room;

    /// <summary>Bytes that were put.</summary>
    public int Length { get; private set; }

    /// <summary>Where the next one goes.</summary>
    public readonly Span<byte> Room => _room[Length..];

    /// <summary>What was put last.</summary>
    public readonly ReadOnlySpan<byte> Last(int length) => _room[(Length - length)..Length];

    /// <summary>Bytes were put into <see cref="Room"/>.</summary>
    public void Advance(int length) => Length += length;

    /// <summary>Puts a structure. The dispatcher has seen that there is room for what an operation always answers.</summary>
    public void Put<T>(in T value) where T : unmanaged
    {
        MemoryMarshal.Write(Room, value);
        Length += Unsafe.SizeOf<T>();
    }
}
