using System.ComponentModel;
using System.Runtime.InteropServices;

namespace Bunraku.Platform;

/// <summary>
/// A signal that does nothing but interrupt the system call of one thread. It is a real-time signal that neither the runtime nor the C library uses, with a
/// handler that returns at once, so that one that comes late, or to a thread that took over the number, does no harm.
/// </summary>
public static unsafe class ThreadSignal
{
    /// <summary>glibc keeps 32 and 33 for itself, .NET takes the first of the others.</summary>
    private const int Signal = 62;
    private const int RestartCalls = 0x10000000; // SA_RESTART: other system calls go on; KVM_RUN returns anyhow

    // The handler lives as long as the process: a signal may be on its way to the very end.
    private static readonly ExecutableMemory s_code = Install();

    private static ExecutableMemory Install()
    {
        var code = new ExecutableMemory(16);
        void* handler = code.Append([0xC3]); // ret
        Libc.SignalAction action = default;
        action.Handler = handler;
        action.Flags = RestartCalls;
        if (Libc.Sigaction(Signal, &action, null) != 0) throw new Win32Exception(Marshal.GetLastPInvokeError());
        return code;
    }

    /// <summary>The kernel's number of the calling thread. Installs the handler before the first one.</summary>
    public static int CurrentThread()
    {
        GC.KeepAlive(s_code);
        return Libc.Gettid();
    }

    /// <summary>Interrupts the system call that a thread of this process is in, if any. A thread that has ended is no error.</summary>
    public static void Interrupt(int thread) => _ = Libc.Tgkill(Environment.ProcessId, thread, Signal);
}
