using System.IO.Compression;
using System.Runtime.Versioning;

namespace Bunraku.Machine.Tests;

/// <summary>Getting the guest's files, with tools that fail in the ways that real ones do.</summary>
[SupportedOSPlatform("linux")]
public sealed class DebianPackagesTests : IDisposable
{
    private const string Update = "reading the package lists (apt-get update)";
    private readonly string _folder = Directory.CreateTempSubdirectory("bunraku-packages").FullName;
    private readonly List<string> _progress = [];

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private string Cache => Path.Combine(_folder, "cache");

    /// <param name="tools">Name and shell script of each tool that the machine has.</param>
    private DebianPackages Machine(params (string Name, string Script)[] tools)
    {
        string bin = Directory.CreateDirectory(Path.Combine(_folder, "bin")).FullName;
        foreach ((string name, string script) in tools)
        {
            File.WriteAllText(Path.Combine(bin, name), $"#!/bin/sh\n{script}\n");
            File.SetUnixFileMode(Path.Combine(bin, name), UnixFileMode.UserRead | UnixFileMode.UserExecute);
        }
        return new(new GuestCache(Cache), _progress.Add, bin, Directory.CreateDirectory(Path.Combine(_folder, "root")).FullName);
    }

    private static string ErrorOf(Action action)
    {
        string message = Assert.Throws<BootException>(action).Message;
        Assert.DoesNotContain('\n', message);
        Assert.EndsWith("a kernel of your own can be booted as well, and the guest 'hello' needs nothing", message);
        return message;
    }

    private const string Knows = """case "$*" in *depends*) echo linux-image-cloud-amd64; echo '  Depends: linux-image-9-cloud-amd64';;"""
        + """ *) echo 'Size: 26713492';; esac""";

    [Fact]
    public void Without_apt_the_missing_tool_is_named()
    {
        Assert.StartsWith("the guest 'linux' needs a kernel from Debian packages, and this machine has no apt-get;",
            ErrorOf(() => Machine().FindKernel("linux")));
        Assert.StartsWith("the default Linux guest needs busybox-static, and this machine has no dpkg-deb;",
            ErrorOf(() => Machine(("apt-get", ""), ("apt-cache", "")).FindBusybox()));
    }

    [Fact]
    public void Without_lists_and_network_the_cause_is_apts_own()
    {
        DebianPackages packages =
            Machine(("apt-get", "echo 'W: noise' >&2; echo 'E: Failed to fetch somewhere' >&2; echo 'E: more' >&2; exit 100"), ("apt-cache", "exit 100"),
            ("dpkg-deb", ""));
        Assert.StartsWith("the guest 'linux-generic' needs a kernel from Debian packages, but the package lists know no linux-image-amd64 or "
            + "linux-image-generic: Failed to fetch somewhere (is there a network?);",
            ErrorOf(() => packages.FindKernel("linux-generic")));
        Assert.Equal([Update], _progress);
    }

    [Fact]
    public void A_package_that_lists_of_our_own_do_not_know_either_is_named()
    {
        DebianPackages packages = Machine(("apt-get", ""), ("apt-cache", "exit 100"), ("dpkg-deb", ""));
        Assert.StartsWith("the default Linux guest needs busybox-static, but the package lists know no busybox-static;", ErrorOf(() => packages.FindBusybox()));
        Assert.Equal([Update], _progress);
    }

    [Fact]
    public void Stale_lists_are_renewed_in_the_cache_and_the_download_tried_again()
    {
        // The system's lists name a file that is gone; with lists in the cache the download succeeds.
        MakeKernelPackage();
        DebianPackages packages = Machine(
            ("apt-get", $$"""case "$*" in *State::Lists={{Cache}}/apt/lists*download*) echo > p.deb;; *download*) echo 'E: 404' >&2; exit 100;; esac"""),
            ("apt-cache", Knows), ("dpkg-deb", Unpack));
        string kernel = packages.FindKernel("linux");
        Assert.Equal("the kernel", File.ReadAllText(kernel));
        Assert.Equal(["downloading linux-image-9-cloud-amd64 (27 MB)", Update, "downloading linux-image-9-cloud-amd64 (27 MB)"], _progress);
        Assert.Empty(Directory.GetFileSystemEntries(Path.Combine(Cache, "download")));
        // From then on the cache serves, with no tool at all.
        Assert.Equal(kernel, new DebianPackages(new GuestCache(Cache), null, _folder, _folder).FindKernel("linux"));
    }

    /// <summary>A kernel's package, as far as anybody looks into it.</summary>
    private void MakeKernelPackage(params string[] modules) => MakeKernelPackageIn("lib", modules);

