using System.Buffers.Text;
using System.Runtime.InteropServices;

namespace Bunraku.Platform;

/// <summary>
/// The host's calls on what lies in a folder: by the folder's descriptor and one name, which is bytes without '/' or NUL, and never by a path. Nothing here
/// follows a symbolic link. Each returns 0 or an error number (errno(3)); there are no exceptions. Thread-safe; descriptors are the caller's to close.
/// </summary>
/// <remarks>
/// A descriptor of <see cref="OpenChild"/> (O_PATH) names a file without having it open: nothing happens to a device or a FIFO by that. What needs an open
/// file, or a path, goes through /proc/self/fd, where the descriptor, and not a name that could have come to mean something else, says which file it is.
/// </remarks>
public static unsafe class FolderCalls
{
    /// <summary>Most bytes of a name, and of a path or a symbolic link's target (limits.h: NAME_MAX, PATH_MAX).</summary>
    public const int LongestName = 255, LongestPath = 4095;

    private const int NamesItself = 0x1000, FollowsLink = 0x400; // AT_EMPTY_PATH, AT_SYMLINK_FOLLOW
    private const int RemoveFolderFlag = 0x200;
    private const uint BasicStatus = 0x7FF, BirthTime = 0x800;
    private const int AppendFlag = 0x10; // RWF_APPEND
    private const int LongestProcPath = 32;

    private static int Outcome(nint result) => result < 0 ? Marshal.GetLastPInvokeError() : 0;

    private static int Outcome(nint result, out int value)
    {
        value = (int)result;
        return result < 0 ? Marshal.GetLastPInvokeError() : 0;
    }

    /// <summary>"/proc/self/fd/N" with a NUL behind it.</summary>
    private static void WritePath(int fd, byte* path)
    {
        ReadOnlySpan<byte> prefix = "/proc/self/fd/"u8;
        var span = new Span<byte>(path, LongestProcPath);
        prefix.CopyTo(span);
        Utf8Formatter.TryFormat(fd, span[prefix.Length..], out int digits);
        span[prefix.Length + digits] = 0;
    }

    /// <summary>A name with a NUL behind it. The callers have checked its length.</summary>
    private static void WriteName(ReadOnlySpan<byte> name, Span<byte> place)
    {
        name.CopyTo(place);
        place[name.Length] = 0;
    }

    private static int OpenBeneath(int folder, ReadOnlySpan<byte> name, int flags, uint mode, out int fd)
    {
        Span<byte> text = stackalloc byte[LongestName + 1];
        if (name.Length > LongestName) return Failed(Errno.NameTooLong, out fd);
        WriteName(name, text);
        var how = new Libc.OpenHow
        {
            Flags = (ulong)(uint)(flags | Libc.OpenCloseOnExec | Libc.OpenNoFollow),
            Mode = mode,
            Resolve = Libc.Beneath | Libc.NoMagicLinks | Libc.NoSymbolicLinks,
        };
        fixed (byte* p = text)
            return Outcome(Libc.SystemCall(Libc.SystemOpenat2, folder, (nint)p, (nint)(&how), sizeof(Libc.OpenHow), 0, 0), out fd);
    }

    private static int Failed(int errno, out int fd)
    {
        fd = -1;
        return errno;
    }

    /// <summary>A folder by its path, links in it followed: what everything else begins at.</summary>
    public static int OpenFolder(string path, out int fd) => Outcome(Libc.Open(path, Libc.OpenPath | Libc.OpenFolder | Libc.OpenCloseOnExec, 0), out fd);

    /// <summary>Names what is in a folder, whatever it is, without opening it; a symbolic link is named itself.</summary>
    public static int OpenChild(int folder, ReadOnlySpan<byte> name, out int fd) => OpenBeneath(folder, name, Libc.OpenPath, 0, out fd);

    /// <summary>Makes a regular file and opens it; what is there already is an error (EEXIST).</summary>
    /// <param name="access">How it is opened: open(2).</param>
    /// <param name="mode">Permissions, from which the process's mask takes.</param>
    public static int CreateFile(int folder, ReadOnlySpan<byte> name, FileAccessMode access, uint mode, out int fd) =>
        OpenBeneath(folder, name, (int)access | Libc.OpenCreate | Libc.OpenExclusive | Libc.NonBlocking, mode, out fd);

