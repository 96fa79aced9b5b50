using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using Bunraku.Hypervisor;
using Bunraku.Machine;
using Bunraku.Sessions.Snapshots;

namespace Bunraku.Sessions;

/// <summary>
/// Guests of ours that have booted and wait for their command, kept in the cache as snapshots: a later run with the same kernel, processor and memory goes on
/// from there. What decides that two runs can share one is in the file's name.
/// </summary>
public static class KeptGuests
{
    /// <summary>Bytes that all of them may take on disk; who was not used for the longest time goes first.</summary>
    public const long MostBytes = 2L << 30;

    /// <summary>Of the cache, where they are.</summary>
    public const string Folder = "kept";

    private const string Suffix = ".snap";

    /// <summary>The guest is one that can be kept before it takes its command: nothing of the outside has gone into it by then.</summary>
    internal static bool Fit(VmOptions o) => o is
    {
        KeepBooted: true, Command: not null, Kernel: null, Bios: null, Append: null or "", SerialStreams: false, Disks.Count: 0, CompactDiscs.Count: 0,
        Networks.Count: 0, Copies.Count: 0, Debugger: null, DebugExit: false, TestDevice: false, CpuTime.Realtime: false
    };

    /// <summary>Where the guest for a run is kept, or is to be.</summary>
    internal static string PathOf(VmOptions o, GuestFiles files, CpuModel model, IX86Engine engine)
    {
        var text = new StringBuilder();
        // Whatever of the program has a say in a guest's devices and first steps: its assemblies differ when it does.
        foreach (Type type in (Type[])[typeof(SavedState), typeof(CpuModel), typeof(VirtualMachine), typeof(X86Machine), typeof(LinuxGuest), typeof(Vm)])
            text.Append(type.Module.ModuleVersionId).Append('\n');
        foreach (string path in (string[])[files.Kernel, files.Busybox, .. files.Modules])
        {
            var file = new FileInfo(path);
            text.Append(CultureInfo.InvariantCulture, $"{path} {file.Length} {file.LastWriteTimeUtc.Ticks}\n");
        }
        text.Append(CultureInfo.InvariantCulture, $"{SnapshotFile.Version} {o.Guest} {o.Memory} {o.Cpus} {o.Paravirtual} {o.TscFrequency} {o.Rng} {o.Nested}");
        text.Append(CultureInfo.InvariantCulture, $" {o.Cpu} {model.Name} {string.Join(' ', model.Features)}\n");
        // Which folders they are comes with the command, but the guest's driver has read the tags.
        for (int n = 0; n < o.Shares.Count; n++) text.Append(o.Shares[n].TagOf(n)).Append('\n');
        text.Append(engine.UsesHostPaging ? engine.Name : "software");
        string name = Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(text.ToString())).AsSpan(0, 16));
        return Path.Combine(o.KeptFolder ?? Path.Combine(new GuestCache().Root, Folder), name + Suffix);
    }

    /// <summary>The kept guests: path, bytes, time of the last use.</summary>
    public static IReadOnlyList<FileInfo> All(GuestCache cache) => [.. cache.Files(Folder).Where(f => f.EndsWith(Suffix, StringComparison.Ordinal))
        .Select(f => new FileInfo(f)).OrderByDescending(f => f.LastAccessTimeUtc)];

    /// <summary>Opens a kept guest, which was used then; null: there is none.</summary>
    /// <param name="path">From <see cref="PathOf"/>.</param>
    /// <exception cref="KeptGuestException">It is of no use.</exception>
    internal static SnapshotFile? Open(string path)
    {
        if (!File.Exists(path)) return null;
        Ignoring(() => File.SetLastAccessTimeUtc(path, DateTime.UtcNow));
        try
        {
            SnapshotFile file = SnapshotFile.Open(path);
            if (file.Manifest.Waits is not null) return file;
            file.Dispose();
            throw new CannotStartException($"snapshot {path}: its guest does not wait for a command");
        }
        catch (CannotStartException e)
        {
            throw new KeptGuestException(path, e);
        }
    }

    /// <summary>Makes room for one more.</summary>
    /// <param name="stays">The one that was just stored.</param>
    internal static void Trim(string stays) => Ignoring(() =>
    {
        // What a run left that was killed while it saved.
        foreach (string left in Directory.EnumerateFiles(Path.GetDirectoryName(stays)!, ".*"))
        {
            if (DateTime.UtcNow - File.GetLastWriteTimeUtc(left) > TimeSpan.FromHours(1)) File.Delete(left);
        }
        long sum = 0;
        foreach (FileInfo file in All(new GuestCache()))
        {
            sum += file.Length;
            if (sum > MostBytes && file.FullName != stays) file.Delete();
        }
    });

    /// <summary>Another process may do the same at the same time, and nothing depends on it.</summary>
    private static void Ignoring(Action action)
    {
        try
        {
            action();
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // As said.
        }
    }
}

/// <summary>A kept guest cannot be restored: the guest has to be booted.</summary>
internal sealed class KeptGuestException(string path, Exception inner) : Exception(inner.Message, inner)
{
    public string Path => path;
}
