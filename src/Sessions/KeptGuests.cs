using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using Bunraku.Hypervisor;
using Bunraku.Machine;
using Bunraku.Network.Slirp;
using Bunraku.Sessions.Snapshots;

namespace Bunraku.Sessions;

/// <summary>
/// Guests of ours that have booted and wait for their command, or to show their shell, kept in the cache as snapshots: a later run with the same kernel,
/// processor and memory goes on from there. What decides that two runs can share one is in the file's name.
/// </summary>
public static class KeptGuests
{
    /// <summary>Bytes that all of them may take on disk; who was not used for the longest time goes first.</summary>
    public const long MostBytes = 2L << 30;

    /// <summary>Of the cache, where they are.</summary>
    public const string Folder = "kept";

    private const string Suffix = ".snap", DiskSuffix = ".disk";

    /// <summary>The guest is one that can be kept before it takes its command: nothing of the outside has gone into it by then.</summary>
    internal static bool Fit(VmOptions o) => o is
    {
        KeepBooted: true, Guest: not HelloGuest.Name, Kernel: null, Bios: null, Append: null or "", SerialStreams: false, CompactDiscs.Count: 0, KeepDisk: null,
        Copies.Count: 0, Vsock: null, Balloon: null, ClockStart: null, HasDisplay: false, Debugger: null, DebugExit: false, TestDevice: false,
        CpuTime.Realtime: false, Seed: null, Init: null
    } && o.Disks.Count == (DebianGuest.Is(o) ? 1 : 0) && o.Networks.All(n => n is UserNetwork);

    /// <summary>The file with what the guest had written to its disk when it was kept.</summary>
    /// <param name="path">From <see cref="PathOf"/>.</param>
    /// <param name="token">Of the guest that was kept: another one has another disk.</param>
    internal static string DiskOf(string path, string token) => $"{Path.ChangeExtension(path, null)}.{token}{DiskSuffix}";

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
        text.Append(CultureInfo.InvariantCulture, $"{SnapshotFile.Version} {o.Guest} {o.Command is null} {o.Memory} {o.Cpus} {o.Paravirtual} ");
        text.Append(CultureInfo.InvariantCulture, $"{o.TscFrequency} {o.Rng} {o.Nested} {o.Board}");
        text.Append(CultureInfo.InvariantCulture, $" {o.Cpu} {model.Name}");
        for (int feature = 0; feature <= byte.MaxValue; feature++)
        {
            if (model.Has((CpuFeature)feature)) text.Append(' ').Append(feature);
        }
        text.Append('\n');
        // Which folders they are comes with the command, but the guest's driver has read the tags.
        for (int n = 0; n < o.Shares.Count; n++) text.Append(CultureInfo.InvariantCulture, $"{o.Shares[n].Kind} {o.Shares[n].TagOf(n)}\n");
        // What is at the other end of a cable begins anew.
        foreach (VmNetwork network in o.Networks)
        {
            SlirpOptions slirp = ((UserNetwork)network).Options;
            text.Append(CultureInfo.InvariantCulture, $"{network.Model} {network.Mac} {network.Mtu} {network.Queues} ");
            text.Append(CultureInfo.InvariantCulture, $"{slirp.Restricted} {slirp.HostLoopback} {slirp.Ip6}\n");
        }
        text.Append(CultureInfo.InvariantCulture, $"{o.DiskSize}\n");
        text.Append(engine.UsesHostPaging ? engine.Name : "software");
        string name = Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(text.ToString())).AsSpan(0, 16));
        return Path.Combine(o.KeptFolder ?? Path.Combine(new GuestCache().Root, Folder), name + Suffix);
    }

    /// <summary>The files of kept guests: path, bytes, time of the last use; last used first.</summary>
    public static IReadOnlyList<FileInfo> All(GuestCache cache) => cache.Has(Folder) ? [.. Files(Path.Combine(cache.Root, Folder))] : [];

    private static IEnumerable<FileInfo> Files(string folder) => new DirectoryInfo(folder).EnumerateFiles()
        .Where(f => f.Extension is Suffix or DiskSuffix && !f.Name.StartsWith('.')).OrderByDescending(f => f.LastAccessTimeUtc);

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
    /// <param name="itsDisk">From <see cref="DiskOf"/>.</param>
    internal static void Trim(string stays, string itsDisk) => Ignoring(() =>
    {
        // What a run left that was killed while it saved.
        foreach (string left in Directory.EnumerateFiles(Path.GetDirectoryName(stays)!, ".*"))
        {
            if (DateTime.UtcNow - File.GetLastWriteTimeUtc(left) > TimeSpan.FromHours(1)) File.Delete(left);
        }
        // A disk is of use with its guest alone. Each has its guest's name before the first point.
        FileInfo[] files = [.. Files(Path.GetDirectoryName(stays)!)];
        long sum = 0;
        foreach (FileInfo guest in files.Where(f => f.Extension == Suffix).OrderByDescending(f => f.FullName == stays))
        {
            FileInfo[] all = [.. files.Where(f => NameOf(f) == NameOf(guest))];
            sum += all.Sum(f => f.Length);
            if (sum <= MostBytes || guest.FullName == stays) continue;
            foreach (FileInfo file in all) file.Delete();
        }
        var guests = files.Where(f => f.Extension == Suffix).Select(NameOf).ToHashSet();
        foreach (FileInfo disk in files.Where(f => f.Extension == DiskSuffix))
        {
            bool isOld = DateTime.UtcNow - disk.LastWriteTimeUtc > TimeSpan.FromHours(1);
            if (NameOf(disk) == NameOf(new FileInfo(stays)) ? disk.FullName != itsDisk : isOld && !guests.Contains(NameOf(disk))) disk.Delete();
        }
    });

    private static string NameOf(FileInfo file) => file.Name[..file.Name.IndexOf('.', StringComparison.Ordinal)];

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
