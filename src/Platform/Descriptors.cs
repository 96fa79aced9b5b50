using System.ComponentModel;
using System.Runtime.InteropServices;

namespace Bunraku.Platform;

/// <summary>
/// Reads a descriptor from one thread until it ends or <see cref="Stop"/> is called from any thread. Unlike the console's own reader it never
/// touches the terminal's modes, and a pending read can be given up. The descriptor stays open.
/// </summary>
public sealed unsafe class DescriptorReader : IDisposable
{
    private const int EfdCloexec = 0x80000;
    private readonly int _fd, _wake;

    /// <exception cref="Win32Exception">No descriptors left.</exception>
    public DescriptorReader(int fd)
    {
        _fd = fd;
        _wake = Libc.EventFd(0, EfdCloexec);
        if (_wake < 0) throw new Win32Exception(Marshal.GetLastPInvokeError());
    }

    /// <summary>Waits for bytes. 0 at the end of input, after <see cref="Stop"/>, or when the terminal is gone.</summary>
    public int Read(Span<byte> buffer)
    {
        Libc.PollDescriptor* polled = stackalloc Libc.PollDescriptor[2];
        while (true)
        {
            polled[0] = new() { Fd = _fd, Events = Libc.PollIn };
            polled[1] = new() { Fd = _wake, Events = Libc.PollIn };
            if (Libc.Poll(polled, 2, -1) < 0)
            {
                if (Marshal.GetLastPInvokeError() is Libc.Eintr or Libc.Eagain) continue;
                return 0;
            }
            if (polled[1].Returned != 0 || (polled[0].Returned & Libc.PollInvalid) != 0) return 0;
            if (polled[0].Returned == 0) continue;
            nint n;
            fixed (byte* p = buffer) n = Libc.Read(_fd, p, (nuint)buffer.Length);
            if (n >= 0) return (int)n;
            if (Marshal.GetLastPInvokeError() is not (Libc.Eintr or Libc.Eagain)) return 0;
        }
    }

    /// <summary>Ends the current and every later <see cref="Read"/>.</summary>
    public void Stop()
    {
        ulong one = 1;
        _ = Libc.Write(_wake, &one, sizeof(ulong));
    }

    /// <summary>Not while another thread reads.</summary>
    public void Dispose() => _ = Libc.Close(_wake);
}

/// <summary>Writes to a descriptor without any buffer of our own.</summary>
public static unsafe class DescriptorWriter
{
    /// <summary>
    /// Writes all of <paramref name="bytes"/>, waiting as long as it takes. 0, or the error number when the rest can never be written (broken pipe, full disk).
    /// </summary>
    public static int WriteAll(int fd, ReadOnlySpan<byte> bytes)
    {
        fixed (byte* p = bytes)
        {
            for (int done = 0; done < bytes.Length;)
            {
                nint n = Libc.Write(fd, p + done, (nuint)(bytes.Length - done));
                if (n >= 0)
                {
                    done += (int)n;
                    continue;
                }
                int errno = Marshal.GetLastPInvokeError();
                switch (errno)
                {
                    case Libc.Eintr:
                        break;
                    case Libc.Eagain: // somebody shares the descriptor and made it non-blocking
                        Libc.PollDescriptor polled = new() { Fd = fd, Events = 4 /* POLLOUT */ };
                        _ = Libc.Poll(&polled, 1, -1);
                        break;
                    default:
                        return errno;
                }
            }
        }
        return 0;
    }
}