    private void MakeKernelPackageIn(string library, params string[] modules)
    {
        string tree = Path.Combine(_folder, "tree"), folder = Path.Combine(tree, library, "modules", Kernel, "kernel", "drivers");
        Directory.CreateDirectory(folder);
        File.WriteAllText(Path.Combine(Directory.CreateDirectory(Path.Combine(tree, "boot")).FullName, "vmlinuz-" + Kernel), "the kernel");
        foreach (string module in modules) File.WriteAllText(Path.Combine(folder, module), module);
    }

    private const string Kernel = "9-cloud-amd64";

    private string Unpack => $"tar -C {_folder}/tree -cf - .";

    /// <summary>Debian has them in /lib up to its release 12, and in /usr/lib since.</summary>
    [Theory, InlineData("lib"), InlineData("usr/lib")]
    public void The_modules_of_a_kernel_come_with_it(string library)
    {
        MakeKernelPackageIn(library, "virtio_blk.ko", "other.ko", "virtio_pci.ko", "virtio_console.ko");
        DebianPackages packages = Machine(("apt-get", "echo > p.deb"), ("apt-cache", Knows), ("dpkg-deb", Unpack));
        string kernel = packages.FindKernel("linux");
        Assert.Equal(["virtio_pci.ko", "virtio_blk.ko"], packages.FindModules(kernel, GuestDrivers.Disk).Select(File.ReadAllText));
        Assert.Equal(["virtio_pci.ko", "virtio_console.ko"], packages.FindModules(kernel, GuestDrivers.Console).Select(File.ReadAllText));
        Assert.Single(_progress); // one download
        using (var all = KernelModules.Open(new GuestCache(Cache), Kernel)!)
        {
            Assert.Equal(["other", "virtio_blk", "virtio_console", "virtio_pci"], all.Names);
            Assert.Equal("virtio_pci.ko"u8.ToArray(), all.Read("virtio-pci"));
        }
        Assert.DoesNotContain("other.ko", Directory.GetFiles(Cache, "*", SearchOption.AllDirectories).Select(Path.GetFileName));
        Assert.Empty(Directory.GetFileSystemEntries(Path.Combine(Cache, "download")));
        // A cache that has the kernel alone, as an older one.
        Directory.Delete(Path.Combine(Cache, "drivers3-" + Kernel), recursive: true);
        Assert.Single(packages.FindModules(kernel, GuestDrivers.Net));
        Assert.Equal(2, _progress.Count);
    }

    /// <summary>A kernel for virtual machines can have the drivers of virtio built in, as that of Debian 13.</summary>
    [Fact]
    public void What_is_built_in_needs_no_module()
    {
        MakeKernelPackageIn("usr/lib", "virtio_blk.ko");
        File.WriteAllText(Path.Combine(_folder, "tree", "usr/lib/modules", Kernel, "modules.builtin"), "kernel/drivers/char/virtio-console.ko\n");
        DebianPackages packages = Machine(("apt-get", "echo > p.deb"), ("apt-cache", Knows), ("dpkg-deb", Unpack));
        string kernel = packages.FindKernel("linux");
        Assert.Empty(packages.FindModules(kernel, GuestDrivers.Console));
        Assert.True(packages.HasBuiltIn(kernel, DebianPackages.ConsoleModule));
        Assert.False(packages.HasBuiltIn(kernel, "virtio_blk"));
        using (var all = KernelModules.Open(new GuestCache(Cache), Kernel)!) Assert.Empty(all.Resolve("virtio_console")!);
        Assert.Single(packages.FindModules(kernel, GuestDrivers.Disk));
    }

    /// <summary>Debian packs its modules since release 13.</summary>
    [Fact]
    public void Packed_modules_are_unpacked()
    {
        MakeKernelPackageIn("usr/lib", "virtio_blk.ko.gz");
        string file = Directory.GetFiles(Path.Combine(_folder, "tree"), "*.gz", SearchOption.AllDirectories).Single();
        using (var packed = new GZipStream(File.Create(file), CompressionMode.Compress)) packed.Write("a driver"u8);
        DebianPackages packages = Machine(("apt-get", "echo > p.deb"), ("apt-cache", Knows), ("dpkg-deb", Unpack));
        string driver = Assert.Single(packages.FindModules(packages.FindKernel("linux"), GuestDrivers.Disk));
        Assert.Equal(("virtio_blk.ko", "a driver"), (Path.GetFileName(driver), File.ReadAllText(driver)));
        using var all = KernelModules.Open(new GuestCache(Cache), Kernel)!;
        Assert.Equal("a driver"u8.ToArray(), all.Read("virtio_blk"));
    }

