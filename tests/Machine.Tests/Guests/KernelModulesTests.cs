using System.Buffers.Binary;
using System.IO.Compression;
using System.Text;
using ZstdSharp;

namespace Bunraku.Machine.Tests;

/// <summary>Which modules a name means, against modprobe(8), modules.dep(5) and modprobe.d(5) of kmod: modules of our own that say what a test needs.</summary>
public sealed class KernelModulesTests : IDisposable
{
    private const string Version = "9.1-test";
    private readonly string _folder = Directory.CreateTempSubdirectory("bunraku-modules").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    /// <summary>A relocatable file with two sections beside the first, which is empty: names of sections, and .modinfo.</summary>
    private static byte[] Module(params string[] information)
    {
        byte[] names = "\0.shstrtab\0.modinfo\0"u8.ToArray(), said = Encoding.ASCII.GetBytes(string.Concat(information.Select(i => i + "\0")));
        byte[] file = new byte[0x40 + 3 * 0x40 + names.Length + said.Length];
        "\x7F"u8.CopyTo(file);
        "ELF\x02\x01\x01"u8.CopyTo(file.AsSpan(1));
        Put(0x28, 0x40);
        BinaryPrimitives.WriteUInt16LittleEndian(file.AsSpan(0x3A), 0x40);
        BinaryPrimitives.WriteUInt16LittleEndian(file.AsSpan(0x3C), 3);
        BinaryPrimitives.WriteUInt16LittleEndian(file.AsSpan(0x3E), 1);
        int at = 0x100;
        Section(1, 1, names);
        Section(2, 11, said);
        return file;

        void Section(int number, int name, byte[] content)
        {
            int header = 0x40 + number * 0x40;
            BinaryPrimitives.WriteInt32LittleEndian(file.AsSpan(header), name);
            Put(header + 0x18, at);
            Put(header + 0x20, content.Length);
            content.CopyTo(file, at);
            at += content.Length;
        }

        void Put(int place, long value) => BinaryPrimitives.WriteInt64LittleEndian(file.AsSpan(place), value);
    }

    private static readonly (string Path, byte[] File)[] s_modules =
    [
        ("kernel/fs/upper-fs.ko", Module("license=GPL", "alias=fs-upper", "softdep=pre: sum", "softdep=pre: nosuch post: late", "depends=middle,lower",
            "description=Two\nlines")),
        ("kernel/fs/middle.ko", Module("depends=lower")),
        ("kernel/lib/lower.ko", Module("depends=")),
        ("kernel/lib/fast_sum.ko", Module("alias=sum", "alias=cpu:type:x86,ven*fam*mod*:feature:*0081*")),
        ("kernel/lib/slow_sum.ko", Module("alias=sum", "depends=lower")),
        ("kernel/late.ko", Module("alias=pci:v00008086d0000[12]00?sv*sd*bc*sc*i*")),
    ];

    private GuestCache Pack(params (string Path, byte[] File)[] modules)
    {
        string archive = Path.Combine(_folder, "cache", KernelModules.CacheName(Version), KernelModules.ArchiveName);
        Directory.CreateDirectory(Path.GetDirectoryName(archive)!);
        using FileStream target = File.Create(archive);
        using var pack = new KernelModulePack(target);
        foreach ((string path, byte[] file) in modules) pack.Add(path, new MemoryStream(file));
        pack.Add("modules.builtin", new MemoryStream("kernel/fs/always-there.ko\n"u8.ToArray()));
        pack.Add("modules.builtin.modinfo", new MemoryStream("always_there.alias=fs-always\0always_there.license=GPL\0"u8.ToArray()));
        pack.Add("build", new MemoryStream([1]));
        return new GuestCache(Path.Combine(_folder, "cache"));
    }

    [Theory]
    [InlineData("lower", "lower")]
    [InlineData("middle", "lower middle")]
    [InlineData("upper-fs", "lower middle fast_sum slow_sum upper_fs")] // what it would rather have, where that is there
    [InlineData("upper_fs", "lower middle fast_sum slow_sum upper_fs")]
    [InlineData("fs-upper", "lower middle fast_sum slow_sum upper_fs")]
    [InlineData("sum", "fast_sum lower slow_sum")] // all that are known by it
    [InlineData("cpu:type:x86,ven0002fam0019mod0001:feature:,0080,0081,0082", "fast_sum")]
    [InlineData("pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00", "late")]
    [InlineData("pci:v00008086d0000300Esv00001AF4sd00001100bc02sc00i00", null)]
    [InlineData("always-there", "")]
    [InlineData("fs-always", "")]
    [InlineData("nosuch", null)]
    [InlineData("", null)]
    [InlineData("../../etc/passwd", null)]
    public void A_name_means_modules_in_an_order_in_which_they_can_be_loaded(string name, string? expected)
    {
        using KernelModules modules = KernelModules.Open(Pack(s_modules), Version)!;
        Assert.Equal(expected, modules.Resolve(name) is { } order ? string.Join(' ', order) : null);
        Assert.Equal(["fast_sum", "late", "lower", "middle", "slow_sum", "upper_fs"], modules.Names);
    }

