using System.Runtime.InteropServices;

namespace Bunraku.Platform;

/// <summary>The C library calls that the platform layer needs; nothing outside this project calls them.</summary>
internal static unsafe partial class Libc
{
    public const int ProtNone = 0, ProtRead = 1, ProtWrite = 2, ProtExec = 4;
    public const int MapShared = 1, MapPrivate = 2, MapFixed = 0x10, MapAnonymous = 0x20, Map32Bit = 0x40, MapNoReserve = 0x4000,
        MapPopulate = 0x8000, MapFixedNoReplace = 0x100000;
    public static readonly void* MapFailed = (void*)-1;

    [LibraryImport("libc", EntryPoint = "mmap", SetLastError = true)]
    public static partial void* Mmap(void* address, nuint length, int protection, int flags, int fd, long offset);

    [LibraryImport("libc", EntryPoint = "mremap", SetLastError = true)]
    public static partial void* Mremap(void* address, nuint length, nuint newLength, int flags, void* newAddress);

    public const int MremapMayMove = 1, MremapFixed = 2;

    [LibraryImport("libc", EntryPoint = "munmap", SetLastError = true)]
    public static partial int Munmap(void* address, nuint length);

    public const uint MemfdCloseOnExec = 1;

    [LibraryImport("libc", EntryPoint = "memfd_create", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    public static partial int MemfdCreate(string name, uint flags);

    [LibraryImport("libc", EntryPoint = "ftruncate", SetLastError = true)]
    public static partial int Ftruncate(int fd, long length);

    public const int SeekData = 3, SeekHole = 4;
    /// <summary>ENXIO: nothing but a hole follows.</summary>
    public const int NoSuchAddress = 6;

    [LibraryImport("libc", EntryPoint = "lseek", SetLastError = true)]
    public static partial long Lseek(int fd, long offset, int whence);

    [LibraryImport("libc", EntryPoint = "close", SetLastError = true)]
    public static partial int Close(int fd);

    [LibraryImport("libc", EntryPoint = "setsid")]
    public static partial int Setsid();

    [LibraryImport("libc", EntryPoint = "dup2")]
    public static partial int Dup2(int from, int to);

    public const int CurrentFolder = -100;
    public const uint StatxType = 1, StatxMode = 2, StatxLinks = 4, StatxOwner = 8;
    /// <summary>statx: a symbolic link itself.</summary>
    public const int NoFollow = 0x100;

    [LibraryImport("libc", EntryPoint = "geteuid")]
    public static partial uint UserId();

    /// <summary>struct statx of linux/stat.h, as far as it is read.</summary>
    [StructLayout(LayoutKind.Explicit, Size = 256)]
    public struct FileStatus
    {
        [FieldOffset(16)] public uint Links;
        [FieldOffset(20)] public uint Owner;
        [FieldOffset(28)] public ushort Mode;
        [FieldOffset(32)] public ulong Inode;
        [FieldOffset(48)] public ulong Blocks;
        [FieldOffset(136)] public uint DeviceMajor;
        [FieldOffset(140)] public uint DeviceMinor;
    }

    [LibraryImport("libc", EntryPoint = "statx", StringMarshalling = StringMarshalling.Utf8)]
    public static partial int Statx(int folder, string path, int flags, uint wanted, FileStatus* status);

    public struct TimeSpec
    {
        public long Seconds, Nanoseconds;
    }
}