    /// <summary>Opens what a descriptor names. It must be a regular file or a folder: opening others can wait or do something.</summary>
    public static int Reopen(int fd, FileAccessMode access, bool truncate, out int opened)
    {
        byte* path = stackalloc byte[LongestProcPath];
        WritePath(fd, path);
        return Outcome(Libc.Open(path, (int)access | (truncate ? Libc.OpenTruncate : 0) | Libc.OpenCloseOnExec | Libc.NonBlocking, 0), out opened);
    }

    /// <summary>Names what is open, as <see cref="OpenChild"/> does.</summary>
    public static int Name(int fd, out int named)
    {
        byte* path = stackalloc byte[LongestProcPath];
        WritePath(fd, path);
        return Outcome(Libc.Open(path, Libc.OpenPath | Libc.OpenCloseOnExec, 0), out named);
    }

    /// <summary>Opens a folder for <see cref="ReadFolder"/>.</summary>
    public static int ReopenFolder(int fd, out int opened)
    {
        byte* path = stackalloc byte[LongestProcPath];
        WritePath(fd, path);
        return Outcome(Libc.Open(path, Libc.OpenFolder | Libc.OpenCloseOnExec, 0), out opened);
    }

    /// <summary>Closes a descriptor.</summary>
    public static void Close(int fd) => _ = Libc.Close(fd);

    /// <summary>What a descriptor names.</summary>
    public static int Status(int fd, out HostFileStatus status)
    {
        byte empty = 0;
        fixed (HostFileStatus* p = &status) return Outcome(Libc.Statx(fd, &empty, NamesItself | Libc.NoFollow, BasicStatus | BirthTime, p));
    }

    /// <summary>Makes a folder.</summary>
    public static int MakeFolder(int folder, ReadOnlySpan<byte> name, uint mode)
    {
        Span<byte> text = stackalloc byte[LongestName + 1];
        if (name.Length > LongestName) return Errno.NameTooLong;
        WriteName(name, text);
        fixed (byte* p = text) return Outcome(Libc.Mkdirat(folder, p, mode));
    }

    /// <summary>Makes a FIFO or a socket's node.</summary>
    /// <param name="mode">Kind and permissions.</param>
    public static int MakeNode(int folder, ReadOnlySpan<byte> name, uint mode)
    {
        Span<byte> text = stackalloc byte[LongestName + 1];
        if (name.Length > LongestName) return Errno.NameTooLong;
        WriteName(name, text);
        fixed (byte* p = text) return Outcome(Libc.Mknodat(folder, p, mode, 0));
    }

    /// <summary>Makes a symbolic link.</summary>
    /// <param name="target">Up to <see cref="LongestPath"/> bytes without NUL.</param>
    public static int MakeSymbolicLink(ReadOnlySpan<byte> target, int folder, ReadOnlySpan<byte> name)
    {
        Span<byte> text = stackalloc byte[LongestName + 1], where = stackalloc byte[LongestPath + 1];
        if (name.Length > LongestName || target.Length > LongestPath) return Errno.NameTooLong;
        WriteName(name, text);
        WriteName(target, where);
        fixed (byte* p = text, t = where) return Outcome(Libc.Symlinkat(t, folder, p));
    }

    /// <summary>Gives what a descriptor names one more name.</summary>
    public static int MakeHardLink(int fd, int folder, ReadOnlySpan<byte> name)
    {
        Span<byte> text = stackalloc byte[LongestName + 1];
        if (name.Length > LongestName) return Errno.NameTooLong;
        WriteName(name, text);
        byte* path = stackalloc byte[LongestProcPath];
        WritePath(fd, path);
        fixed (byte* p = text) return Outcome(Libc.Linkat(Libc.CurrentFolder, path, folder, p, FollowsLink));
    }

    /// <summary>Removes a name.</summary>
    /// <param name="isFolder">Of a folder, which must be empty; else of anything that is none.</param>
    public static int Remove(int folder, ReadOnlySpan<byte> name, bool isFolder)
    {
        Span<byte> text = stackalloc byte[LongestName + 1];
        if (name.Length > LongestName) return Errno.NameTooLong;
        WriteName(name, text);
        fixed (byte* p = text) return Outcome(Libc.Unlinkat(folder, p, isFolder ? RemoveFolderFlag : 0));
    }

