using System.Runtime.InteropServices;

namespace Bunraku.Platform;

/// <summary>Terminal, descriptor and signal calls.</summary>
internal static unsafe partial class Libc
{
    public const int Eintr = 4, Eio = 5, Eagain = 11, Epipe = 32;
    public const short PollIn = 1, PollErr = 8, PollHup = 16, PollInvalid = 32;
    public const nuint Tcgets = 0x5401, Tcsets = 0x5402, Tiocgwinsz = 0x5413, Tiocsptlck = 0x4004_5431, Tiocgptn = 0x8004_5430;
    public const int Sigstop = 19;

    /// <summary>The kernel's struct termios of x86, include/uapi/asm-generic/termbits.h.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct Termios
    {
        public uint InputModes, OutputModes, ControlModes, LocalModes;
        public byte Line;
        public fixed byte Characters[19];
    }

    [StructLayout(LayoutKind.Sequential)]
    public struct WindowSize
    {
        public ushort Rows, Columns, PixelWidth, PixelHeight;
    }

    [StructLayout(LayoutKind.Sequential)]
    public struct PollDescriptor
    {
        public int Fd;
        public short Events, Returned;
    }

    [LibraryImport("libc", EntryPoint = "ioctl", SetLastError = true)]
    public static partial int Ioctl(int fd, nuint request, void* argument);

    [LibraryImport("libc", EntryPoint = "read", SetLastError = true)]
    public static partial nint Read(int fd, void* buffer, nuint length);

    [LibraryImport("libc", EntryPoint = "write", SetLastError = true)]
    public static partial nint Write(int fd, void* buffer, nuint length);

    [LibraryImport("libc", EntryPoint = "poll", SetLastError = true)]
    public static partial int Poll(PollDescriptor* descriptors, nuint count, int milliseconds);

    [LibraryImport("libc", EntryPoint = "eventfd", SetLastError = true)]
    public static partial int EventFd(uint initial, int flags);

    [LibraryImport("libc", EntryPoint = "raise", SetLastError = true)]
    public static partial int Raise(int signal);

    [LibraryImport("libc", EntryPoint = "mincore", SetLastError = true)]
    public static partial int Mincore(void* address, nuint length, byte* vector);
}
