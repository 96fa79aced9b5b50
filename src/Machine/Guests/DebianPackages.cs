using System.Formats.Tar;
using System.IO.Enumeration;

namespace Bunraku.Machine;

/// <summary>
/// Finds the files of the default Linux guest: in our cache, installed on this machine, or in the distribution's packages, which the machine's own
/// package manager downloads. Nothing is installed and no root is needed.
/// </summary>
/// <param name="progress">Told in a few words what takes long.</param>
/// <param name="searchPath">Folders where apt and dpkg are looked for, colon-separated; null for PATH.</param>
/// <param name="root">Root of the file system whose installed kernel and busybox may serve.</param>
/// <param name="alternatives">What a user can do where the files cannot be had, as the end of a message; null for words that every program can use.</param>
public sealed class DebianPackages(GuestCache cache, Action<string>? progress = null, string? searchPath = null, string root = "/", string? alternatives = null)
{
    private readonly string _alternatives = alternatives ?? "a kernel of your own can be booted as well, and the guest 'hello' needs nothing";
    private static readonly string[] BusyboxPaths = ["bin/busybox", "usr/bin/busybox", "usr/lib/initramfs-tools/bin/busybox"];

    /// <summary>Kernels by the name that users give: installed image names and packages (Debian's, then Ubuntu's) in order of preference.</summary>
    private static readonly (string Guest, string What, string[] Packages, string InstalledSuffix, string? NotSuffix)[] Kernels =
    [
#pragma warning disable IDE0055 // table
        ("linux",         "the distribution's kernel for virtual machines", ["linux-image-cloud-amd64", "linux-image-virtual"], "-cloud-amd64", null),
        ("linux-generic", "the distribution's generic kernel",              ["linux-image-amd64", "linux-image-generic"],       "-amd64",       "-cloud-amd64"),
#pragma warning restore IDE0055
    ];

    /// <summary>Names for <see cref="FindKernel"/>, each with a description.</summary>
    public static IReadOnlyList<(string Name, string Description)> KernelNames { get; } = [.. Kernels.Select(k => (k.Guest, k.What))];

    /// <summary>Path of a kernel image.</summary>
    /// <param name="guest">"linux" or "linux-generic".</param>
    /// <param name="version">Its version, or how it begins up to a '.' or '-'; null: the newest.</param>
    /// <exception cref="BootException">It can't be had; the message says what is missing.</exception>
    public string FindKernel(string guest, CancellationToken cancel = default, string? version = null)
    {
        (_, _, string[] packages, string suffix, string? notSuffix) = Kernels.First(k => k.Guest == guest);
        if (Newest(cache.Files(guest).Where(Fits)) is { } cached) return cached;
        string boot = Path.Combine(root, "boot");
        IEnumerable<string> installed = Directory.Exists(boot) ? Directory.EnumerateFiles(boot, "vmlinuz-*" + suffix) : [];
        if (Newest(installed.Where(f => (notSuffix is null || !f.EndsWith(notSuffix, StringComparison.Ordinal))
            && !f.EndsWith("-rt" + suffix, StringComparison.Ordinal) && Readable(f) && Fits(f))) is { } own) return own;

        var apt = Apt.Open(cache, progress, $"the guest '{guest}' needs a kernel from Debian packages", _alternatives, searchPath, cancel);
        using IDisposable held = HoldCache(cancel);
        if (Newest(cache.Files(guest).Where(Fits)) is { } meanwhile) return meanwhile;
        string package = version is null ? apt.ResolveDependency(packages, "linux-image-")
            : apt.Resolve("linux-image-" + (version.EndsWith(suffix, StringComparison.Ordinal) ? version : version + suffix));
        // With its drivers, which a next look may be for: a package is some 30 MB to download.
        string kernel = Extract(apt, package, guest, "a kernel image",
            entry => entry.StartsWith("./boot/" + KernelPrefix, StringComparison.Ordinal) ? guest : DriversOf(entry), all: true, cancel, packsModules: true);
        cache.Folder(DriversName(kernel)); // empty: the package has none
        return kernel;

        bool Fits(string file) => version is null || VersionOf(file) is var of && of.StartsWith(version, StringComparison.Ordinal)
            && (of.Length == version.Length || of[version.Length] is '.' or '-');
    }