    /// <summary>Moves a name.</summary>
    /// <param name="flags">Of renameat2(2).</param>
    public static int Rename(int oldFolder, ReadOnlySpan<byte> oldName, int folder, ReadOnlySpan<byte> name, uint flags)
    {
        Span<byte> from = stackalloc byte[LongestName + 1], to = stackalloc byte[LongestName + 1];
        if (name.Length > LongestName || oldName.Length > LongestName) return Errno.NameTooLong;
        WriteName(oldName, from);
        WriteName(name, to);
        fixed (byte* f = from, t = to) return Outcome(Libc.SystemCall(Libc.SystemRenameat2, oldFolder, (nint)f, folder, (nint)t, (nint)flags, 0));
    }

    /// <summary>Where a symbolic link leads.</summary>
    /// <param name="length">Bytes of the target that are in the buffer, without NUL.</param>
    public static int ReadLink(int fd, Span<byte> buffer, out int length)
    {
        byte empty = 0;
        fixed (byte* p = buffer) return Outcome(Libc.Readlinkat(fd, &empty, p, (nuint)buffer.Length), out length);
    }

    /// <summary>Sets permissions, the process's mask aside.</summary>
    public static int SetMode(int fd, uint mode)
    {
        byte* path = stackalloc byte[LongestProcPath];
        WritePath(fd, path);
        return Outcome(Libc.Chmod(path, mode));
    }

    /// <summary>Sets user and group; uint.MaxValue leaves one as it is.</summary>
    public static int SetOwner(int fd, uint user, uint group)
    {
        byte empty = 0;
        return Outcome(Libc.Fchownat(fd, &empty, user, group, NamesItself | Libc.NoFollow));
    }

    /// <summary>Sets the times of the last access and of the last change of the contents.</summary>
    public static int SetTimes(int fd, HostFileTime accessed, HostFileTime modified)
    {
        byte empty = 0;
        Libc.TimeSpec* times = stackalloc Libc.TimeSpec[2];
        times[0] = new() { Seconds = accessed.Seconds, Nanoseconds = accessed.Nanoseconds };
        times[1] = new() { Seconds = modified.Seconds, Nanoseconds = modified.Nanoseconds };
        return Outcome(Libc.Utimensat(fd, &empty, times, NamesItself));
    }

    /// <summary>Sets the length of a file.</summary>
    /// <param name="isOpen">The descriptor is of a file that is open for writing; else it names one.</param>
    public static int SetLength(int fd, bool isOpen, long length)
    {
        if (isOpen) return Outcome(Libc.Ftruncate(fd, length));
        byte* path = stackalloc byte[LongestProcPath];
        WritePath(fd, path);
        return Outcome(Libc.Truncate(path, length));
    }

    /// <summary>Reads until the destination is full or the file ends.</summary>
    /// <param name="done">Bytes that were read; more than 0 is no error, whatever came behind.</param>
    public static int Read(int fd, long position, Span<byte> destination, out int done)
    {
        done = 0;
        fixed (byte* p = destination)
        {
            while (done < destination.Length)
            {
                nint n = Libc.Pread(fd, p + done, (nuint)(destination.Length - done), position + done);
                if (n == 0) break;
                if (n > 0) done += (int)n;
                else if (Marshal.GetLastPInvokeError() is var errno && errno != Errno.Interrupted) return done > 0 ? 0 : errno;
            }
        }
        return 0;
    }

    /// <summary>Writes all, or as much as can be written.</summary>
    /// <param name="append">At the end of the file, wherever that is at the moment, and not at the position.</param>
    /// <param name="done">Bytes that were written; more than 0 is no error, whatever came behind.</param>
    public static int Write(int fd, long position, ReadOnlySpan<byte> source, bool append, out int done)
    {
        done = 0;
        fixed (byte* p = source)
        {
            while (done < source.Length)
            {
                var piece = new Libc.Piece { Base = p + done, Length = (nuint)(source.Length - done) };
                nint n = append ? Libc.Pwritev2(fd, &piece, 1, position + done, AppendFlag) : Libc.Pwrite(fd, piece.Base, piece.Length, position + done);
                if (n == 0) break;
                if (n > 0) done += (int)n;
                else if (Marshal.GetLastPInvokeError() is var errno && errno != Errno.Interrupted) return done > 0 ? 0 : errno;
            }
        }
        return 0;
    }

