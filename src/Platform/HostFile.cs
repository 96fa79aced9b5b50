using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;
using Microsoft.Win32.SafeHandles;

namespace Bunraku.Platform;

/// <summary>What .NET does not tell about a file.</summary>
public static unsafe class HostFile
{
    private const ushort TypeMask = 0xF000, CharacterDevice = 0x2000, BlockDevice = 0x6000, Socket = 0xC000, Regular = 0x8000;

    /// <summary>The path leads to a Unix socket. False when there is no such file.</summary>
    /// <remarks>Linux manual page statx(2).</remarks>
    public static bool IsSocket(string path) => TypeOf(path) == Socket;

    /// <summary>Which Unix socket is at the path itself; null: none, or a symbolic link. Two with the same answer are one, while they are there.</summary>
    /// <remarks>Linux manual page statx(2): device and inode numbers.</remarks>
    internal static (ulong Device, ulong Inode)? SocketIdentity(string path)
    {
        Libc.FileStatus status;
        return Libc.Statx(Libc.CurrentFolder, path, Libc.NoFollow, Libc.StatxType | Libc.StatxIdentity, &status) == 0 && (status.Mode & TypeMask) == Socket
            ? ((ulong)status.DeviceMajor << 32 | status.DeviceMinor, status.Inode) : null;
    }

    /// <summary>The path leads to something that is no regular file: a folder, a pipe, a device, a socket. False when there is nothing.</summary>
    /// <remarks>Linux manual page statx(2); asked without opening, for opening a pipe waits.</remarks>
    public static bool IsSpecial(string path) => TypeOf(path) is not (null or Regular);

    /// <summary>The path is a folder, and no symbolic link to one, that belongs to this process's user and that nobody else can look or write into.</summary>
    public static bool IsPrivateFolder(string path)
    {
        const ushort folder = 0x4000, others = 0x3F;
        Libc.FileStatus status;
        return Libc.Statx(Libc.CurrentFolder, path, Libc.NoFollow, Libc.StatxType | Libc.StatxMode | Libc.StatxOwner, &status) == 0
            && (status.Mode & TypeMask) == folder && (status.Mode & others) == 0 && status.Owner == Libc.UserId();
    }

