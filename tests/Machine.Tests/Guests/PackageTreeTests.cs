using System.Diagnostics;
using System.Formats.Tar;
using System.Runtime.Versioning;

namespace Bunraku.Machine.Tests;

/// <summary>Packages laid out without dpkg, against dpkg itself: it unpacks the same packages, and configures ours.</summary>
[SupportedOSPlatform("linux")]
public sealed class PackageTreeTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("bunraku-tree").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private string Run(string tool, params string[] arguments)
    {
        var start = new ProcessStartInfo(tool, arguments) { RedirectStandardOutput = true, RedirectStandardError = true };
        start.Environment["LC_ALL"] = "C";
        using Process process = Process.Start(start)!;
        Task<string> errors = process.StandardError.ReadToEndAsync();
        string output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        Assert.True(process.ExitCode == 0, $"{tool} {string.Join(' ', arguments)}: {errors.Result}");
        return output;
    }

    /// <summary>Builds a package with dpkg's own tool.</summary>
    private string Package(string name, string fields, params (string Path, string Text)[] files)
    {
        string root = Path.Combine(_folder, "build", name);
        Directory.CreateDirectory(Path.Combine(root, "DEBIAN"));
        File.WriteAllText(Path.Combine(root, "DEBIAN/control"), $"Package: {name}\nVersion: 1.2-3\nArchitecture: amd64\n"
            + $"Maintainer: nobody <nobody@example.org>\n{fields}Description: a test\n of more than\n .\n one line\n");
        foreach ((string path, string text) in files)
        {
            string full = Path.Combine(root, path);
            Directory.CreateDirectory(Path.GetDirectoryName(full)!);
            File.WriteAllText(full, text);
            if (path.EndsWith("inst", StringComparison.Ordinal)) File.SetUnixFileMode(full, (UnixFileMode)0b111_101_101);
        }
        string archive = Path.Combine(_folder, name + ".deb");
        Run("dpkg-deb", "--root-owner-group", "--build", root, archive);
        return archive;
    }

    private string[] Packages() =>
    [
        Package("plain", "", ("etc/plain.conf", "a setting\n"), ("DEBIAN/conffiles", "/etc/plain.conf\n"), ("usr/share/plain/data", "data\n"),
            ("usr/share/doc/plain/readme", "not wanted\n"), ("DEBIAN/preinst", "#!/bin/sh\n"), ("DEBIAN/postinst", "#!/bin/sh\n")),
        Package("libsame", "Multi-Arch: same\nDepends: plain (>= 1) | other, plain\n", ("lib/x86_64-linux-gnu/libsame.so.1", "library\n"),
            ("DEBIAN/triggers", "interest-noawait /usr/share/plain\ninterest updated\nactivate-noawait ldconfig\n")),
    ];

    /// <summary>Where dpkg's database is below <paramref name="root"/>.</summary>
    private static string Database(string root) => Path.Combine(root, "var/lib/dpkg");

    /// <summary>What dpkg has below a folder once it has unpacked the packages.</summary>
    private string ByDpkg(string[] packages)
    {
        string root = Directory.CreateDirectory(Path.Combine(_folder, "dpkg")).FullName;
        foreach (string folder in (string[])["info", "updates", "triggers"]) Directory.CreateDirectory(Path.Combine(Database(root), folder));
        File.WriteAllText(Path.Combine(Database(root), "status"), "");
        Run("dpkg", [$"--root={root}", "--force-not-root", "--force-script-chrootless", "--force-bad-path", "--log=/dev/null",
            "--path-exclude=/usr/share/doc/*", "--unpack", .. packages]);
        return root;
    }

    private string ByUs(string[] packages)
    {
        string root = Directory.CreateDirectory(Path.Combine(_folder, "ours")).FullName, tree = Path.Combine(_folder, "tree.tar");
        using (FileStream file = File.Create(tree))
        using (var tar = new TarStream(file))
        {
            var laid = new PackageTree(tar, DebianRecipe.Wants);
            laid.Begin();
            foreach (string package in packages) laid.Add(Read("--ctrl-tarfile", package), Read("--fsys-tarfile", package));
            laid.End();
            Assert.Equal(["plain"], laid.Preinst);
            Assert.Equal(["plain", "other", "plain"], laid.Packages[1].Names("Depends"));
        }
        Run("tar", "-x", "-f", tree, "-C", root, "--no-same-owner");
        return root;

        Action<Action<Stream>> Read(string what, string package) => read =>
            Assert.Equal(0, ToolRunner.Pipe("/usr/bin/dpkg-deb", [what, package], read, CancellationToken.None).Status);
    }

    [Fact]
    public void The_tree_is_what_dpkg_leaves_between_unpacking_and_configuring()
    {
        string[] packages = Packages();
        string dpkg = ByDpkg(packages), ours = ByUs(packages);
        const string format = "${binary:Package} ${Version} ${Status} ${Architecture} ${Description}\\n";
        Assert.Equal(Run("dpkg-query", $"--root={dpkg}", "-W", "-f", format), Run("dpkg-query", $"--root={ours}", "-W", "-f", format));
        foreach (string folder in (string[])["info", "triggers"])
        {
            string[] Names(string root) => [.. Directory.GetFiles(Path.Combine(Database(root), folder)).Select(Path.GetFileName).Order(StringComparer.Ordinal)
                .Where(n => n is not ("Lock" or "Unincorp"))!];
            Assert.Equal(Names(dpkg), Names(ours));
            foreach (string name in Names(dpkg))
                Assert.Equal(Sorted(Path.Combine(Database(dpkg), folder, name)), Sorted(Path.Combine(Database(ours), folder, name)));
        }
        // /usr is merged, and documentation is left out.
        Assert.True(File.Exists(Path.Combine(ours, "usr/lib/x86_64-linux-gnu/libsame.so.1")));
        Assert.Equal("usr/lib", new DirectoryInfo(Path.Combine(ours, "lib")).LinkTarget);
        Assert.True(File.Exists(Path.Combine(ours, "usr/share/plain/data")));
        Assert.False(Path.Exists(Path.Combine(ours, "usr/share/doc/plain/readme")));

        static string[] Sorted(string path) => [.. File.ReadAllLines(path).Order(StringComparer.Ordinal)];
    }

    [Fact]
    public void Dpkg_configures_the_tree_and_finds_its_files_as_they_were_packed()
    {
        string ours = ByUs(Packages());
        Run("dpkg", $"--root={ours}", "--force-not-root", "--force-script-chrootless", "--force-bad-path", "--log=/dev/null", "--configure", "-a");
        Assert.Equal("libsame:amd64 install ok installed\nplain install ok installed\n",
            Run("dpkg-query", $"--root={ours}", "-W", "-f", "${binary:Package} ${Status}\\n"));
        // A line for each file that is changed or missing: none but what was left out. The configuration file is known as one.
        Assert.Equal("", Run("dpkg", $"--root={ours}", "--verify", "libsame"));
        string sum = Run("md5sum", Path.Combine(ours, "etc/plain.conf")).Split(' ')[0];
        Assert.Equal($" /etc/plain.conf {sum}", Run("dpkg-query", $"--root={ours}", "-W", "-f", "${Conffiles}", "plain").Trim('\n'));
    }

    [Fact]
    public void An_archive_that_breaks_off_is_no_package()
    {
        string package = Packages()[0], broken = Path.Combine(_folder, "broken.tar");
        Run("sh", "-c", $"dpkg-deb --fsys-tarfile {package} | head -c 700 >{broken}");
        using var tar = new TarStream(new MemoryStream());
        var tree = new PackageTree(tar, _ => true);
        Assert.Throws<InvalidDataException>(() => tree.Add(read => ToolRunner.Pipe("/usr/bin/dpkg-deb", ["--ctrl-tarfile", package], read, default), read =>
        {
            using FileStream file = File.OpenRead(broken);
            read(file);
        }));
    }

    [Fact]
    public void What_mke2fs_is_linked_with_is_found_by_names_and_by_what_packages_provide()
    {
        ControlStanza[] packages = [.. ((string[])[
            "Package: e2fsprogs\nPre-Depends: libext2 (>= 1.47), libc6 (>= 2.34)\nDepends: logsave",
            "Package: libext2t64\nProvides: libext2 (= 1.47)\nDepends: libc6:any",
            "Package: libc6\nDepends: libgcc-s1 | libgcc1",
            "Package: libgcc-s1\nDepends: libc6",
            "Package: gcc\nDepends: libc6"]).Select(ControlStanza.Parse)];
        Assert.Equal(["e2fsprogs", "libc6", "libext2t64", "libgcc-s1"], DebianRecipe.Formatters(packages).Order(StringComparer.Ordinal));
    }
}
