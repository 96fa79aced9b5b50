using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Bunraku.Platform;

internal static unsafe partial class Libc
{
    /// <summary>fallocate: the range becomes a hole, or zeros; the length of the file stays.</summary>
    public const int KeepSize = 1, PunchHole = 2, ZeroRange = 0x10;

    [LibraryImport("libc", EntryPoint = "fallocate", SetLastError = true)]
    public static partial int Fallocate(SafeFileHandle file, int mode, long offset, long length);

    [LibraryImport("libc", EntryPoint = "lseek", SetLastError = true)]
    public static partial long Lseek(SafeFileHandle file, long offset, int whence);

    /// <summary>fcntl: locks of an open file description (F_OFD_GETLK, F_OFD_SETLK), and their kinds.</summary>
    public const int GetFileLock = 36, SetFileLock = 37;
    public const short SharedLock = 0, ExclusiveLock = 1, NoLock = 2;

    /// <summary>struct flock of fcntl.h, 64 bits.</summary>
    [StructLayout(LayoutKind.Explicit, Size = 32)]
    public struct FileLock
    {
        [FieldOffset(0)] public short Kind;
        [FieldOffset(2)] public short Whence;
        [FieldOffset(8)] public long Start;
        [FieldOffset(16)] public long Length;
        [FieldOffset(24)] public int Process;
    }

    [LibraryImport("libc", EntryPoint = "fcntl", SetLastError = true)]
    public static partial int Fcntl(SafeFileHandle file, int command, FileLock* argument);

    [LibraryImport("libc", EntryPoint = "fgetxattr", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    public static partial nint GetAttribute(SafeFileHandle file, string name, byte* value, nuint size);

    [LibraryImport("libc", EntryPoint = "fsetxattr", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    public static partial int SetAttribute(SafeFileHandle file, string name, byte* value, nuint size, int flags);

    [LibraryImport("libc", EntryPoint = "link", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    public static partial int Link(string path, string name);

    [LibraryImport("libc", EntryPoint = "statx", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    public static partial int Statx(SafeFileHandle folder, string path, int flags, uint wanted, FileStatus* status);

    /// <summary>statx: the descriptor itself; what is wanted.</summary>
    public const int EmptyPath = 0x1000;
    public const uint StatxIdentity = 0x100, StatxBlocks = 0x400;
}
