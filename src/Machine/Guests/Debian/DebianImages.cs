using System.Security.Cryptography;
using System.Text;

namespace Bunraku.Machine;

/// <summary>What the guest 'debian' is booted from. All in one folder of the cache.</summary>
/// <param name="Disk">Image of its disk, which is only read.</param>
/// <param name="Kernel">The kernel whose modules are on the disk.</param>
/// <param name="Initramfs">From <see cref="DebianBoot.Base"/>.</param>
/// <param name="Busybox">For commands.</param>
public sealed record DebianFiles(string Disk, string Kernel, string Initramfs, string Busybox);

/// <summary>What the guest that makes the image is to be given.</summary>
/// <param name="Kernel">A kernel's path.</param>
/// <param name="Initrd">Path of its initramfs.</param>
/// <param name="Disk">Where the image of its first disk is to be: see <see cref="DebianImages.DiskSize"/>.</param>
/// <param name="Tree">Image of its second disk, raw, which it reads.</param>
/// <param name="Packages">How many are configured.</param>
/// <param name="Token">Differs for each making.</param>
public sealed record DebianMaking(string Kernel, string Initrd, string Disk, string Tree, int Packages, string Token)
{
    /// <summary>Inside the cache; what is in it is the image in the end.</summary>
    internal string Folder => Path.GetDirectoryName(Disk)!;

    /// <summary>What the guest's own line says: "format", "unpack", "configure", "finish", "done", or "failed" and of what; null: it is another line.</summary>
    public string? Said(string line) => line.StartsWith($"{DebianRecipe.Mark}{Token} ", StringComparison.Ordinal)
        ? line[(DebianRecipe.Mark.Length + Token.Length + 1)..].TrimEnd() : null;
}

