using System.Buffers.Text;
using System.Globalization;
using Microsoft.Win32.SafeHandles;

namespace Bunraku.Platform;

/// <summary>Facts about this process and its host, from /proc.</summary>
public static unsafe class HostProcess
{
    /// <summary>Bytes of RAM of the host, or of the memory cgroup's limit when that is less.</summary>
    public static ulong TotalMemory { get; } = FindTotalMemory();

    /// <summary>
    /// Bytes of the host's memory that this process takes beyond a guest's RAM. A page of shared memory that is seen at two addresses, as all emitted code is,
    /// counts once. From /proc/self/smaps, see proc(5); 0 when that cannot be read.
    /// </summary>
    public static ulong ResidentBytesBeyond(RamBacking memory)
    {
        try
        {
            ulong first = (ulong)memory.Pointer;
            return ResidentMaps.Sum(File.ReadLines("/proc/self/smaps"), (start, _) => start - first < memory.Length);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return 0;
        }
    }

    /// <summary>Bytes of <paramref name="memory"/> that have a host page behind them: what the guest (or who loaded it) touched.</summary>
    public static ulong TouchedBytes(RamBacking memory)
    {
        byte[] present = new byte[memory.Length >> 12];
        fixed (byte* p = present)
        {
            if (Libc.Mincore(memory.Pointer, (nuint)memory.Length, p) != 0) return 0;
        }
        ulong pages = 0;
        foreach (byte b in present) pages += b & 1u;
        return pages << 12;
    }

    /// <summary>When this process began to exist. What became it by exec counts: the time of a build script that it was started by is in it.</summary>
    public static DateTime StartTime
    {
        get
        {
            // Field 22 of /proc/self/stat, in clock ticks (100 a second) since boot; the name in field 2 may contain spaces.
            string stat = File.ReadAllText("/proc/self/stat");
            string[] fields = stat[(stat.LastIndexOf(')') + 2)..].Split(' ');
            double ticks = double.Parse(fields[19], CultureInfo.InvariantCulture);
            double up = double.Parse(File.ReadAllText("/proc/uptime").Split(' ')[0], CultureInfo.InvariantCulture);
            return DateTime.UtcNow - TimeSpan.FromSeconds(up - ticks / 100);
        }
    }

    /// <summary>Bytes of RAM that can be had without anything being swapped out, about: of the host, or of the memory cgroup when that is less.</summary>
    public static ulong AvailableMemory
    {
        get
        {
            ulong available = StatusField("/proc/meminfo", "MemAvailable:"u8);
            try
            {
                if (ulong.TryParse(File.ReadAllText("/sys/fs/cgroup/memory.max"), out ulong limit)
                    && ulong.TryParse(File.ReadAllText("/sys/fs/cgroup/memory.current"), out ulong used))
                    available = Math.Min(available, limit > used ? limit - used : 0);
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                // No such cgroup: no such limit.
            }
            return available;
        }
    }

    /// <summary>Puts one open file in the place of another one.</summary>
    /// <param name="descriptor">That takes the place.</param>
    /// <param name="place">Is closed if it was open.</param>
    public static void Redirect(int descriptor, int place) => _ = Libc.Dup2(descriptor, place);

    /// <summary>The number of the user as whom this process acts.</summary>
    public static uint UserId => Libc.UserId();

    /// <summary>The name that this program was started by, which a link has for itself; empty: it is not known.</summary>
    public static string StartedAs
    {
        get
        {
            try
            {
                byte[] line = File.ReadAllBytes("/proc/self/cmdline");
                int end = Array.IndexOf(line, (byte)0);
                return System.Text.Encoding.UTF8.GetString(line, 0, end < 0 ? line.Length : end);
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                return "";
            }
        }
    }

    /// <summary>
    /// This process gets a session of its own, without a terminal, whose keys do not reach it, unless it leads a group already: Linux manual page setsid(2).
    /// </summary>
    public static void BeginSession() => _ = Libc.Setsid();

    /// <summary>Standard error goes where standard output goes.</summary>
    public static void ErrorsToOutput() => _ = Libc.Dup2(1, 2);

    /// <summary>Standard input, output and error lead to nobody from now on, and their other ends see that.</summary>
    /// <param name="errors">The descriptor that takes the place of standard error; null: nobody.</param>
    /// <exception cref="IOException">The host gives no descriptor.</exception>
    public static void LeaveStreams(int? errors = null)
    {
        using SafeFileHandle nobody = File.OpenHandle("/dev/null", FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite);
        int fd = (int)nobody.DangerousGetHandle();
        Redirect(fd, 0);
        Redirect(fd, 1);
        Redirect(errors ?? fd, 2);
    }

    /// <summary>Stops this process as SIGSTOP does; returns when it was continued.</summary>
    public static void Suspend()
    {
        // To the calling thread: a signal to the process may be taken by another thread while this one runs on.
        _ = Libc.Raise(Libc.Sigstop);
    }

    private static ulong FindTotalMemory()
    {
        ulong total = StatusField("/proc/meminfo", "MemTotal:"u8);
        // No such cgroup: no such limit.
        if (Utf8Parser.TryParse(ReadSmall("/sys/fs/cgroup/memory.max"), out ulong limit, out _)) total = Math.Min(total, limit);
        return total;
    }

    /// <summary>A "Name:  123 kB" line of a /proc file, in bytes.</summary>
    private static ulong StatusField(string file, ReadOnlySpan<byte> name)
    {
        ReadOnlySpan<byte> text = ReadSmall(file);
        for (int end; text.Length > 0; text = end < 0 ? default : text[(end + 1)..])
        {
            end = text.IndexOf((byte)'\n');
            ReadOnlySpan<byte> line = end < 0 ? text : text[..end];
            if (line.StartsWith(name)) return Utf8Parser.TryParse(line[name.Length..].TrimStart(" \t"u8), out ulong value, out _) ? value << 10 : 0;
        }
        return 0;
    }

    /// <summary>The beginning of a small file of the kernel's; empty: there is none, or it cannot be read. Without what an exception would cost.</summary>
    private static ReadOnlySpan<byte> ReadSmall(string file)
    {
        if (!File.Exists(file)) return default;
        try
        {
            using SafeFileHandle handle = File.OpenHandle(file);
            byte[] text = new byte[SmallFile];
            return text.AsSpan(0, RandomAccess.Read(handle, text, 0));
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return default;
        }
    }

    private const int SmallFile = 8192;
}
