using System.Diagnostics;
using System.Formats.Tar;
using System.Text;
using Bunraku.Testing;

namespace Bunraku.Cli.Tests;

/// <summary>Disks that boot GRUB, made of its Debian packages for one test.</summary>
internal sealed class GrubImages : IDisposable
{
    private const string Modules = "/usr/lib/grub/i386-pc";
    private static readonly string[] s_modules = ["memdisk", "tar", "configfile", "normal", "biosdisk", "serial", "terminal", "echo", "halt", "reboot", "acpi",
        "lsacpi", "ls", "test", "cmostest", "part_msdos", "mmap", "lsmmap"];

    /// <summary>On COM1.</summary>
    private const string Serial = "serial --unit=0 --speed=115200\nterminal_input serial\nterminal_output serial\n";

    private readonly string _folder = Directory.CreateTempSubdirectory("bunraku-grub").FullName;

    public string Folder => _folder;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    /// <summary>A raw disk with a boot sector and GRUB behind it, which carries out <paramref name="script"/> on COM1.</summary>
    public string Disk(string script)
    {
        string core = Path.Combine(_folder, "core.img"), disk = Path.Combine(_folder, "disk.img"), tar = Path.Combine(_folder, "memdisk.tar");
        using (var writer = new TarWriter(File.Create(tar)))
        {
            var config = new UstarTarEntry(TarEntryType.RegularFile, "boot/grub/grub.cfg");
            using var text = new MemoryStream(Encoding.ASCII.GetBytes(Serial + script));
            config.DataStream = text;
            writer.WriteEntry(config);
        }
        Run("grub-mkimage", ["-O", "i386-pc", "-d", Modules, "-o", core, "-p", "(memdisk)/boot/grub", "-m", tar, .. s_modules]);
        byte[] boot = File.ReadAllBytes(Path.Combine(Modules, "boot.img"));
        (boot[510], boot[511]) = (0x55, 0xAA); // the BIOS's mark of what can be booted
        byte[] image = [.. boot, .. File.ReadAllBytes(core)];
        Array.Resize(ref image, 4 << 20);
        File.WriteAllBytes(disk, image);
        return disk;
    }

    /// <summary>A CD that boots GRUB, which carries out <paramref name="script"/> on COM1.</summary>
    public string CompactDisc(string script)
    {
        string root = Path.Combine(_folder, "root"), disc = Path.Combine(_folder, "grub.iso");
        Directory.CreateDirectory(Path.Combine(root, "boot/grub"));
        File.WriteAllText(Path.Combine(root, "boot/grub/grub.cfg"), Serial + script);
        Run("grub-mkrescue", ["-d", Modules, "-o", disc, root]);
        return disc;
    }

    public static void Run(string program, IEnumerable<string> arguments)
    {
        using var process = new TestProcess(new ProcessStartInfo(program, arguments) { RedirectStandardOutput = true, RedirectStandardError = true });
        Task<string> errors = process.StandardError.ReadToEndAsync();
        string output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        Assert.True(process.ExitCode == 0, $"{program}: {output}{errors.Result}");
    }
}