    // With another table below, other files belong into the cache: then another name of their folders.
    internal const string KernelPrefix = "vmlinuz-";
    private const string DriversPrefix = "drivers3-";

    /// <summary>Version of a kernel by the name of its file.</summary>
    internal static string VersionOf(string kernel) => Path.GetFileName(kernel)[KernelPrefix.Length..];

    /// <summary>Under which the cache has the modules of a kernel.</summary>
    private static string DriversName(string kernel) => DriversPrefix + VersionOf(kernel);

    /// <summary>
    /// A file below the folder of a kernel's modules, in its package: in /lib up to Debian 12, in /usr/lib since. Null: it is elsewhere.
    /// </summary>
    private static (string Version, string Path)? InModules(string entry)
    {
        string rest = entry.StartsWith("./usr/lib/", StringComparison.Ordinal) ? entry["./usr/".Length..] : entry["./".Length..];
        return rest.Split('/', 4) is ["lib", "modules", { } version, { } path] ? (version, path) : null;
    }

    /// <summary>
    /// Under which the cache is to have a file of a kernel's package; null: it is none of the <see cref="Modules"/>, and not the list of what needs none.
    /// </summary>
    private static string? DriversOf(string entry) => InModules(entry) is (var version, var path)
        && (path == KernelModulePack.BuiltIn || KernelModule.NameOf(path) is { } name && Modules.Any(m => KernelModule.PlainName(m.Module) == name))
        ? DriversPrefix + version : null;

    /// <summary>A kernel has a driver built in, as far as its package or the installed folder says so.</summary>
    /// <param name="kernel">Path that <see cref="FindKernel"/> returned, whose modules were looked for.</param>
    /// <param name="module">As which others have it.</param>
    public bool HasBuiltIn(string kernel, string module)
    {
        string version = VersionOf(kernel);
        foreach (string list in (string[])[Path.Combine(cache.Root, DriversPrefix + version, KernelModulePack.BuiltIn),
            Path.Combine(root, "lib/modules", version, KernelModulePack.BuiltIn)])
        {
            if (File.Exists(list)) return File.ReadLines(list).Any(line => KernelModule.NameOf(line) == KernelModule.PlainName(module));
        }
        return false;
    }

    /// <summary>Name of the virtio console's driver among them.</summary>
    public const string ConsoleModule = "virtio_console";

    /// <summary>Name of the file system 9p among them, which kernels for virtual machines do not have.</summary>
    public const string NinePModule = "9p";

    /// <summary>Name of the driver of Intel's network card among them, which kernels for virtual machines do not have.</summary>
    public const string E1000Module = "e1000";

