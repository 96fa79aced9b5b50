using System.ComponentModel;
using System.Runtime.InteropServices;

namespace Bunraku.Platform;

/// <summary>
/// A sleep of one thread that others can end, exact to what the host's scheduler can do: the runtime's own waits count in milliseconds, and the kernel's
/// default timer slack would add 50 µs.
/// </summary>
public sealed unsafe class Alarm : IDisposable
{
    private readonly int _event;
    private volatile bool _disposed;

    /// <exception cref="Win32Exception">The host has no descriptor left.</exception>
    public Alarm()
    {
        _event = Libc.Eventfd(0, Libc.EventNonBlocking | Libc.EventCloseOnExec);
        if (_event < 0) throw new Win32Exception(Marshal.GetLastPInvokeError());
    }

    /// <summary>Lets the calling thread's sleeps end when they should, instead of up to 50 µs later in company of others.</summary>
    public static void MakePunctual() => _ = Libc.Prctl(Libc.PrSetTimerSlack, 1, 0, 0, 0);

    /// <summary>Sleeps; returns early when rung, or when it was rung since the last time, or on a signal.</summary>
    /// <param name="nanoseconds">How long; negative: until it is rung.</param>
    public void Sleep(long nanoseconds)
    {
        Libc.PollDescriptor descriptor = new() { Fd = _event, Events = Libc.PollIn };
        Libc.TimeSpec time = new() { Seconds = nanoseconds / 1_000_000_000, Nanoseconds = nanoseconds % 1_000_000_000 };
        if (Libc.Ppoll(&descriptor, 1, nanoseconds < 0 ? null : &time, null) <= 0) return;
        ulong count;
        _ = Libc.Read(_event, &count, sizeof(ulong));
    }

    /// <summary>Ends the sleep, or the next one. Any thread; not after disposal.</summary>
    public void Ring()
    {
        ulong one = 1;
        if (!_disposed) _ = Libc.Write(_event, &one, sizeof(ulong));
    }

    /// <summary>Nobody sleeps or rings any more.</summary>
    public void Dispose()
    {
        if (_disposed) return;
        _disposed = true;
        _ = Libc.Close(_event);
    }
}
