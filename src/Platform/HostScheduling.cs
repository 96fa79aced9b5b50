using System.ComponentModel;
using System.Runtime.InteropServices;

namespace Bunraku.Platform;

/// <summary>How the host schedules the calling thread. What the host refuses is a <see cref="Win32Exception"/> with its error number.</summary>
public static unsafe class HostScheduling
{
    /// <summary>Of a set of processors; more than any host has.</summary>
    internal const int MaskBytes = 8192 / 8;
    private const int ThreadCpuClock = 6; // CPUCLOCK_PERTHREAD_MASK | CPUCLOCK_SCHED
    private const int ProcessCpuClock = 2; // CPUCLOCK_SCHED
    private const int OwnThreadClock = 3; // CLOCK_THREAD_CPUTIME_ID

    /// <summary>Numbers of the processors that this process may run on.</summary>
    public static IReadOnlyList<int> AllowedProcessors
    {
        get
        {
            byte* mask = stackalloc byte[MaskBytes];
            new Span<byte>(mask, MaskBytes).Clear();
            Check(Libc.SchedGetAffinity(0, MaskBytes, mask));
            return [.. Bits(new ReadOnlySpan<byte>(mask, MaskBytes))];
        }
    }

    private static List<int> Bits(ReadOnlySpan<byte> mask)
    {
        var bits = new List<int>();
        for (int n = 0; n < mask.Length * 8; n++)
            if ((mask[n >> 3] >> (n & 7) & 1) != 0) bits.Add(n);
        return bits;
    }

    /// <summary>Keeps the calling thread on one processor of the host.</summary>
    public static void Pin(int processor)
    {
        Check(PinThread(0, processor));
    }

    /// <summary>Keeps a thread on one processor of the host. Not 0: the host refuses.</summary>
    /// <param name="thread">The kernel's number of it; 0 for the calling one.</param>
    internal static int PinThread(int thread, int processor)
    {
        byte* mask = stackalloc byte[MaskBytes];
        new Span<byte>(mask, MaskBytes).Clear();
        mask[processor >> 3] = (byte)(1 << (processor & 7));
        return Libc.SchedSetAffinity(thread, MaskBytes, mask);
    }

    /// <summary>The set has this processor and no other.</summary>
    internal static bool IsOnly(ReadOnlySpan<byte> mask, int processor)
    {
        int place = processor >> 3;
        return mask[place] == 1 << (processor & 7) && !mask[..place].ContainsAnyExcept((byte)0) && !mask[(place + 1)..].ContainsAnyExcept((byte)0);
    }

    /// <summary>Schedules the calling thread by SCHED_FIFO.</summary>
    /// <param name="priority">1 to 99.</param>
    public static void UseFifo(int priority) => Check(Libc.SchedSetScheduler(0, Libc.SchedFifo, &priority));

    /// <summary>Sets the nice value of the calling thread alone.</summary>
    /// <param name="value">-20 to 19.</param>
    public static void SetNice(int value) => Check(Libc.SetPriority(Libc.PriorityOfProcess, Libc.Gettid(), value));

    /// <summary>Keeps in memory what the process has and gets, as soon as it is touched.</summary>
    public static void LockMemory() => Check(Libc.Mlockall(Libc.LockCurrent | Libc.LockFuture | Libc.LockOnFault));

    /// <summary>Gives every page of a memory its host page now.</summary>
    public static void Populate(RamBacking memory)
    {
        // Later it would stop whoever touches the page.
        for (ulong offset = 0; offset < memory.Length; offset += RamBacking.HugePage) memory.Enlarge(memory.Pointer + offset);
        Check(Libc.Madvise(memory.Pointer, (nuint)memory.Length, Libc.AdvicePopulateWrite));
    }

    /// <summary>Nanoseconds that a processor of the host has spent on the calling thread so far.</summary>
    public static long OwnProcessorTime => Read(OwnThreadClock);

    /// <summary>The kernel's number of the calling thread.</summary>
    public static int CurrentThread => Libc.Gettid();

    /// <summary>Nanoseconds that a thread of this process has been on a processor, up to now; 0 when it is gone.</summary>
    /// <param name="thread">The kernel's number of it.</param>
    public static long ProcessorTime(int thread) => Read(~thread << 3 | ThreadCpuClock);

    /// <summary>Nanoseconds that a process has been on processors, up to now; 0 when it is gone.</summary>
    /// <param name="process">The kernel's number of it.</param>
    internal static long ProcessTime(int process) => Read(~process << 3 | ProcessCpuClock);

    /// <summary>Nanoseconds; 0 when there is no such clock.</summary>
    private static long Read(int clock)
    {
        Libc.TimeSpec time = default;
        return Libc.ClockGetTime(clock, &time) == 0 ? time.Seconds * 1_000_000_000 + time.Nanoseconds : 0;
    }

    /// <summary>Sleeps; returns early on a signal. See <see cref="Alarm.MakePunctual"/>.</summary>
    /// <param name="nanoseconds">Less than a second.</param>
    public static void Sleep(long nanoseconds)
    {
        Libc.TimeSpec time = new() { Nanoseconds = nanoseconds };
        _ = Libc.Nanosleep(&time, null);
    }

    private static void Check(int result)
    {
        if (result != 0) throw new Win32Exception(Marshal.GetLastPInvokeError());
    }
}