    /// <summary>Makes a folder that nobody else can look or write into, and those above it that are missing; one that is there stays as it is.</summary>
    /// <exception cref="IOException">It cannot be made.</exception>
    /// <exception cref="UnauthorizedAccessException">Nor that.</exception>
    public static void MakePrivateFolder(string path)
    {
        Directory.CreateDirectory(path, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
    }

    /// <summary>The path leads to a character or block device. False when there is no such file.</summary>
    /// <remarks>Linux manual page statx(2); asked without opening, for opening some devices waits or does something.</remarks>
    public static bool IsDevice(string path) => TypeOf(path) is CharacterDevice or BlockDevice;

    /// <summary>What the path leads to; null: nothing.</summary>
    private static int? TypeOf(string path)
    {
        Libc.FileStatus status;
        return Libc.Statx(Libc.CurrentFolder, path, 0, Libc.StatxType, &status) == 0 ? status.Mode & TypeMask : null;
    }

    /// <summary>Opens a regular file to be read; null: it is something else, which is not waited for.</summary>
    /// <param name="follows">A symbolic link is followed; else it cannot be opened.</param>
    /// <exception cref="IOException">It cannot be opened.</exception>
    /// <remarks>Linux manual page open(2).</remarks>
    public static SafeFileHandle? OpenRegular(string path, bool follows)
    {
        int descriptor = Libc.Open(path, Libc.NonBlocking | Libc.OpenCloseOnExec | (follows ? 0 : Libc.OpenNoFollow), 0);
        if (descriptor < 0)
        {
            int error = Marshal.GetLastPInvokeError();
            throw new IOException(HostError.Reason(error), error);
        }
        var file = new SafeFileHandle(descriptor, ownsHandle: true);
        Libc.FileStatus status;
        if (Libc.Statx(file, "", Libc.EmptyPath, Libc.StatxType, &status) == 0 && (status.Mode & TypeMask) == Regular) return file;
        file.Dispose();
        return null;
    }

    /// <summary>Reads from a place in the file until the destination is full or the file ends; returns how many bytes there were.</summary>
    /// <exception cref="IOException">It cannot be read.</exception>
    public static int Read(SafeFileHandle file, Span<byte> destination, long position)
    {
        int done = 0;
        while (done < destination.Length)
        {
            int n = RandomAccess.Read(file, destination[done..], position + done);
            if (n == 0) break;
            done += n;
        }
        return done;
    }

    /// <summary>A new file that nobody finds by a name and that is gone when its last user is: in memory, which the host does not get back before.</summary>
    /// <param name="name">For lists of the host.</param>
    /// <exception cref="IOException">The host refuses.</exception>
    /// <remarks>Linux manual page memfd_create(2).</remarks>
    public static SafeFileHandle CreateInMemory(string name)
    {
        int descriptor = Libc.MemfdCreate(name, Libc.MemfdCloseOnExec);
        return descriptor >= 0 ? new SafeFileHandle(descriptor, ownsHandle: true) : throw new IOException(HostError.Reason(Marshal.GetLastPInvokeError()));
    }

    /// <summary>Makes an empty file that nobody but its user can open at any moment.</summary>
    /// <exception cref="IOException">It cannot be made, or there is one.</exception>
    /// <exception cref="UnauthorizedAccessException">Nor that.</exception>
    public static void CreatePrivate(string path) => new FileStream(path, new FileStreamOptions
    {
        Mode = FileMode.CreateNew,
        Access = FileAccess.Write,
        UnixCreateMode = UnixFileMode.UserRead | UnixFileMode.UserWrite,
    }).Dispose();

    /// <summary>A new file without a name in the folder for temporary files.</summary>
    /// <exception cref="IOException">It cannot be made there.</exception>
    /// <exception cref="UnauthorizedAccessException">Nor that.</exception>
    public static SafeFileHandle CreateNameless()
    {
        // In a folder that nobody else can enter, so that nobody else has it open when it loses its name.
        string folder = Directory.CreateTempSubdirectory("bunraku-").FullName;
        try
        {
            return File.OpenHandle(Path.Combine(folder, "file"), FileMode.CreateNew, FileAccess.ReadWrite, FileShare.ReadWrite | FileShare.Delete);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    /// <summary>The file has no name in any folder and is this user's: nobody but a process of that user can have given it to this one.</summary>
    /// <remarks>Linux manual page statx(2): stx_nlink.</remarks>
    public static bool IsNameless(SafeFileHandle file)
    {
        Libc.FileStatus status;
        return Libc.Statx(file, "", Libc.EmptyPath, Libc.StatxLinks | Libc.StatxOwner, &status) == 0 && status.Links == 0 && status.Owner == Libc.UserId();
    }

    /// <summary>By which other processes of this user open a file that this process has open, whatever its name, as long as it has it open.</summary>
    /// <remarks>Linux manual page proc_pid_fd(5).</remarks>
    public static string PathOf(SafeFileHandle file) =>
        string.Create(CultureInfo.InvariantCulture, $"/proc/{Environment.ProcessId}/fd/{file.DangerousGetHandle()}");

    /// <summary>Which file it is, whatever its name: two with the same answer are one.</summary>
    /// <remarks>Linux manual page statx(2): device and inode numbers.</remarks>
    public static (ulong Device, ulong Inode) Identity(SafeFileHandle file)
    {
        Libc.FileStatus status;
        _ = Libc.Statx(file, "", Libc.EmptyPath, Libc.StatxIdentity, &status);
        return ((ulong)status.DeviceMajor << 32 | status.DeviceMinor, status.Inode);
    }

    /// <summary>Bytes that a file takes on the host.</summary>
    public static ulong AllocatedBytes(SafeFileHandle file)
    {
        const ulong unit = 512;
        Libc.FileStatus status;
        return Libc.Statx(file, "", Libc.EmptyPath, Libc.StatxBlocks, &status) == 0 ? status.Blocks * unit : 0;
    }

    /// <summary>The range reads as zeros and takes no room any more. False: the file system cannot.</summary>
    /// <remarks>Linux manual page fallocate(2), "Deallocating file space".</remarks>
    public static bool TryPunchHole(SafeFileHandle file, ulong position, ulong length) =>
        Libc.Fallocate(file, Libc.PunchHole | Libc.KeepSize, (long)position, (long)length) == 0;

    /// <summary>The range reads as zeros and keeps its room. False: the file system cannot.</summary>
    /// <remarks>Linux manual page fallocate(2), "Zeroing file space".</remarks>
    public static bool TryZeroRange(SafeFileHandle file, ulong position, ulong length) =>
        Libc.Fallocate(file, Libc.ZeroRange | Libc.KeepSize, (long)position, (long)length) == 0;

    /// <summary>Where the next byte that is stored lies; null: none from here on, or the file system does not tell.</summary>
    /// <remarks>Linux manual page lseek(2), "Seeking file data and holes". It moves the file's position, which nobody here uses.</remarks>
    public static ulong? NextData(SafeFileHandle file, ulong position)
    {
        long at = Libc.Lseek(file, (long)position, Libc.SeekData);
        return at >= 0 ? (ulong)at : Marshal.GetLastPInvokeError() == Libc.NoSuchAddress ? null : position;
    }

    /// <summary>Takes a shared lock on one byte, which lasts until the file is closed. False: somebody has an exclusive one.</summary>
    /// <remarks>Linux manual page fcntl(2), "Open file description locks".</remarks>
    public static bool TryLockByte(SafeFileHandle file, long at)
    {
        var request = new Libc.FileLock { Kind = Libc.SharedLock, Start = at, Length = 1 };
        if (Libc.Fcntl(file, Libc.SetFileLock, &request) == 0) return true;
        // File systems without such locks are used without them, as other monitors do.
        return Marshal.GetLastPInvokeError() is not (Errno.TryAgain or Errno.AccessDenied);
    }

    /// <summary>Gives a lock on one byte back.</summary>
    public static void UnlockByte(SafeFileHandle file, long at)
    {
        var request = new Libc.FileLock { Kind = Libc.NoLock, Start = at, Length = 1 };
        _ = Libc.Fcntl(file, Libc.SetFileLock, &request);
    }

    /// <summary>Somebody else has a lock on a byte.</summary>
    public static bool IsByteLocked(SafeFileHandle file, long at)
    {
        var request = new Libc.FileLock { Kind = Libc.ExclusiveLock, Start = at, Length = 1 };
        return Libc.Fcntl(file, Libc.GetFileLock, &request) == 0 && request.Kind != Libc.NoLock;
    }

    /// <summary>An extended attribute of up to 255 bytes of text; null: there is none.</summary>
    public static string? GetAttribute(SafeFileHandle file, string name)
    {
        byte* value = stackalloc byte[256];
        nint length = Libc.GetAttribute(file, name, value, 255);
        return length < 0 ? null : Encoding.UTF8.GetString(value, (int)length);
    }

    /// <summary>Sets an extended attribute. False: the file system or the rights do not allow it.</summary>
    public static bool TrySetAttribute(SafeFileHandle file, string name, string value)
    {
        byte[] bytes = Encoding.UTF8.GetBytes(value);
        fixed (byte* first = bytes) return Libc.SetAttribute(file, name, first, (nuint)bytes.Length, 0) == 0;
    }

    /// <summary>Takes an exclusive lock on the whole file, which lasts until it is closed. False: somebody has a lock on it.</summary>
    /// <remarks>Linux manual page fcntl(2), "Open file description locks": the file is open for writing. Locks of processes (F_SETLK) count as well.</remarks>
    public static bool TryLock(SafeFileHandle file)
    {
        var request = new Libc.FileLock { Kind = Libc.ExclusiveLock }; // from the start, without an end
        if (Libc.Fcntl(file, Libc.SetFileLock, &request) == 0) return true;
        return Marshal.GetLastPInvokeError() is not (Errno.TryAgain or Errno.AccessDenied);
    }
}
