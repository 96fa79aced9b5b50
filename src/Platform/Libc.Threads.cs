using System.Runtime.InteropServices;

namespace Bunraku.Platform;

/// <summary>Sleeping, and how the host schedules threads.</summary>
internal static unsafe partial class Libc
{
    public const int EventNonBlocking = 0x800, EventCloseOnExec = 0x80000;
    public const int PrSetTimerSlack = 29;
    public const int SchedFifo = 1;
    public const int PriorityOfProcess = 0; // and, on Linux, of a thread by its number
    public const int LockCurrent = 1, LockFuture = 2, LockOnFault = 4;
    public const int AdviceDontNeed = 4, AdviceHugePage = 14, AdvicePopulateWrite = 23, AdviceCollapse = 25;

    [LibraryImport("libc", EntryPoint = "eventfd", SetLastError = true)]
    public static partial int Eventfd(uint initial, int flags);

    [LibraryImport("libc", EntryPoint = "ppoll", SetLastError = true)]
    public static partial int Ppoll(PollDescriptor* descriptors, nuint count, TimeSpec* timeout, void* signals);

    [LibraryImport("libc", EntryPoint = "prctl", SetLastError = true)]
    public static partial int Prctl(int option, nuint a, nuint b, nuint c, nuint d);

    [LibraryImport("libc", EntryPoint = "pread", SetLastError = true)]
    public static partial nint Pread(int fd, void* buffer, nuint length, long offset);

    [LibraryImport("libc", EntryPoint = "sched_setaffinity", SetLastError = true)]
    public static partial int SchedSetAffinity(int thread, nuint size, void* mask);

    [LibraryImport("libc", EntryPoint = "sched_getaffinity", SetLastError = true)]
    public static partial int SchedGetAffinity(int thread, nuint size, void* mask);

    [LibraryImport("libc", EntryPoint = "sched_getcpu"), SuppressGCTransition]
    public static partial int SchedGetCpu();

    [LibraryImport("libc", EntryPoint = "sched_setscheduler", SetLastError = true)]
    public static partial int SchedSetScheduler(int thread, int policy, int* priority);

    [LibraryImport("libc", EntryPoint = "setpriority", SetLastError = true)]
    public static partial int SetPriority(int which, int who, int priority);

    [LibraryImport("libc", EntryPoint = "clock_gettime", SetLastError = true)]
    public static partial int ClockGetTime(int clock, TimeSpec* time);

    [LibraryImport("libc", EntryPoint = "nanosleep", SetLastError = true)]
    public static partial int Nanosleep(TimeSpec* time, TimeSpec* left);

    [LibraryImport("libc", EntryPoint = "mlockall", SetLastError = true)]
    public static partial int Mlockall(int flags);

    [LibraryImport("libc", EntryPoint = "madvise", SetLastError = true)]
    public static partial int Madvise(void* address, nuint length, int advice);
}
