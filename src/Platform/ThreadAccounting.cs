using System.Globalization;

namespace Bunraku.Platform;

/// <summary>What the host's scheduler says about one thread of this process, or about the first thread of another: /proc/…/schedstat.</summary>
public sealed unsafe class ThreadAccounting : IDisposable
{
    private const int OpenReadOnly = 0;
    private int _file;

    private ThreadAccounting(int file) => _file = file;

    /// <summary>True where the host's kernel keeps these accounts (CONFIG_SCHED_INFO).</summary>
    public static bool IsAvailable { get; } = File.Exists("/proc/self/schedstat");

    /// <summary>The accounts of the calling thread, which any thread can read; null where there are none.</summary>
    public static ThreadAccounting? OfCurrentThread() => Open($"/proc/self/task/{ThreadSignal.CurrentThread()}/schedstat");

    /// <summary>The accounts of a process's first thread, which any thread can read; null where there are none.</summary>
    /// <param name="process">The host's number of it.</param>
    public static ThreadAccounting? Of(int process) => Open(string.Create(CultureInfo.InvariantCulture, $"/proc/{process}/schedstat"));

    private static ThreadAccounting? Open(string path)
    {
        int file = Libc.Open(path, OpenReadOnly | Libc.OpenCloseOnExec, 0);
        return file < 0 ? null : new ThreadAccounting(file);
    }

    /// <summary>Nanoseconds on a processor, and nanoseconds that the thread was ready to run and waited for one. Both 0 when the thread is gone,
    /// or this is disposed of; not while somebody does that.</summary>
    public (long Run, long Wait) Read()
    {
        if (_file < 0) return default;
        byte* text = stackalloc byte[96];
        nint length = Libc.Pread(_file, text, 96, 0);
        int at = 0;
        return (Number(text, length, ref at), Number(text, length, ref at));
    }

    private static long Number(byte* text, nint length, ref int at)
    {
        long value = 0;
        for (; at < length && text[at] is >= (byte)'0' and <= (byte)'9'; at++) value = value * 10 + text[at] - '0';
        at++;
        return value;
    }

    /// <summary>Gives back what it has. Idempotent.</summary>
    public void Dispose()
    {
        if (_file >= 0) _ = Libc.Close(_file);
        _file = -1;
    }
}
