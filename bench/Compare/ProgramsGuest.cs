using System.Diagnostics;
using Bunraku.Machine;

namespace Bunraku.Compare;

/// <summary>
/// The guest of bench/programs: a tree with the distribution's packages, as they are unpacked, as its initramfs; natively the same tree as the root of the
/// file system. Nothing is installed on the host, and no root is needed.
/// </summary>
internal static class ProgramsGuest
{
    private const int Megabytes = 2560; // the tree, twice while the kernel unpacks it, and 1 GiB for programs
    private const int Patience = 15; // programs take seconds natively

    /// <param name="sources">bench/Programs.</param>
    /// <param name="folder">For the tree and all else that is made.</param>
    /// <exception cref="BenchException">Something is missing; the message names it.</exception>
    /// <exception cref="BootException">The kernel can't be had.</exception>
    public static BenchGuest Build(string sources, string folder, int cpus, Action<string> progress, CancellationToken cancel)
    {
        foreach ((string tool, string package) in (ReadOnlySpan<(string, string)>)
            [("apt-get", "apt"), ("dpkg-deb", "dpkg"), ("cpio", "cpio"), ("gcc", "gcc libc6-dev"), ("unshare", "util-linux"), ("dotnet", "dotnet-sdk-10.0")])
        {
            if (HostProgram.Find(tool) is null) throw new BenchException($"{tool} is needed and not installed (apt-get install {package})");
        }
        string kernel = new DebianPackages(new GuestCache(), progress).FindKernel("linux", cancel);
        string tree = Path.Combine(folder, "tree"), stamp = Path.Combine(folder, "stamp"), initrd = Path.Combine(folder, "programs.cpio");
        if (!IsFresh(stamp, sources))
        {
            if (Directory.Exists(folder)) Directory.Delete(folder, recursive: true);
            Directory.CreateDirectory(folder);
            Unpack(sources, folder, tree, progress, cancel);
            progress("making the programs' inputs");
            HostProgram.Run("sh", ["-c", Script("""
                mkdir -p "$2/bench" "$2/dev" "$2/proc" "$2/sys" "$2/tmp"
                find "$1" -maxdepth 1 -type f -exec cp -t "$2/bench/" {} +
                gcc -O2 -static -Wall -Wextra -o "$2/bench/driver" "$1/driver.c"
                dotnet=$(dirname "$(readlink -f "$(command -v dotnet)")")
                mkdir -p "$2/usr/share/dotnet/shared"
                cp -r "$dotnet/dotnet" "$dotnet/host" "$2/usr/share/dotnet/"
                cp -r "$dotnet/shared/Microsoft.NETCore.App" "$2/usr/share/dotnet/shared/"
                """), "sh", sources, tree], cancel);
            HostProgram.Run("dotnet", ["publish", Path.Combine(sources, "Objects"), "-c", "Release", "-v", "q", "-o", Path.Combine(tree, "bench", "objects")],
                cancel);
            HostProgram.Run("unshare", Inside(tree, "/bench/prepare"), cancel);
            progress("packing the guest");
            HostProgram.Run("sh", ["-c", Script("""
                cd "$1"
                find . -mindepth 1 | LC_ALL=C sort | cpio -o -H newc -R 0:0 --quiet >"$2"
                """), "sh", tree, initrd], cancel);
            using (FileStream archive = File.Open(initrd, FileMode.Append)) archive.Write(Devices());
            File.WriteAllText(stamp, "");
        }
        return new(kernel, initrd, Programs(Path.Combine(sources, "list")))
        {
            Megabytes = Megabytes,
            Cpus = cpus,
            QemuCpu = "Haswell-v4", // what TCG is fastest with
            Append = " rdinit=/bench/driver",
            Patience = Patience,
            Native = (chosen, _) => new("unshare", Inside(tree, "/bench/driver", BenchGuest.Names(chosen))),
        };
    }

    private static string Script(string body) => "set -e\n" + body;

    private static bool IsFresh(string stamp, string sources) => File.Exists(stamp) &&
        Directory.EnumerateFiles(sources, "*", SearchOption.AllDirectories)
            .All(f => f.Contains("/obj/", StringComparison.Ordinal) || File.GetLastWriteTimeUtc(f) < File.GetLastWriteTimeUtc(stamp));

    /// <summary>Downloads what the list names with all that it depends on, as for a system that has nothing, and unpacks it without configuring it.</summary>
    private static void Unpack(string sources, string folder, string tree, Action<string> progress, CancellationToken cancel)
    {
        string[] packages = [.. File.ReadLines(Path.Combine(sources, "packages")).Where(l => l.Length > 0 && l[0] != '#')];
        string archives = Path.Combine(folder, "archives"), status = Path.Combine(folder, "status");
        Directory.CreateDirectory(Path.Combine(archives, "partial"));
        Directory.CreateDirectory(tree);
        File.WriteAllText(status, "");
        progress("downloading packages");
        HostProgram.Run("apt-get",
        [
            "-q", "-y", "-o", "Debug::NoLocking=1", "-o", $"Dir::State::status={status}", "-o", $"Dir::Cache::archives={archives}", "-o", "APT::Sandbox::User=",
            "--no-install-recommends", "--download-only", "install", .. packages,
        ], cancel);
        string[] files = Directory.GetFiles(archives, "*.deb");
        for (int i = 0; i < files.Length; i++)
        {
            progress($"unpacking {i + 1} of {files.Length} packages");
            HostProgram.Run("dpkg-deb", ["-x", files[i], tree], cancel);
        }
        Directory.Delete(archives, recursive: true);
        // Nobody reads them there, and the kernel would unpack them at each boot.
        foreach (string unread in (ReadOnlySpan<string>)["doc", "locale", "man"])
        {
            string share = Path.Combine(tree, "usr", "share", unread);
            if (Directory.Exists(share)) Directory.Delete(share, recursive: true);
        }
    }

    /// <summary>Arguments of unshare: a command that sees the tree as /, with this host's devices and processes, and a /tmp of its own.</summary>
    private static string[] Inside(string tree, params string[] command) =>
    [
        "--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c",
        Script("""
            mount --rbind /dev "$0/dev"
            mount -t proc proc "$0/proc"
            mount -t tmpfs tmp "$0/tmp"
            exec chroot "$0" "$@"
            """), tree, .. command,
    ];

    /// <summary>
    /// An archive behind the tree's: the kernel opens the console for the first process before anything is mounted, and only root could put it into the tree.
    /// </summary>
    private static byte[] Devices()
    {
        var archive = new CpioArchive();
        archive.AddCharacterDevice("dev/console", 5, 1);
        return archive.ToArray();
    }

    private static Workload[] Programs(string list) =>
        [.. File.ReadLines(list).Where(l => l.Length > 0 && l[0] != '#').Select(l => new Workload(l.Split('\t')[0], Group.Program, 1, "run"))];
}
