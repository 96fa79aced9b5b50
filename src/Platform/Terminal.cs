using System.ComponentModel;
using System.Runtime.InteropServices;

namespace Bunraku.Platform;

/// <summary>
/// The terminal behind a descriptor, as its user set it up, and raw mode for as long as a guest has it. Thread-safe.
/// </summary>
/// <remarks>
/// Raw means: no echo, no line editing, no signals from keys, no flow control. Output processing stays on, so that a bare line feed of
/// ours still returns the carriage. The modes found at construction are the ones that come back.
/// </remarks>
public sealed unsafe class Terminal : IDisposable
{
    // Bits of include/uapi/asm-generic/termbits-common.h and termbits.h.
    private const uint Ignbrk = 0x1, Brkint = 0x2, Parmrk = 0x8, Istrip = 0x20, Inlcr = 0x40, Igncr = 0x80, Icrnl = 0x100, Ixon = 0x400;
    private const uint Opost = 0x1, Csize = 0x30, Cs8 = 0x30, Parenb = 0x100;
    private const uint Isig = 0x1, Icanon = 0x2, Echo = 0x8, Echonl = 0x40, Iexten = 0x8000;
    private const int Vtime = 5, Vmin = 6;

    private readonly Lock _lock = new();
    private readonly int _fd;
    private readonly Libc.Termios _found;
    private bool _raw, _disposed;

    private Terminal(int fd, Libc.Termios found) => (_fd, _found) = (fd, found);

    /// <summary>The terminal behind <paramref name="fd"/>, or null when that is something else.</summary>
    public static Terminal? Open(int fd)
    {
        Libc.Termios found;
        return Libc.Ioctl(fd, Libc.Tcgets, &found) == 0 ? new Terminal(fd, found) : null;
    }

    /// <summary>True when <paramref name="fd"/> is a terminal.</summary>
    public static bool Is(int fd)
    {
        Libc.Termios found;
        return Libc.Ioctl(fd, Libc.Tcgets, &found) == 0;
    }

    /// <summary>Columns and rows, or null when the terminal does not know.</summary>
    public (int Columns, int Rows)? Size
    {
        get
        {
            Libc.WindowSize size;
            return Libc.Ioctl(_fd, Libc.Tiocgwinsz, &size) == 0 && size.Columns > 0 ? (size.Columns, size.Rows) : null;
        }
    }

    /// <summary>Enters raw mode. Idempotent; after disposal it does nothing.</summary>
    /// <param name="signals">The keys that send signals go on to do so.</param>
    /// <exception cref="Win32Exception">The terminal is gone.</exception>
    public void EnterRaw(bool signals = false)
    {
        lock (_lock)
        {
            if (_disposed) return;
            Libc.Termios raw = _found;
            raw.InputModes &= ~(Ignbrk | Brkint | Parmrk | Istrip | Inlcr | Igncr | Icrnl | Ixon);
            raw.OutputModes |= Opost;
            raw.ControlModes = (raw.ControlModes & ~(Csize | Parenb)) | Cs8;
            raw.LocalModes &= ~((signals ? 0 : Isig) | Icanon | Echo | Echonl | Iexten);
            raw.Characters[Vmin] = 1;
            raw.Characters[Vtime] = 0;
            if (!Set(raw)) throw new Win32Exception(Marshal.GetLastPInvokeError());
            _raw = true;
        }
    }

    /// <summary>Puts the modes back that were found. Idempotent, never throws: it runs on every way out of the process.</summary>
    public void Restore()
    {
        lock (_lock)
        {
            if (!_raw) return;
            _ = Set(_found);
            _raw = false;
        }
    }

    /// <summary>At once, not after pending output: a terminal that stalls must not hold us up, and output is processed when it is written.</summary>
    private bool Set(Libc.Termios modes)
    {
        while (Libc.Ioctl(_fd, Libc.Tcsets, &modes) != 0)
        {
            // The runtime interrupts threads by signals of its own.
            if (Marshal.GetLastPInvokeError() != Libc.Eintr) return false;
        }
        return true;
    }

    /// <summary>Restores; raw mode cannot be entered any more.</summary>
    public void Dispose()
    {
        lock (_lock)
        {
            Restore();
            _disposed = true;
        }
    }
}
