using System.Runtime.InteropServices;

namespace Bunraku.Platform;

/// <summary>Starting a process and tracing it.</summary>
internal static unsafe partial class Libc
{
    // sys/ptrace.h and linux/elf.h.
    public const int TracePokeUser = 6, TraceContinue = 7, TraceGetRegisters = 12, TraceSetRegisters = 13, TraceSystemCallsEmulated = 31,
        TraceSetOptions = 0x4200, TraceGetSignal = 0x4202, TraceGetRegisterSet = 0x4204, TraceSetRegisterSet = 0x4205;
    public const int TraceOptionMarkSystemCalls = 1, TraceOptionStopAtExit = 0x40, TraceOptionKillAtExit = 0x0010_0000;
    public const int TraceEventExit = 6;
    public const int XstateNote = 0x202;
    /// <summary>Where struct user has u_debugreg (sys/user.h).</summary>
    public const int UserDebugRegisters = 848;
    /// <summary>__WALL: whatever signal the process ends with.</summary>
    public const int WaitForAll = 0x4000_0000;
    public const int Sigkill = 9, SigUser1 = 10;

    public struct IoVector
    {
        public void* Base;
        public nuint Length;
    }

    [LibraryImport("libc", EntryPoint = "ptrace", SetLastError = true)]
    public static partial nint Ptrace(int request, int process, void* address, void* data);

    [LibraryImport("libc", EntryPoint = "waitpid", SetLastError = true)]
    public static partial int Waitpid(int process, int* status, int options);

    [LibraryImport("libc", EntryPoint = "kill", SetLastError = true)]
    public static partial int Kill(int process, int signal);

    // spawn.h: both structures are opaque, and smaller than this.
    public const int SpawnStructureSize = 512;
    public const short SpawnSetSignalMask = 8, SpawnSetSession = 0x80;

    [LibraryImport("libc", EntryPoint = "posix_spawn", StringMarshalling = StringMarshalling.Utf8)]
    public static partial int Spawn(int* process, string path, void* actions, void* attributes, byte** arguments, byte** environment);

    [LibraryImport("libc", EntryPoint = "posix_spawn_file_actions_init")]
    public static partial int SpawnActionsInit(void* actions);

    [LibraryImport("libc", EntryPoint = "posix_spawn_file_actions_adddup2")]
    public static partial int SpawnActionsAddDup2(void* actions, int from, int to);

    [LibraryImport("libc", EntryPoint = "posix_spawn_file_actions_destroy")]
    public static partial int SpawnActionsDestroy(void* actions);

    [LibraryImport("libc", EntryPoint = "posix_spawnattr_init")]
    public static partial int SpawnAttributesInit(void* attributes);

    [LibraryImport("libc", EntryPoint = "posix_spawnattr_setflags")]
    public static partial int SpawnAttributesSetFlags(void* attributes, short flags);

    [LibraryImport("libc", EntryPoint = "posix_spawnattr_setsigmask")]
    public static partial int SpawnAttributesSetSignalMask(void* attributes, void* mask);

    [LibraryImport("libc", EntryPoint = "posix_spawnattr_destroy")]
    public static partial int SpawnAttributesDestroy(void* attributes);
}