    [Fact]
    public void A_kernel_without_modules_is_not_searched_for_them_twice()
    {
        MakeKernelPackage();
        DebianPackages packages = Machine(("apt-get", "echo > p.deb"), ("apt-cache", Knows), ("dpkg-deb", Unpack));
        string kernel = packages.FindKernel("linux");
        Assert.StartsWith("package linux-image-9-cloud-amd64 does not contain kernel modules;", ErrorOf(() => packages.FindModules(kernel, GuestDrivers.Net)));
        Assert.Single(_progress);
    }

    [Theory]
    [InlineData("echo 'dpkg-deb: error: bad archive' >&2; exit 2", "cannot be unpacked: dpkg-deb: error: bad archive;")]
    [InlineData("head -c 700 /dev/zero | tr '\\0' x", "does not contain a kernel image;")]
    [InlineData("tar -cf - -T /dev/null", "does not contain a kernel image;")]
    [InlineData("tar -C TREE --exclude=boot -cf - .", "does not contain a kernel image;")]
    [InlineData("tar -C TREE -cf - .; exit 2", "cannot be unpacked: exit status 2;")]
    public void A_broken_package_leaves_nothing_in_the_cache(string unpack, string expected)
    {
        MakeKernelPackage("virtio_blk.ko");
        DebianPackages packages =
            Machine(("apt-get", "echo > p.deb"), ("apt-cache", Knows), ("dpkg-deb", unpack.Replace("TREE", Path.Combine(_folder, "tree"))));
        Assert.StartsWith("package linux-image-9-cloud-amd64 " + expected, ErrorOf(() => packages.FindKernel("linux")));
        Assert.Equal([Path.Combine(Cache, ".lock")], Directory.GetFiles(Cache, "*", SearchOption.AllDirectories));
    }

    [Fact]
    public async Task Two_first_uses_at_the_same_time_download_once()
    {
        string calls = Path.Combine(_folder, "calls");
        MakeKernelPackage();
        DebianPackages packages = Machine(
            // The first call waits until the second user has found out that it has to wait; a second call would be the fault.
            ("apt-get", $"echo x >>{calls}; [ $(wc -l <{calls}) = 1 ] || : >{_folder}/waits; until [ -e {_folder}/waits ]; do sleep 0.01; done; echo > p.deb"),
                ("apt-cache", Knows), ("dpkg-deb", Unpack));
        Task<string> first = Task.Run(() => packages.FindKernel("linux"));
        while (!File.Exists(calls)) Thread.Sleep(1);
        var told = new List<string>();
        var second = new DebianPackages(new GuestCache(Cache), text =>
        {
            told.Add(text);
            File.WriteAllText(Path.Combine(_folder, "waits"), "");
        }, Path.Combine(_folder, "bin"), Path.Combine(_folder, "root"));
        Assert.Equal(second.FindKernel("linux"), await first);
        Assert.Equal(["waiting for another bunraku, which is downloading"], told);
        Assert.Single(File.ReadAllLines(calls));
    }

    [Fact]
    public void An_installed_kernel_serves_and_the_newest_wins()
    {
        string boot = Directory.CreateDirectory(Path.Combine(_folder, "root", "boot")).FullName;
        foreach (string version in new[] { "6.1.0-9-cloud-amd64", "6.1.0-56-cloud-amd64", "6.1.0-7-cloud-amd64", "6.1.0-60-amd64", "6.1.0-70-rt-amd64" })
            File.WriteAllText(Path.Combine(boot, "vmlinuz-" + version), version);
        Assert.Equal(Path.Combine(boot, "vmlinuz-6.1.0-56-cloud-amd64"), Machine().FindKernel("linux"));
        Assert.Equal(Path.Combine(boot, "vmlinuz-6.1.0-60-amd64"), Machine().FindKernel("linux-generic"));
    }

    [Fact]
    public void A_cache_that_cannot_be_written_is_named()
    {
        File.WriteAllText(Cache, "a file where the folder should be");
        string message = Assert.Throws<BootException>(() => Machine(("apt-get", ""), ("apt-cache", Knows), ("dpkg-deb", "")).FindKernel("linux")).Message;
        Assert.StartsWith($"the cache folder {Cache} cannot be written (", message);
        Assert.EndsWith("; set XDG_CACHE_HOME to a folder that can", message);
    }

    [Fact]
    public void A_dynamically_linked_busybox_is_not_taken()
    {
        string bin = Directory.CreateDirectory(Path.Combine(_folder, "root", "bin")).FullName;
        File.Copy("/bin/ls", Path.Combine(bin, "busybox"));
        Assert.Contains("needs busybox-static", ErrorOf(() => Machine().FindBusybox()));
    }
}