    /// <summary>Makes lasting what was written.</summary>
    /// <param name="dataOnly">Not what only times and such tell.</param>
    public static int Sync(int fd, bool dataOnly) => Outcome(dataOnly ? Libc.Fdatasync(fd) : Libc.Fsync(fd));

    /// <summary>The same for all of the file system that an open file or folder is on.</summary>
    public static int SyncFileSystem(int fd) => Outcome(Libc.Syncfs(fd));

    /// <summary>What closing an open file would say: some file systems tell only then that something could not be written.</summary>
    public static int Flush(int fd)
    {
        int copy = Libc.Dup(fd);
        return copy < 0 ? Marshal.GetLastPInvokeError() : Outcome(Libc.Close(copy));
    }

    /// <summary>Room for a range of a file: fallocate(2).</summary>
    public static int Allocate(int fd, int mode, long position, long length) => Outcome(Libc.Fallocate(fd, mode, position, length));

    /// <summary>Where the next data or the next hole lies.</summary>
    /// <param name="hole">A hole is looked for, and not data.</param>
    public static int FindData(int fd, long position, bool hole, out long found)
    {
        found = Libc.Lseek(fd, position, hole ? Libc.SeekHole : Libc.SeekData);
        return found < 0 ? Marshal.GetLastPInvokeError() : 0;
    }

    /// <summary>Copies from one open file to another one.</summary>
    /// <param name="done">Bytes that were copied, perhaps fewer than there are.</param>
    public static int Copy(int from, long position, int to, long toPosition, ulong length, out long done)
    {
        done = Libc.SystemCall(Libc.SystemCopyFileRange, from, (nint)(&position), to, (nint)(&toPosition), (nint)length, 0);
        return done < 0 ? Marshal.GetLastPInvokeError() : 0;
    }

    /// <summary>Reads entries of an open folder: struct linux_dirent64 of getdents64(2), one behind the other.</summary>
    /// <param name="position">0, or what an entry says of where the next one lies; null: where the last call ended.</param>
    /// <param name="length">Bytes that are in the buffer; 0 at the end.</param>
    public static int ReadFolder(int fd, long? position, Span<byte> buffer, out int length)
    {
        length = 0;
        if (position is { } at && Libc.Lseek(fd, at, 0) < 0) return Marshal.GetLastPInvokeError();
        fixed (byte* p = buffer) return Outcome(Libc.SystemCall(Libc.SystemGetdents64, fd, (nint)p, buffer.Length, 0, 0, 0), out length);
    }

    /// <summary>The file system that a descriptor's file is on.</summary>
    public static int FileSystem(int fd, out HostFileSystem status)
    {
        Libc.FileSystemStatus s;
        int errno = Outcome(Libc.Fstatfs(fd, &s));
        status = errno != 0 ? default
            : new((ulong)s.BlockSize, (ulong)s.FragmentSize, s.Blocks, s.Free, s.Available, s.Files, s.FreeFiles, (uint)s.LongestName);
        return errno;
    }

    /// <summary>
    /// Whether a descriptor's file is on a file system that is a way into the kernel or other processes, where a regular file may be somebody's memory: proc,
    /// sys and what is mounted below (numbers: linux/magic.h).
    /// </summary>
    public static bool IsKernels(int fd)
    {
        const uint proc = 0x9FA0, sysfs = 0x6265_6572, debugfs = 0x6462_6720, tracefs = 0x7472_6163, securityfs = 0x7363_6673, cgroup = 0x27_E0EB,
            cgroup2 = 0x6367_7270, configfs = 0x6265_6570, bpf = 0xCAFE_4A11, efivarfs = 0xDE5E_81E4, selinux = 0xF97C_FF8C, smack = 0x4341_5D53,
            binfmt = 0x4249_4E4D;
        Libc.FileSystemStatus s;
        return Libc.Fstatfs(fd, &s) != 0 || (uint)s.Kind is proc or sysfs or debugfs or tracefs or securityfs or cgroup or cgroup2 or configfs or bpf
            or efivarfs or selinux or smack or binfmt;
    }

