using System.Runtime.InteropServices;

namespace Bunraku.Platform;

/// <summary>What <see cref="FaultSignals"/> and <see cref="LowMemory"/> call.</summary>
internal static unsafe partial class Libc
{
    [LibraryImport("libc", EntryPoint = "mprotect", SetLastError = true)]
    public static partial int Mprotect(void* address, nuint length, int protection);

    /// <summary>The C library's struct sigaction of x86-64 has 152 bytes: handler at 0, mask at 8, flags at 136.</summary>
    [LibraryImport("libc", EntryPoint = "sigaction", SetLastError = true)]
    public static partial int SetSignalAction(int signal, void* action, void* old);

    [LibraryImport("libc", EntryPoint = "sigaltstack", SetLastError = true)]
    public static partial int SetSignalStack(void* stack, void* old);

    [LibraryImport("libc", EntryPoint = "pthread_sigmask")]
    public static partial int SetSignalMask(int how, void* set, void* old);
}
