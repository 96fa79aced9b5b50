using System.ComponentModel;
using System.Runtime.InteropServices;

namespace Bunraku.Platform;

/// <summary>A counter that one side raises and the other takes, across the border to the kernel (eventfd). Thread-safe until it is disposed.</summary>
public sealed unsafe class EventDescriptor : IDisposable
{
    private const int CloseOnExec = 0x80000, NonBlocking = 0x800;

    private readonly int _fd;
    private int _closed;

    /// <exception cref="Win32Exception">No descriptors are left.</exception>
    public EventDescriptor()
    {
        _fd = Libc.EventFd(0, CloseOnExec | NonBlocking);
        if (_fd < 0) throw new Win32Exception(Marshal.GetLastPInvokeError());
    }

    /// <summary>Gives back what nobody gave back.</summary>
    ~EventDescriptor() => Close();

    /// <summary>Its number; valid until it is disposed.</summary>
    public int Descriptor => _fd;

    /// <summary>Raises the counter by one.</summary>
    public void Signal()
    {
        ulong one = 1;
        _ = Libc.Write(_fd, &one, sizeof(ulong)); // full: it is not 0, which is all that counts
    }

    /// <summary>How often it was signalled since the last call; 0 when it was not.</summary>
    public ulong Take()
    {
        ulong count;
        return Libc.Read(_fd, &count, sizeof(ulong)) == sizeof(ulong) ? count : 0;
    }

    /// <summary>Waits for a signal, without taking it. False after the time without one.</summary>
    /// <param name="milliseconds">−1: as long as it takes.</param>
    public bool Wait(int milliseconds)
    {
        for (; ; )
        {
            var polled = new Libc.PollDescriptor { Fd = _fd, Events = Libc.PollIn };
            int n = Libc.Poll(&polled, 1, milliseconds);
            if (n >= 0) return n > 0;
            if (Marshal.GetLastPInvokeError() is not (Libc.Eintr or Libc.Eagain)) return false;
        }
    }

    /// <summary>Gives back what it has. Idempotent.</summary>
    public void Dispose()
    {
        Close();
        GC.SuppressFinalize(this);
    }

    private void Close()
    {
        if (Interlocked.Exchange(ref _closed, 1) == 0 && _fd >= 0) _ = Libc.Close(_fd);
    }
}