    /// <summary>
    /// Kernel modules, in an order in which they can be loaded, and what each is for. What a kernel has built in has no module.
    /// </summary>
    private static readonly (string Module, GuestDrivers For)[] Modules =
    [
#pragma warning disable IDE0055 // table
        ("virtio_ring",           GuestDrivers.All),
        ("virtio",                GuestDrivers.All),
        ("virtio_pci_legacy_dev", GuestDrivers.All),
        ("virtio_pci_modern_dev", GuestDrivers.All),
        ("virtio_pci",            GuestDrivers.All),
        ("virtio_mmio",           GuestDrivers.Mmio),
        ("virtio_blk",            GuestDrivers.Disk),
        ("rng-core",              GuestDrivers.Rng),
        ("virtio-rng",            GuestDrivers.Rng),
        ("failover",              GuestDrivers.Net),
        ("net_failover",          GuestDrivers.Net),
        ("virtio_net",            GuestDrivers.Net),
        ("af_packet",             GuestDrivers.Net), // for DHCP
        (E1000Module,             GuestDrivers.E1000),
        (ConsoleModule,           GuestDrivers.Console),
        ("netfs",                 GuestDrivers.Share | GuestDrivers.NineP),
        ("fscache",               GuestDrivers.Share | GuestDrivers.NineP),
        ("fuse",                  GuestDrivers.Share),
        ("virtiofs",              GuestDrivers.Share),
        ("9pnet",                 GuestDrivers.NineP),
        (NinePModule,             GuestDrivers.NineP),
        ("9pnet_virtio",          GuestDrivers.NineP),
        ("vsock",                 GuestDrivers.Vsock),
        ("vmw_vsock_virtio_transport_common", GuestDrivers.Vsock),
        ("vmw_vsock_virtio_transport", GuestDrivers.Vsock),
        ("virtio_balloon",        GuestDrivers.Balloon),
        ("crc16",                 GuestDrivers.Disk), // from here on for ext4
        ("crc32c_generic",        GuestDrivers.Disk),
        ("mbcache",               GuestDrivers.Disk),
        ("jbd2",                  GuestDrivers.Disk),
        ("ext4",                  GuestDrivers.Disk),
        ("irqbypass",             GuestDrivers.Hypervisor),
        ("ccp",                   GuestDrivers.Hypervisor), // some kernels' kvm-amd needs it
        ("kvm",                   GuestDrivers.Hypervisor),
        ("kvm-intel",             GuestDrivers.Hypervisor),
        ("kvm-amd",               GuestDrivers.Hypervisor),
#pragma warning restore IDE0055
    ];

    /// <summary>Paths of a kernel's modules for devices that not every PC has, in the order in which they are to be loaded.</summary>
    /// <param name="kernel">Path that <see cref="FindKernel"/> returned.</param>
    /// <param name="wanted">For which devices.</param>
    /// <exception cref="BootException">They can't be had; the message says what is missing.</exception>
    public IReadOnlyList<string> FindModules(string kernel, GuestDrivers wanted, CancellationToken cancel = default)
    {
        string version = VersionOf(kernel), name = DriversName(kernel), package = "linux-image-" + version;
        string installed = Path.Combine(root, "lib/modules", version, "kernel");
        if (Directory.Exists(installed) && Ordered(Directory.EnumerateFiles(installed, "*.ko", SearchOption.AllDirectories), wanted) is { Count: > 0 } own)
            return own;
        if (Cached() is { } cached) return cached;
        // The kernel is installed without them, or its package was opened for it alone.
        var apt = Apt.Open(cache, progress, $"virtio devices need the modules of kernel {version} from its Debian package", _alternatives, searchPath, cancel);
        using IDisposable held = HoldCache(cancel);
        if (Cached() is { } meanwhile) return meanwhile;
        Extract(apt, apt.Resolve(package), name, WhatModules, DriversOf, all: true, cancel, packsModules: true);
        return Ordered(cache.Files(name), wanted);

        IReadOnlyList<string>? Cached() => !cache.Has(name) ? null
            : cache.Files(name) is { Count: > 0 } files ? Ordered(files, wanted) : throw Lacks(package, WhatModules);
    }

    private const string WhatModules = "kernel modules";

    /// <summary>Packages of the kernel that a guest's name means, by preference.</summary>
    internal static string[] KernelPackages(string guest) => Kernels.First(k => k.Guest == guest).Packages;

    /// <summary>Those of files that are modules for devices, in the order in which they are to be loaded.</summary>
    internal static List<string> Ordered(IEnumerable<string> files, GuestDrivers wanted)
    {
        var byName = new Dictionary<string, string>();
        foreach (string file in files) byName.TryAdd(Path.GetFileNameWithoutExtension(file), file);
        return [.. Modules.Where(m => (m.For & wanted) != 0 && byName.ContainsKey(m.Module)).Select(m => byName[m.Module])];
    }

