using System.Runtime.InteropServices;

namespace Bunraku.Platform;

/// <summary>Opening devices and signalling threads.</summary>
internal static unsafe partial class Libc
{
    public const int OpenReadWrite = 2, OpenCloseOnExec = 0x80000;

    /// <summary>fcntl: F_SETFL and O_NONBLOCK.</summary>
    public const int SetStatusFlags = 4, NonBlocking = 0x800;

    [LibraryImport("libc", EntryPoint = "fcntl", SetLastError = true)]
    public static partial int Fcntl(int fd, int command, nint argument);

    /// <summary>glibc's struct sigaction of x86-64.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct SignalAction
    {
        public void* Handler;
        public fixed ulong Mask[16];
        public int Flags;
        public void* Restorer;
    }

    [LibraryImport("libc", EntryPoint = "open", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    public static partial int Open(string path, int flags, uint mode);

    [LibraryImport("libc", EntryPoint = "sigaction", SetLastError = true)]
    public static partial int Sigaction(int signal, SignalAction* action, SignalAction* old);

    [LibraryImport("libc", EntryPoint = "gettid", SetLastError = true)]
    public static partial int Gettid();

    [LibraryImport("libc", EntryPoint = "tgkill", SetLastError = true)]
    public static partial int Tgkill(int process, int thread, int signal);
}