/// <summary>
/// The image of one of the guests 'debian' and 'debian-generic': found in the cache, or prepared from the distribution's packages for a guest that makes it.
/// No root is needed. For one thread; processes wait for each other.
/// </summary>
/// <param name="cache">Where it is kept.</param>
/// <param name="progress">Told in a few words what takes long.</param>
/// <param name="alternatives">What a user can do where it cannot be had, as the end of a message.</param>
/// <param name="searchPath">Folders where apt and dpkg are looked for, colon-separated; null for PATH.</param>
/// <param name="guest">One of <see cref="Names"/>, and the name of its folder in the cache.</param>
public sealed class DebianImages(
    GuestCache cache, Action<string>? progress, string alternatives, string? searchPath = null, string guest = DebianImages.Name)
{
    /// <summary>The guest with the kernel for virtual machines, and the one with the generic kernel.</summary>
    public const string Name = "debian", GenericName = "debian-generic";

    /// <summary>The guests.</summary>
    public static IReadOnlyList<string> Names { get; } = [Name, GenericName];

    /// <summary>Bytes of the disk.</summary>
    public const ulong DiskSize = DebianRecipe.DiskSize;

    /// <summary>Bytes of memory that the making guest needs.</summary>
    public const ulong MakersMemory = DebianRecipe.MakersMemory;

    /// <summary>Its kernel's parameters.</summary>
    public const string MakersAppend = DebianRecipe.MakersAppend;

    /// <summary>What a folder of the cache begins with in which an image is made: another one for each guest, since both may be made at a time.</summary>
    private string Unfinished => guest == GenericName ? ".generic-debian-" : ".debian-";

    private const string DiskPrefix = "disk-", DiskSuffix = ".qcow2", InitramfsName = "initramfs", BusyboxName = "busybox";

    private string KernelGuest => guest == GenericName ? "linux-generic" : "linux";

    /// <summary>For tests: a system of few packages.</summary>
    internal bool Small { get; init; }

    /// <summary>The image; null: it has to be made.</summary>
    public DebianFiles? Find()
    {
        IReadOnlyList<string> files = cache.Files(guest);
        return files.FirstOrDefault(f => Is(f, DiskPrefix)) is { } disk && files.FirstOrDefault(f => Is(f, DebianPackages.KernelPrefix)) is { } kernel
            && files.FirstOrDefault(f => Is(f, InitramfsName)) is { } initramfs && files.FirstOrDefault(f => Is(f, BusyboxName)) is { } busybox
            ? new DebianFiles(disk, kernel, initramfs, busybox) : null;

        static bool Is(string path, string prefix) => Path.GetFileName(path).StartsWith(prefix, StringComparison.Ordinal);
    }

    /// <summary>Waits until nobody else makes the image, and keeps others from it until disposal.</summary>
    public IDisposable Hold(CancellationToken cancel) =>
        cache.Hold(() => progress?.Invoke($"another process makes the guest '{guest}'; waiting for it"), cancel, guest);

    /// <summary>Chooses packages, downloads them and lays them out. With the image held.</summary>
    /// <exception cref="BootException">Something is missing; the message says what.</exception>
    public DebianMaking Prepare(CancellationToken cancel)
    {
        CheckRoom();
        // What a process left that was killed while it made one.
        foreach (string left in Directory.EnumerateDirectories(cache.Root, Unfinished + "*")) Directory.Delete(left, recursive: true);
        string id = RandomNumberGenerator.GetHexString(8, lowercase: true), folder = cache.Folder(Unfinished + id);
        try
        {
            return Prepare(folder, id, cancel);
        }
        catch (Exception e)
        {
            Discard(folder);
            if (e is not (IOException or UnauthorizedAccessException or InvalidDataException)) throw;
            throw Failure(Full(folder) ?? e.Message.ReplaceLineEndings(" "), e);
        }
    }

    private DebianMaking Prepare(string folder, string id, CancellationToken cancel)
    {
        string busybox = new DebianPackages(cache, progress, searchPath, alternatives: alternatives).FindBusybox(cancel);
        string downloads = Path.Combine(folder, "download");
        IReadOnlyList<string> archives, kernelArchives, sources;
        using (cache.Hold(() => progress?.Invoke("another process gets packages; waiting for it"), cancel))
        {
            var apt = Apt.Open(cache, progress, $"the guest '{guest}' is made from the distribution's packages", alternatives, searchPath, cancel);
            string kernelPackage = apt.ResolveDependency(DebianPackages.KernelPackages(KernelGuest), "linux-image-");
            archives = apt.DownloadSystem(Small ? DebianRecipe.SmallPackages : DebianRecipe.Packages, DebianRecipe.OptionalPackages, downloads);
            // Ubuntu has them in two.
            string[] kernelPackages = [kernelPackage, .. apt.Optional(kernelPackage.Replace("linux-image-", "linux-modules-", StringComparison.Ordinal))];
            kernelArchives = [.. kernelPackages.Select(p => MoveTo(downloads, apt.Download(p)))];
            sources = apt.Sources();
        }
        try
        {
            return LayOut(folder, id, archives, kernelArchives, sources, File.ReadAllBytes(busybox), cancel);
        }
        finally
        {
            Directory.Delete(downloads, recursive: true);
        }
    }

    /// <summary>Takes an archive out of the folder of its own in which it came.</summary>
    private static string MoveTo(string folder, string archive)
    {
        string target = Path.Combine(folder, Path.GetFileName(archive));
        File.Move(archive, target);
        Directory.Delete(Path.GetDirectoryName(archive)!, recursive: true);
        return target;
    }

    private DebianMaking LayOut(
        string folder, string id, IReadOnlyList<string> archives, IReadOnlyList<string> kernelArchives, IReadOnlyList<string> sources, byte[] busybox,
        CancellationToken cancel)
    {
        progress?.Invoke($"unpacking {archives.Count} packages");
        string tree = Path.Combine(folder, "tree");
        string dpkg = ToolRunner.Find("dpkg-deb", searchPath)!;
        // By package: mke2fs and libraries, of which those of e2fsprogs' dependencies are taken.
        var tools = new List<(string Package, string Path, ReadOnlyMemory<byte> Bytes, bool IsLink)>();
        string? kernel = null;
        var modules = new Dictionary<string, ReadOnlyMemory<byte>>();
        PackageTree packages;
        using (var file = new FileStream(tree, FileMode.CreateNew, FileAccess.Write, FileShare.None, 1 << 20))
        {
            using (var tar = new TarStream(file))
            {
                packages = new PackageTree(tar, DebianRecipe.Wants);
                packages.Begin();
                DebianRecipe.AddSettings(tar, sources);
                foreach (string archive in archives)
                {
                    string name = Path.GetFileName(archive).Split('_')[0];
                    packages.Add(read => Pipe("--ctrl-tarfile", archive, read), read => Pipe("--fsys-tarfile", archive, read), (path, bytes, isLink) =>
                    {
                        if (path == "usr/sbin/mke2fs" || path.Contains(".so", StringComparison.Ordinal) && path.StartsWith("usr/lib", StringComparison.Ordinal))
                            tools.Add((name, path, bytes.ToArray(), isLink));
                    });
                }
                foreach (string archive in kernelArchives)
                {
                    Pipe("--fsys-tarfile", archive, stream => PackageTree.Read(stream, (entry, bytes) =>
                    {
                        string path = PackageTree.Place(entry.Name);
                        if (path.StartsWith("boot/" + DebianPackages.KernelPrefix, StringComparison.Ordinal) && bytes.Length > 0)
                        {
                            kernel = Path.Combine(folder, Path.GetFileName(path));
                            File.WriteAllBytes(kernel, bytes.Span);
                        }
                        else if (path.StartsWith("usr/lib/modules/", StringComparison.Ordinal))
                        {
                            tar.Copy(entry, path, entry.LinkName, bytes);
                            if (path.EndsWith(".ko", StringComparison.Ordinal)) modules.TryAdd(path, bytes.ToArray());
                        }
                    }));
                }
                packages.End();
            }
            // A disk ends with a whole sector.
            file.SetLength((file.Length + 0xFFF) & ~0xFFFL);
        }
        if (kernel is null) throw new InvalidDataException("the kernel's package has no kernel");
        string version = DebianPackages.VersionOf(kernel), token = RandomNumberGenerator.GetHexString(8, lowercase: true);
        ReadOnlyMemory<byte>[] drivers = [.. DebianPackages.Ordered(modules.Keys, GuestDrivers.Disk).Select(m => modules[m])];
        IReadOnlySet<string> formatters = DebianRecipe.Formatters(packages.Packages);
        string script = DebianRecipe.MakingScript(packages.Preinst, version, token), initrd = Path.Combine(folder, "maker");
        File.WriteAllBytes(initrd, DebianBoot.Maker(busybox, drivers,
            tools.Where(t => formatters.Contains(t.Package)).Select(t => (t.Path, t.Bytes, t.IsLink)), script));
        File.WriteAllBytes(Path.Combine(folder, InitramfsName), DebianBoot.Base(busybox, drivers));
        File.WriteAllBytes(Path.Combine(folder, BusyboxName), busybox);
        return new DebianMaking(kernel, initrd, Path.Combine(folder, DiskPrefix + id + DiskSuffix), tree, packages.Packages.Count, token);

        void Pipe(string what, string archive, Action<Stream> read)
        {
            cancel.ThrowIfCancellationRequested();
            InvalidDataException? broken = null;
            ToolRunner.Result result = ToolRunner.Pipe(dpkg, [what, archive], stream =>
            {
                try
                {
                    read(stream);
                }
                catch (InvalidDataException e)
                {
                    broken = e; // the tool's own message says why, where it has one
                }
            }, cancel);
            if (result.Status == 0 && broken is null) return;
            string cause = result.Status != 0 ? result.Cause : broken!.Message;
            throw new InvalidDataException($"{Path.GetFileName(archive)} cannot be unpacked: {cause}", broken);
        }
    }

    /// <summary>The image is made: it is kept from now on. With the image held.</summary>
    public DebianFiles Store(DebianMaking making)
    {
        foreach (string file in (string[])[making.Initrd, making.Tree]) File.Delete(file);
        cache.Store(guest, making.Folder);
        return Find() ?? throw Failure("what was made is not there any more");
    }

    /// <summary>It could not be made: nothing stays.</summary>
    public void Discard(DebianMaking making) => Discard(making.Folder);

    private static void Discard(string folder)
    {
        try
        {
            Directory.Delete(folder, recursive: true);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // The next one who makes it looks for what was left.
        }
    }

    /// <summary>The error for a making that failed.</summary>
    /// <param name="reason">In a few words.</param>
    /// <param name="making">Where it was made.</param>
    /// <param name="lines">What the guest said, which is kept for who wants to know more; null: nothing of interest.</param>
    public BootException Failed(string reason, DebianMaking making, IEnumerable<string>? lines = null)
    {
        if (Full(making.Folder) is { } full) return Failure(full);
        if (lines is null) return Failure(reason);
        string log = Path.Combine(cache.Root, guest + ".log");
        File.WriteAllLines(log, lines);
        return Failure($"{reason} (all of it is in {log})");
    }

    private BootException Failure(string reason, Exception? inner = null)
    {
        string message = $"the guest '{guest}' cannot be made: {reason}; {alternatives}";
        return inner is null ? new(message) : new(message, inner);
    }

    private void CheckRoom()
    {
        long free = new DriveInfo(cache.Folder()).AvailableFreeSpace;
        if (free < DebianRecipe.Room)
            throw Failure($"the cache folder {cache.Root} has {free >> 20} MiB left on its disk, and {DebianRecipe.Room >> 20} are needed meanwhile; "
                + "set XDG_CACHE_HOME to a folder on another one");
    }

    /// <summary>The host's disk is what ended it.</summary>
    private static string? Full(string folder)
    {
        const long little = 16 << 20;
        try
        {
            return new DriveInfo(folder).AvailableFreeSpace < little ? $"the disk of {folder} is full" : null;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ArgumentException)
        {
            return null;
        }
    }

    /// <summary>The guest for a run.</summary>
    /// <param name="grows">The disk may be larger than its file system.</param>
    /// <param name="lasts">What is on the disk is of use afterwards.</param>
    public static LinuxGuest Guest(
        ReadOnlyMemory<byte> kernel, string kernelName, ReadOnlySpan<byte> initramfs, ReadOnlySpan<byte> busybox, LinuxGuestOptions options, bool grows,
        bool lasts)
        => DebianBoot.Create(kernel, kernelName, initramfs, busybox, options, grows, lasts);
}