    /// <summary>
    /// For the calling thread, whoever runs it: writing to a file with set-user-ID or set-group-ID, or changing its size, takes these away, as it does for
    /// everybody but root (CAP_FSETID, capabilities(7)).
    /// </summary>
    public static void WritesTakePrivileges()
    {
        const uint version3 = 0x2008_0522, fileSetId = 1u << 4;
        uint* header = stackalloc uint[2], sets = stackalloc uint[6]; // version and thread; effective, permitted, inheritable of 32 capabilities, twice
        (header[0], header[1]) = (version3, 0);
        if (Libc.SystemCall(Libc.SystemCapget, (nint)header, (nint)sets, 0, 0, 0, 0) != 0 || (sets[0] & fileSetId) == 0) return;
        sets[0] &= ~fileSetId;
        _ = Libc.SystemCall(Libc.SystemCapset, (nint)header, (nint)sets, 0, 0, 0, 0);
    }

    /// <summary>An extended attribute.</summary>
    /// <param name="name">Without NUL, up to <see cref="LongestName"/> bytes.</param>
    /// <param name="value">Empty: only its length is asked for.</param>
    public static int GetAttribute(int fd, ReadOnlySpan<byte> name, Span<byte> value, out int length)
    {
        Span<byte> text = stackalloc byte[LongestName + 1];
        if (name.Length > LongestName) return Failed(Errno.OutOfRange, out length);
        WriteName(name, text);
        byte* path = stackalloc byte[LongestProcPath];
        WritePath(fd, path);
        fixed (byte* n = text, v = value) return Outcome(Libc.Getxattr(path, n, v, (nuint)value.Length), out length);
    }

    /// <summary>Sets an extended attribute.</summary>
    /// <param name="flags">Of setxattr(2): it must be new, or be there.</param>
    public static int SetAttribute(int fd, ReadOnlySpan<byte> name, ReadOnlySpan<byte> value, int flags)
    {
        Span<byte> text = stackalloc byte[LongestName + 1];
        if (name.Length > LongestName) return Errno.OutOfRange;
        WriteName(name, text);
        byte* path = stackalloc byte[LongestProcPath];
        WritePath(fd, path);
        fixed (byte* n = text, v = value) return Outcome(Libc.Setxattr(path, n, v, (nuint)value.Length, flags));
    }

    /// <summary>Names of all extended attributes, each with a NUL behind it.</summary>
    public static int ListAttributes(int fd, Span<byte> list, out int length)
    {
        byte* path = stackalloc byte[LongestProcPath];
        WritePath(fd, path);
        fixed (byte* p = list) return Outcome(Libc.Listxattr(path, p, (nuint)list.Length), out length);
    }

    /// <summary>Removes an extended attribute.</summary>
    public static int RemoveAttribute(int fd, ReadOnlySpan<byte> name)
    {
        Span<byte> text = stackalloc byte[LongestName + 1];
        if (name.Length > LongestName) return Errno.OutOfRange;
        WriteName(name, text);
        byte* path = stackalloc byte[LongestProcPath];
        WritePath(fd, path);
        fixed (byte* n = text) return Outcome(Libc.Removexattr(path, n));
    }

    /// <summary>Descriptors that this process may have.</summary>
    public static ulong MostDescriptors
    {
        get
        {
            const ulong usual = 1024;
            Libc.Limit limit;
            return Libc.Getrlimit(Libc.DescriptorLimit, &limit) == 0 ? limit.Current : usual;
        }
    }

    /// <summary>Number of the group as which this process acts.</summary>
    public static uint GroupId => Libc.GroupId();
}

/// <summary>How a file is opened: open(2).</summary>
public enum FileAccessMode
{
    /// <summary>O_RDONLY.</summary>
    Read = 0,
    /// <summary>O_WRONLY.</summary>
    Write = 1,
    /// <summary>O_RDWR.</summary>
    ReadWrite = 2,
}

/// <summary>Of a file system: statfs(2).</summary>
/// <param name="BlockSize">Bytes that are best transferred at a time.</param>
/// <param name="Unit">Bytes that the numbers of blocks count.</param>
/// <param name="Available">Blocks that others than root may have.</param>
public readonly record struct HostFileSystem(
    ulong BlockSize, ulong Unit, ulong Blocks, ulong Free, ulong Available, ulong Files, ulong FreeFiles, uint LongestName);