    /// <summary>The lists are those of depmod, so the folder of an installed kernel serves as well.</summary>
    [Fact]
    public void An_installed_folder_serves_as_well()
    {
        string folder = Path.Combine(_folder, "root", "lib", "modules", Version);
        GuestCache cache = Pack(s_modules);
        string archive = Path.Combine(cache.Root, KernelModules.CacheName(Version), KernelModules.ArchiveName);
        ZipFile.ExtractToDirectory(archive, folder);
        File.Delete(archive);
        using KernelModules modules = KernelModules.Open(cache, Version, Path.Combine(_folder, "root"))!;
        Assert.Equal(["lower", "middle", "fast_sum", "slow_sum", "upper_fs"], modules.Resolve("fs-upper"));
        Assert.Equal(s_modules[1].File, modules.Read("middle"));
        Assert.Equal("filename=kernel/fs/upper-fs.ko\nlicense=GPL\nalias=fs-upper\n", modules.Describe("upper-fs")![..58]);
        Assert.Contains("\ndescription=Two lines\n", modules.Describe("upper-fs"), StringComparison.Ordinal);
        Assert.Null(modules.Read("fs-upper"));
    }

    [Fact]
    public void Packed_files_are_unpacked()
    {
        byte[] plain = Module("depends="), gzip, zstd;
        using (var bytes = new MemoryStream())
        {
            using (var packer = new GZipStream(bytes, CompressionMode.Compress, leaveOpen: true)) packer.Write(plain);
            gzip = bytes.ToArray();
        }
        using (var packer = new Compressor()) zstd = packer.Wrap(plain).ToArray();
        // printf hello | xz --check=crc32
        byte[] xz = Convert.FromHexString("FD377A585A0000016922DE360200210116000000742FE5A301000468656C6C6F0000000086A61036"
            + "00011905BCE8ECCB9042990D010000000001595A");
        GuestCache cache = Pack(("a/one.ko.gz", gzip), ("a/two.ko.zst", zstd), ("a/three.ko.xz", xz), ("a/four.ko.lzma", plain));
        using KernelModules modules = KernelModules.Open(cache, Version)!;
        Assert.Equal(["one", "three", "two"], modules.Names);
        Assert.Equal(plain, modules.Read("one"));
        Assert.Equal(plain, modules.Read("two"));
        Assert.Equal("hello"u8.ToArray(), modules.Read("three"));
    }

    [Theory, InlineData("xz"), InlineData("zst"), InlineData("gz")]
    public void A_damaged_file_is_told_as_such(string packing)
    {
        byte[] begins = packing switch { "xz" => [0xFD, .. "7zXZ\0"u8], "gz" => [0x1F, 0x8B, 8, 0], _ => [0x28, 0xB5, 0x2F, 0xFD] };
        var random = new Random(2);
        for (int n = 0; n < 200; n++)
        {
            byte[] file = [.. begins, .. new byte[100]];
            random.NextBytes(file.AsSpan(begins.Length));
            Exception? error = Record.Exception(() => KernelModule.Unpack("a.ko." + packing, new MemoryStream(file)));
            Assert.True(error is null or InvalidDataException or IOException, $"{error}");
        }
    }

    /// <summary>The version comes from the guest.</summary>
    [Theory]
    [InlineData("")]
    [InlineData("..")]
    [InlineData(".hidden")]
    [InlineData("../modules-9.1-test")]
    [InlineData("9.1-test/")]
    [InlineData("9.2-test")]
    public void A_version_names_no_other_place(string version)
    {
        Assert.Null(KernelModules.Open(Pack(s_modules), version, Path.Combine(_folder, "root")));
    }

    [Fact]
    public void A_damaged_archive_is_as_good_as_none()
    {
        GuestCache cache = Pack(s_modules);
        File.WriteAllText(Path.Combine(cache.Root, KernelModules.CacheName(Version), KernelModules.ArchiveName), "no archive");
        Assert.Null(KernelModules.Open(cache, Version));
    }

    /// <summary>A module's file can be anything: what it says of itself is read within its bounds, or not at all.</summary>
    [Fact]
    public void Damaged_modules_say_nothing()
    {
        byte[] module = s_modules[0].File;
        Assert.Equal(6, KernelModule.Information(module).Count);
        Assert.Empty(KernelModule.Information([]));
        var random = new Random(4);
        for (int n = 0; n < 20_000; n++)
        {
            byte[] damaged = module[..random.Next(module.Length + 1)];
            for (int change = random.Next(4); change >= 0 && damaged.Length > 0; change--) damaged[random.Next(damaged.Length)] = (byte)random.Next(256);
            KernelModule.Information(damaged);
        }
    }

    [Fact]
    public void The_shells_applet_gives_way_and_the_order_of_names_stays()
    {
        byte[] busybox = "modprobe\0/etc/modprobe.d\0modprobe\0blacklist=\0mktemp\0modinfo\0modprobe\0more\0modprobe"u8.ToArray();
        byte[] hidden = BusyboxApplets.Hide(busybox, "modprobe", "modinfo", "nosuch");
        Assert.Equal("modprobe\0/etc/modprobe.d\0modprobe\0blacklist=\0mktemp\0modinf-\0modprob-\0more\0modprobe", Encoding.ASCII.GetString(hidden));
        Assert.Equal(busybox, BusyboxApplets.Hide(busybox, "more"));
    }
}
