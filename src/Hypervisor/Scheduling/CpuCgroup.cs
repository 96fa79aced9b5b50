using System.Globalization;

namespace Bunraku.Hypervisor.Scheduling;

/// <summary>
/// A cgroup (version 2) for the vCPU threads of one VM, below the one that the process is in: a threaded one, so that the process itself stays where it is.
/// </summary>
/// <remarks>Linux, Documentation/admin-guide/cgroup-v2.rst, "Threads" and "CPU Interface Files".</remarks>
internal sealed class CpuCgroup : IDisposable
{
    private const int PeriodMicroseconds = 20_000;

    private readonly string _folder;

    private CpuCgroup(string folder) => _folder = folder;

    /// <summary>Null where there is no such hierarchy with a CPU controller, or this process may not change it.</summary>
    public static CpuCgroup? TryCreate(CpuTimeOptions options) => FindParent() is { } parent ? TryCreate(parent, options) : null;

    /// <param name="parent">The folder of the process's own cgroup.</param>
    internal static CpuCgroup? TryCreate(string parent, CpuTimeOptions options)
    {
        string folder = Path.Combine(parent, $"bunraku-{Environment.ProcessId}-{Guid.NewGuid():N}");
        try
        {
            if (!File.ReadAllText(Path.Combine(parent, "cgroup.controllers")).Split([' ', '\n']).Contains("cpu")) return null;
            Directory.CreateDirectory(folder);
            // First the type: a parent with processes of its own can hand controllers down to threaded children only.
            Write(folder, "cgroup.type", "threaded");
            Write(parent, "cgroup.subtree_control", "+cpu");
            if (options.Cap is { } cap)
                Write(folder, "cpu.max", string.Create(CultureInfo.InvariantCulture, $"{(long)(cap / 100 * PeriodMicroseconds)} {PeriodMicroseconds}"));
            if (options.Weight is { } weight) Write(folder, "cpu.weight", weight.ToString(CultureInfo.InvariantCulture));
            return new CpuCgroup(folder);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            Remove(folder);
            return null;
        }
    }

    /// <summary>Takes a thread of this process in.</summary>
    /// <param name="thread">The kernel's number of it.</param>
    public void Add(int thread) => Write(_folder, "cgroup.threads", thread.ToString(CultureInfo.InvariantCulture));

    private static void Write(string folder, string file, string text)
    {
        using var stream = new FileStream(Path.Combine(folder, file), FileMode.Open, FileAccess.Write);
        stream.Write(System.Text.Encoding.ASCII.GetBytes(text));
    }

    private static string? FindParent()
    {
        try
        {
            // "0::/path" in the one, "cgroup2 /mount/point cgroup2 …" in the other.
            string? path = File.ReadLines("/proc/self/cgroup").FirstOrDefault(l => l.StartsWith("0::/", StringComparison.Ordinal))?[4..];
            string[]? mount = File.ReadLines("/proc/self/mounts").Select(l => l.Split(' ')).FirstOrDefault(f => f.Length > 2 && f[2] == "cgroup2");
            return path is null || mount is null ? null : Path.Combine(mount[1], path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }

    private static void Remove(string folder)
    {
        try
        {
            Directory.Delete(folder);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // Not made, or a thread is still on its way out: the host removes nothing by itself, and an empty group costs nothing.
        }
    }

    /// <summary>The threads have ended.</summary>
    public void Dispose() => Remove(_folder);
}