    /// <summary>Path of a statically linked busybox for x86-64.</summary>
    /// <exception cref="BootException">It can't be had; the message says what is missing.</exception>
    public string FindBusybox(CancellationToken cancel = default)
    {
        if (cache.Files("busybox").FirstOrDefault() is { } cached) return cached;
        if (BusyboxPaths.Select(p => Path.Combine(root, p)).FirstOrDefault(IsStatic) is { } own) return own;
        var apt = Apt.Open(cache, progress, "the default Linux guest needs busybox-static", _alternatives, searchPath, cancel);
        using IDisposable held = HoldCache(cancel);
        if (cache.Files("busybox").FirstOrDefault() is { } meanwhile) return meanwhile;
        return Extract(apt, apt.Resolve("busybox-static"), "busybox", "a busybox",
            entry => entry is "./bin/busybox" or "./usr/bin/busybox" ? "busybox" : null, all: false, cancel);
    }

    /// <summary>One at a time: apt refuses a second process that reads package lists into the same folder, and nothing needs to be downloaded twice.</summary>
    private IDisposable HoldCache(CancellationToken cancel) => cache.Hold(() => progress?.Invoke("waiting for another bunraku, which is downloading"), cancel);

    /// <summary>Path of a kernel from any package, as the package has it: a hypervisor, a memory test.</summary>
    /// <param name="name">Under which it is kept in the cache.</param>
    /// <param name="package">The package that has it, or that depends on the one that has it.</param>
    /// <param name="dependency">How the name of that one begins; null: <paramref name="package"/> has it.</param>
    /// <param name="file">Pattern of its path in the package, for example /boot/xen-*.gz.</param>
    /// <exception cref="BootException">It can't be had; the message says what is missing.</exception>
    public string FindOther(string name, string package, string? dependency, string file, CancellationToken cancel = default)
    {
        if (Newest(cache.Files(name)) is { } cached) return cached;
        var apt = Apt.Open(cache, progress, $"{name} is needed from Debian packages", _alternatives, searchPath, cancel);
        using IDisposable held = HoldCache(cancel);
        if (Newest(cache.Files(name)) is { } meanwhile) return meanwhile;
        string archive = dependency is null ? apt.Resolve(package) : apt.ResolveDependency([package], dependency);
        return Extract(apt, archive, name, file,
            entry => FileSystemName.MatchesSimpleExpression("." + file, entry, ignoreCase: false) ? name : null, all: false, cancel);
    }

