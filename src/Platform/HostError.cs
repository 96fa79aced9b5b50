using System.Runtime.InteropServices;

namespace Bunraku.Platform;

/// <summary>The host's words for what went wrong with a file or descriptor, without paths, as other programs print them.</summary>
public static class HostError
{
    private const int LargestErrno = 4095; // include/linux/err.h: MAX_ERRNO

    /// <summary>EPIPE: nobody will read any more.</summary>
    public const int BrokenPipe = 32;

    /// <summary>For example "No space left on device".</summary>
    public static string Reason(int errno) => Marshal.GetPInvokeErrorMessage(errno);

    /// <summary>The host has no room for what was to be written.</summary>
    public static bool IsNoSpace(IOException e) => e.HResult == Errno.NoSpace || e.InnerException is IOException { HResult: Errno.NoSpace };

    /// <summary>The same for an exception of the runtime's file classes, which carry the error number where they have no type of their own for it.</summary>
    public static string Reason(Exception e) => e switch
    {
        { InnerException: IOException { HResult: > 0 and <= LargestErrno } inner } => Reason(inner.HResult),
        IOException { HResult: > 0 and <= LargestErrno } => Reason(e.HResult),
        FileNotFoundException or DirectoryNotFoundException => Reason(Errno.NoEntry),
        UnauthorizedAccessException => Reason(Errno.AccessDenied),
        _ => e.Message.ReplaceLineEndings(" "),
    };
}
