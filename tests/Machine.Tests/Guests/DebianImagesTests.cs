using System.Runtime.Versioning;

namespace Bunraku.Machine.Tests;

/// <summary>The image of the guest 'debian' where it cannot be had: with tools that fail as real ones do.</summary>
[SupportedOSPlatform("linux")]
public sealed class DebianImagesTests : IDisposable
{
    private const string Advice = "something else";
    private readonly string _folder = Directory.CreateTempSubdirectory("bunraku-debian").FullName;
    private readonly List<string> _progress = [];

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private string CacheFolder => Path.Combine(_folder, "cache");

    /// <param name="tools">Name and shell script of each tool that the machine has.</param>
    private DebianImages Machine(params (string Name, string Script)[] tools)
    {
        string bin = Directory.CreateDirectory(Path.Combine(_folder, "bin")).FullName;
        foreach ((string name, string script) in tools)
        {
            File.WriteAllText(Path.Combine(bin, name), $"#!/bin/sh\n{script}\n");
            File.SetUnixFileMode(Path.Combine(bin, name), UnixFileMode.UserRead | UnixFileMode.UserExecute);
        }
        var cache = new GuestCache(CacheFolder);
        Directory.CreateDirectory(Path.Combine(CacheFolder, "busybox"));
        File.WriteAllText(Path.Combine(CacheFolder, "busybox", "busybox"), "");
        return new(cache, _progress.Add, Advice, bin);
    }

    private string ErrorOf(DebianImages images)
    {
        string message = Assert.Throws<BootException>(() => images.Prepare(CancellationToken.None)).Message;
        Assert.DoesNotContain('\n', message);
        Assert.EndsWith(Advice, message);
        // Nothing half stays, nor can it be taken for an image.
        Assert.Null(images.Find());
        Assert.DoesNotContain(Directory.GetDirectories(CacheFolder), d => Path.GetFileName(d).StartsWith('.'));
        return message;
    }

    private static readonly (string, string) s_knows = ("apt-cache", """
        case "$*" in
            *depends*) echo linux-image-cloud-amd64; echo '  Depends: linux-image-9-cloud-amd64' ;;
            *linux-modules*) ;;
            *) echo 'Size: 26713492' ;;
        esac
        """);

    [Fact]
    public void Without_apt_the_missing_tool_is_named() =>
        Assert.StartsWith("the guest 'debian' is made from the distribution's packages, and this machine has no apt-get;", ErrorOf(Machine()));

    [Fact]
    public void Without_a_network_one_line_has_apts_own_cause()
    {
        DebianImages images = Machine(("apt-get", "echo \"E: Failed to fetch somewhere\" >&2; exit 100"), s_knows, ("dpkg-deb", ""));
        Assert.StartsWith("the guest 'debian' is made from the distribution's packages, but its packages cannot be chosen: Failed to fetch somewhere "
            + "(is there a network?);", ErrorOf(images));
        Assert.Equal(["reading the package lists (apt-get update)"], _progress);
    }

    [Fact]
    public void Packages_that_do_not_come_are_an_error_though_apt_says_nothing()
    {
        DebianImages images = Machine(("apt-get", """
            case "$*" in *print-uris*) echo "'http://example.org/a.deb' a.deb 1500000 MD5Sum:0";; esac
            """), s_knows, ("dpkg-deb", ""));
        Assert.Contains("but its packages cannot be downloaded", ErrorOf(images));
        Assert.Contains("downloading 1 packages (2 MB)", _progress);
    }

    [Fact]
    public void A_package_that_cannot_be_unpacked_is_named()
    {
        DebianImages images = Machine(("apt-get", """
            for word; do
                case $word in
                    Dir::Cache::archives=*) folder=${word#*=} ;;
                    --print-uris) plan=1 ;;
                    download) echo >kernel.deb; exit 0 ;;
                esac
            done
            if [ "$plan" ]; then echo "'http://example.org/a_1_amd64.deb' a_1_amd64.deb 1500000 MD5Sum:0"; else echo >$folder/a_1_amd64.deb; fi
            """), s_knows, ("dpkg-deb", "echo 'dpkg-deb: error: not a Debian format archive' >&2; exit 2"));
        Assert.Contains("a_1_amd64.deb", ErrorOf(images));
    }

    [Fact]
    public void Lines_of_the_making_guest_are_told_by_their_token_from_what_packages_print()
    {
        var making = new DebianMaking("kernel", "initrd", "/folder/disk", "tree", 1, "abcd");
        Assert.Equal("failed mke2fs", making.Said("bunraku-make:abcd failed mke2fs\r"));
        Assert.Null(making.Said("bunraku-make:abce done"));
        Assert.Null(making.Said("Setting up bunraku-make:abcd done"));
    }

    [Fact]
    public void An_image_is_found_when_all_of_it_is_there()
    {
        DebianImages images = Machine();
        string folder = Directory.CreateDirectory(Path.Combine(CacheFolder, "debian")).FullName;
        foreach (string name in (string[])["vmlinuz-6.1", "initramfs", "busybox"]) File.WriteAllText(Path.Combine(folder, name), "");
        Assert.Null(images.Find());
        File.WriteAllText(Path.Combine(folder, "disk-12.qcow2"), "");
        Assert.Equal(new DebianFiles(Path.Combine(folder, "disk-12.qcow2"), Path.Combine(folder, "vmlinuz-6.1"), Path.Combine(folder, "initramfs"),
            Path.Combine(folder, "busybox")), images.Find());
    }

    [Fact]
    public void What_is_kept_of_the_system_is_what_programs_need()
    {
        Assert.True(DebianRecipe.Wants("usr/bin/make"));
        Assert.True(DebianRecipe.Wants("usr/share/doc/make/copyright"));
        Assert.False(DebianRecipe.Wants("usr/share/doc/make/NEWS.gz"));
        Assert.False(DebianRecipe.Wants("usr/share/locale/de/LC_MESSAGES/make.mo"));
    }
}