    /// <summary>Takes files out of a package into the cache, once all of them are out. Returns the path of one under <paramref name="name"/>.</summary>
    /// <param name="name">Under which there has to be a file.</param>
    /// <param name="what">That file, for a message.</param>
    /// <param name="place">By its path in the package, from "./" on, under which name the cache is to have a file; null: it is not wanted.</param>
    /// <param name="all">All files that are wanted; else the first.</param>
    /// <param name="packsModules">It is a kernel's: all of its modules go into one archive as well, for <see cref="KernelModules"/>.</param>
    private string Extract(
        Apt apt, string package, string name, string what, Func<string, string?> place, bool all, CancellationToken cancel, bool packsModules = false)
    {
        string archive = apt.Download(package), folder = Path.GetDirectoryName(archive)!;
        try
        {
            var found = new HashSet<string>();
            string modules = Path.Combine(folder, "modules");
            string? version = null;
            using FileStream? packed = packsModules ? cache.Create(Path.Combine(modules, KernelModules.ArchiveName)) : null;
            using KernelModulePack? pack = packed is null ? null : new KernelModulePack(packed);
            ToolRunner.Result result = ToolRunner.Pipe(ToolRunner.Find("dpkg-deb", searchPath)!, ["--fsys-tarfile", archive], stream =>
            {
                try
                {
                    using var tar = new TarReader(stream, leaveOpen: true);
                    while ((all || found.Count == 0) && tar.GetNextEntry() is { } entry)
                    {
                        if (entry.EntryType is not (TarEntryType.RegularFile or TarEntryType.V7RegularFile) || entry.DataStream is not { } data) continue;
                        string entryName = entry.Name.StartsWith("./", StringComparison.Ordinal) ? entry.Name : "./" + entry.Name;
                        if (place(entryName) is { } target)
                        {
                            if (pack is not null) // it may be wanted twice
                            {
                                data = new MemoryStream(KernelModule.Unpack(entryName, data));
                                entryName = KernelModule.PlainPath(entryName);
                            }
                            cache.Write(Path.Combine(folder, target, Path.GetFileName(entryName)), data);
                            found.Add(target);
                            if (pack is not null) data.Position = 0;
                        }
                        if (pack is null || InModules(entryName) is not (var of, var path)) continue;
                        pack.Add(path, data);
                        version = of;
                    }
                }
                catch (Exception e) when (e is InvalidDataException or EndOfStreamException)
                {
                    // The archive breaks off: the tool's own message says why.
                }
            }, cancel);
            if (result.Status != 0) throw new BootException($"package {package} cannot be unpacked: {result.Cause}; {_alternatives}");
            if (!found.Contains(name)) throw Lacks(package, what);
            pack?.Dispose();
            packed?.Dispose();
            if (version is not null) cache.Store(KernelModules.CacheName(version), modules);
            // What the others go with comes last: who finds it has them.
            foreach (string target in found.OrderBy(target => target == name)) cache.Store(target, Path.Combine(folder, target));
            return Newest(cache.Files(name))!;
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private BootException Lacks(string package, string what) => new($"package {package} does not contain {what}; {_alternatives}");

    /// <summary>The file whose name has the highest version: digits compare as numbers, all else as text.</summary>
    internal static string? Newest(IEnumerable<string> files) =>
        files.OrderBy(f => Path.GetFileName(f), Comparer<string>.Create(CompareVersions)).LastOrDefault();

    private static int CompareVersions(string a, string b)
    {
        for (int i = 0, j = 0; i < a.Length && j < b.Length;)
        {
            int endA = End(a, i), endB = End(b, j);
            ReadOnlySpan<char> partA = a.AsSpan(i, endA - i), partB = b.AsSpan(j, endB - j);
            int order = ulong.TryParse(partA, out ulong numberA) && ulong.TryParse(partB, out ulong numberB) ? numberA.CompareTo(numberB)
                : partA.CompareTo(partB, StringComparison.Ordinal);
            if (order != 0) return order;
            (i, j) = (endA, endB);
        }
        return a.Length.CompareTo(b.Length);

        static int End(string s, int at)
        {
            bool digit = char.IsAsciiDigit(s[at]);
            while (at < s.Length && char.IsAsciiDigit(s[at]) == digit) at++;
            return at;
        }
    }

    private static bool Readable(string path)
    {
        try
        {
            using FileStream file = File.OpenRead(path);
            return true;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return false;
        }
    }

    /// <summary>An ELF executable for x86-64 that names no program interpreter.</summary>
    private static bool IsStatic(string path)
    {
        if (!File.Exists(path) || !Readable(path)) return false;
        try
        {
            ElfImage elf = ElfImage.Parse(File.ReadAllBytes(path), path);
            return elf is { Is64: true, IsX86: true } && elf.Segments.All(s => s.Type != ElfSegment.Interpreter);
        }
        catch (BootException)
        {
            return false;
        }
    }
}

/// <summary>Devices that a distribution's kernel has drivers for as modules.</summary>
[Flags]
public enum GuestDrivers
{
    /// <summary>None.</summary>
    None = 0,
    /// <summary>virtio disks, and file systems on them.</summary>
    Disk = 1,
    /// <summary>The virtio entropy device.</summary>
    Rng = 2,
    /// <summary>virtio network cards.</summary>
    Net = 4,
    /// <summary>The virtio console.</summary>
    Console = 8,
    /// <summary>Shared folders.</summary>
    Share = 16,
    /// <summary>All of them.</summary>
    All = Disk | Rng | Net | Console | Share | Vsock | Balloon | NineP,
    /// <summary>KVM, for a guest that is a hypervisor.</summary>
    Hypervisor = 32,
    /// <summary>virtio sockets.</summary>
    Vsock = 64,
    /// <summary>The virtio memory balloon.</summary>
    Balloon = 128,
    /// <summary>Intel's network card e1000.</summary>
    E1000 = 256,
    /// <summary>Virtio devices that are no PCI functions.</summary>
    Mmio = 512,
    /// <summary>Shared folders by 9p.</summary>
    NineP = 1024,
}
