namespace Bunraku.Platform;

/// <summary>Error numbers of the kernel.</summary>
public static class Errno
{
    /// <summary>EPERM, ENOENT, EINTR, EIO, E2BIG, EAGAIN, ENOMEM, EACCES, EFAULT, EBUSY, EEXIST, ENODEV, EINVAL, EMFILE, ENOTTY, ENOSPC.</summary>
    public const int NotPermitted = 1, NoEntry = 2, Interrupted = 4, Io = 5, TooBig = 7, TryAgain = 11, NoMemory = 12, AccessDenied = 13, BadAddress = 14,
        Busy = 16,
        Exists = 17, NoDevice = 19, Invalid = 22, TooManyFiles = 24, NotATypewriter = 25, NoSpace = 28;

    /// <summary>EBADF, ENOTDIR, EISDIR, ENFILE, EROFS, ERANGE, ENAMETOOLONG, ENOSYS, ELOOP, ENODATA, EPROTO, EOVERFLOW, EOPNOTSUPP, ESTALE.</summary>
    public const int BadDescriptor = 9, NotAFolder = 20, IsAFolder = 21, TooManyFilesOfAll = 23, ReadOnly = 30, OutOfRange = 34, NameTooLong = 36,
        NotImplemented = 38, Loop = 40, NoData = 61, Protocol = 71, Overflow = 75, NotSupported = 95, Stale = 116;

    /// <summary>The symbol of include/uapi/asm-generic/errno-base.h, or the number.</summary>
    /// <param name="errno">Above 0.</param>
    public static string Name(int errno) => errno switch
    {
        NotPermitted => "EPERM",
        NoEntry => "ENOENT",
        Interrupted => "EINTR",
        Io => "EIO",
        TooBig => "E2BIG",
        TryAgain => "EAGAIN",
        NoMemory => "ENOMEM",
        AccessDenied => "EACCES",
        BadAddress => "EFAULT",
        Busy => "EBUSY",
        Exists => "EEXIST",
        NoDevice => "ENODEV",
        Invalid => "EINVAL",
        TooManyFiles => "EMFILE",
        NotATypewriter => "ENOTTY",
        NoSpace => "ENOSPC",
        _ => $"error {errno}",
    };
}
