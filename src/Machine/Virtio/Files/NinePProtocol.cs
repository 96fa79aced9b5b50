using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Bunraku.Machine.Virtio.Files;

/// <summary>
/// Requests of 9P2000.L, by their types: Linux's include/net/9p/9p.h, and the description of the protocol in diod's protocol.md. The answer's type is one more.
/// </summary>
internal enum NinePType : byte
{
#pragma warning disable IDE0055 // table
    FileSystem    =   8, Open       =  12, Create      =  14, SymbolicLink  =  16, MakeNode      =  18, Rename   =  20, ReadLink   =  22,
    GetAttributes =  24, SetAttributes = 26, XattrWalk =  30, XattrCreate   =  32, ReadFolder    =  40, Sync     =  50, Lock       =  52,
    GetLock       =  54, Link       =  70, MakeFolder  =  72, RenameAt      =  74, UnlinkAt      =  76, Version  = 100, Auth       = 102,
    Attach        = 104, Flush      = 108, Walk        = 110, Read          = 116, Write         = 118, Clunk    = 120, Remove     = 122,
#pragma warning restore IDE0055
}

/// <summary>Numbers of the protocol.</summary>
internal static class NineP
{
    /// <summary>Rlerror.</summary>
    public const byte Error = 7;

    /// <summary>Bytes of size, type and tag; of those and an error number; of those and the length of what is read.</summary>
    public const int HeaderSize = 7, ErrorSize = HeaderSize + 4, ReadHeaderSize = HeaderSize + 4;

    /// <summary>Bytes of a qid.</summary>
    public const int QidSize = 13;

    /// <summary>Kinds in a qid: a folder, a symbolic link.</summary>
    public const byte Folder = 0x80, Link = 2;

    /// <summary>Most names in a walk: MAXWELEM.</summary>
    public const int MostNames = 16;

    /// <summary>Of Tunlinkat: AT_REMOVEDIR.</summary>
    public const uint RemoveFolder = 0x200;

    /// <summary>V9FS_MAGIC.</summary>
    public const uint FileSystemType = 0x0102_1997;

    /// <summary>What Tgetattr is answered with: all but birth, generation and version.</summary>
    public const ulong BasicAttributes = 0x7FF;
}

/// <summary>Fields of Tsetattr that are meant.</summary>
[Flags]
internal enum NinePSet : uint
{
    Mode = 1, User = 2, Group = 4, Size = 8, Accessed = 0x10, Modified = 0x20, AccessedTo = 0x80, ModifiedTo = 0x100,
}

/// <summary>A request behind its header. The guest is hostile: what is not there reads as zero, and <see cref="IsShort"/> says so.</summary>
internal ref struct NinePRequest(ReadOnlySpan<byte> body)
{
    /// <summary>What was not taken yet.</summary>
    public ReadOnlySpan<byte> Rest { get; private set; } = body;

    /// <summary>Something was not there.</summary>
    public bool IsShort { get; private set; }

    /// <summary>Takes a number.</summary>
    public T Take<T>() where T : unmanaged
    {
        if (!MemoryMarshal.TryRead(Rest, out T value))
        {
            IsShort = true;
            return default;
        }
        Rest = Rest[Unsafe.SizeOf<T>()..];
        return value;
    }

    public uint Take32() => Take<uint>();

    public ulong Take64() => Take<ulong>();

    /// <summary>Takes a text with its length before it. Texts have no NUL here: on the host it would end them.</summary>
    public ReadOnlySpan<byte> TakeText()
    {
        int length = Take<ushort>();
        if (length > Rest.Length || Rest[..length].Contains((byte)0))
        {
            IsShort = true;
            return default;
        }
        ReadOnlySpan<byte> text = Rest[..length];
        Rest = Rest[length..];
        return text;
    }
}

/// <summary>An answer behind its header. The dispatcher has seen that there is room for what an operation always answers.</summary>
internal ref struct NinePReply(Span<byte> room)
{
    private readonly Span<byte> _room = room;

    /// <summary>Bytes that were put.</summary>
    public int Length { get; private set; }

    /// <summary>Where the next one goes.</summary>
    public readonly Span<byte> Room => _room[Length..];

    /// <summary>All of it.</summary>
    public readonly Span<byte> Answer => _room;

    /// <summary>Bytes were put into <see cref="Room"/>.</summary>
    public void Advance(int length) => Length += length;

    public void Put<T>(T value) where T : unmanaged
    {
        MemoryMarshal.Write(Room, value);
        Length += Unsafe.SizeOf<T>();
    }

    public bool TryPutText(scoped ReadOnlySpan<byte> text)
    {
        if (text.Length > ushort.MaxValue || Room.Length < sizeof(ushort) + text.Length) return false;
        Put((ushort)text.Length);
        text.CopyTo(Room);
        Length += text.Length;
        return true;
    }

    /// <param name="mode">Kind of the file.</param>
    public void PutQid(uint mode, uint version, ulong path)
    {
        Put((mode & FileBits.Kind) switch { FileBits.Folder => NineP.Folder, FileBits.Link => NineP.Link, _ => (byte)0 });
        Put(version);
        Put(path);
    }

    public void PutQid(in FuseAttributes a) => PutQid(a.Mode, (uint)(a.Modified ^ a.ModifiedNs ^ a.Size << 8), a.Inode);
}
