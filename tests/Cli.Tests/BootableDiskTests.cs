using System.Buffers.Binary;
using Bunraku.Cli.CommandLine;
using Bunraku.Storage;

namespace Bunraku.Cli.Tests;

/// <summary>A run that names no guest boots a disk that can be booted; disks with data alone stay those of the built-in guest.</summary>
public sealed class BootableDiskTests : IDisposable
{
    private const int Sector = 512;
    private static readonly Guid s_efi = new("C12A7328-F81F-11D2-BA4B-00A0C93EC93B"), s_bios = new("21686148-6449-6E6F-744E-656564454649"),
        s_linux = new("0FC63DAF-8483-4772-8E79-3D69D8477DE4");

    private readonly string _folder = Directory.CreateTempSubdirectory("bunraku-bootable").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    /// <summary>A disk of 1 MiB with a boot sector.</summary>
    private static byte[] Disk(bool code, params (byte Flag, byte Type)[] partitions)
    {
        byte[] disk = new byte[1 << 20];
        if (code) disk[0] = 0xEB;
        (disk[510], disk[511]) = (0x55, 0xAA);
        for (int n = 0; n < partitions.Length; n++) (disk[446 + 16 * n], disk[450 + 16 * n]) = partitions[n];
        return disk;
    }

    private static byte[] Table(bool code, params Guid[] types)
    {
        byte[] disk = Disk(code, (0, 0xEE));
        Span<byte> header = disk.AsSpan(Sector);
        "EFI PART"u8.CopyTo(header);
        BinaryPrimitives.WriteUInt64LittleEndian(header[72..], 2);
        BinaryPrimitives.WriteUInt32LittleEndian(header[80..], 128);
        BinaryPrimitives.WriteUInt32LittleEndian(header[84..], 128);
        for (int n = 0; n < types.Length; n++) types[n].TryWriteBytes(disk.AsSpan(2 * Sector + 128 * n));
        return disk;
    }

    private string File(string name, byte[] contents)
    {
        string path = Path.Combine(_folder, name);
        System.IO.File.WriteAllBytes(path, contents);
        return path;
    }

    private string? Firmware(byte[] disk, ImageFormat? format = null) =>
        BootableDisk.Firmware([new DiskOptions(File("disk", disk)) { Format = format }], []);

    [Fact]
    public void A_partition_that_is_meant_for_booting_makes_a_disk_bootable()
    {
        Assert.Equal("seabios", Firmware(Disk(code: true, (0, 0x83), (0x80, 0x83))));
        Assert.Equal("ovmf", Firmware(Disk(code: true, (0, 0xEF))));
        Assert.Equal("seabios", Firmware(Table(code: true, s_bios, s_efi, s_linux)));
        Assert.Equal("ovmf", Firmware(Table(code: false, s_bios, s_efi, s_linux)));
        Assert.Equal("ovmf", Firmware(Table(code: true, s_linux, s_efi)));
    }

    [Fact]
    public void Data_does_not()
    {
        Assert.Null(Firmware(new byte[1 << 20]));
        Assert.Null(Firmware(new byte[Sector]));
        Assert.Null(Firmware(Disk(code: true, (0, 0x83)))); // what parted leaves
        Assert.Null(Firmware(Disk(code: false, (0x80, 0x83))));
        Assert.Null(Firmware(Disk(code: true, (0x80, 0x83), (0x6F, 0x74)))); // a FAT with text where partitions would be
        Assert.Null(Firmware(Table(code: true, s_linux)));
        Assert.Null(Firmware(Disk(code: true, (0, 0xEE))));
    }

    /// <summary>Any numbers in a table are an answer, not an error.</summary>
    [Theory]
    [InlineData(72, ulong.MaxValue)]
    [InlineData(72, 2047ul)]
    [InlineData(80, 0x80_FFFF_FFFFul)]
    [InlineData(80, 0x0000_0000_0000_0080ul)]
    [InlineData(80, 0xFFFF_FFFF_0000_0080ul)]
    public void A_damaged_table_is_none(int field, ulong value)
    {
        byte[] disk = Table(code: true, s_bios, s_efi);
        BinaryPrimitives.WriteUInt64LittleEndian(disk.AsSpan(Sector + field), value);
        Assert.Null(Firmware(disk));
    }

    [Fact]
    public void The_first_disk_counts_and_what_cannot_be_opened_is_passed_over()
    {
        string data = File("data", new byte[1 << 20]), uefi = File("uefi", Table(code: false, s_efi)), none = Path.Combine(_folder, "none");
        Assert.Equal("ovmf", BootableDisk.Firmware([new DiskOptions(none), new DiskOptions(data), new DiskOptions(uefi)], [none]));
        Assert.Null(BootableDisk.Firmware([new DiskOptions(data)], [none, data]));
        // Looking has no say in what the file is later, when a guest has written into it.
        Assert.Equal("ovmf", Firmware(Table(code: false, s_efi), ImageFormat.Raw));
    }

    [Fact]
    public void A_CD_says_for_which_firmware_it_is()
    {
        using var grub = new GrubImages();
        string disc = grub.CompactDisc("halt\n");
        Assert.Equal("seabios", BootableDisk.Firmware([], [disc]));
        byte[] image = System.IO.File.ReadAllBytes(disc);
        int catalog = BinaryPrimitives.ReadInt32LittleEndian(image.AsSpan(17 * 2048 + 0x47)) * 2048;
        image[catalog + 1] = 0xEF;
        Assert.Equal("ovmf", BootableDisk.Firmware([], [File("uefi.iso", image)]));
        BinaryPrimitives.WriteInt32LittleEndian(image.AsSpan(17 * 2048 + 0x47), -1);
        Assert.Null(BootableDisk.Firmware([], [File("damaged.iso", image)]));
        Assert.Null(BootableDisk.Firmware([], [File("data.iso", new byte[1 << 20])]));
    }

    [Theory]
    [InlineData(true, "--disk", "d")]
    [InlineData(true, "--cdrom", "c", "--net", "user", "--memory", "1G")]
    [InlineData(false, "--memory", "1G")]
    [InlineData(false, "linux", "--disk", "d")]
    [InlineData(false, "debian", "--disk", "d")]
    [InlineData(false, "--bios", "seabios", "--disk", "d")]
    [InlineData(false, "--kernel", "k", "--disk", "d")]
    [InlineData(false, "--init", "i", "--disk", "d")]
    [InlineData(false, "--append", "quiet", "--disk", "d")]
    [InlineData(false, "--share", "/tmp", "--disk", "d")]
    [InlineData(false, "--copy", "f", "--disk", "d")]
    [InlineData(false, "--env", "A=b", "--disk", "d")]
    [InlineData(false, "--machine", "microvm", "--disk", "d")]
    [InlineData(false, "--disk", "d", "--", "true")]
    public void Whoever_asks_for_the_built_in_guest_has_it(bool boots, params string[] arguments) =>
        Assert.Equal(boots, Assert.IsType<Request.Run>(CommandLineParser.Parse(["run", .. arguments])).Options.BootsDisk);

    [Fact]
    public void A_CD_boots_without_a_word_about_firmware()
    {
        using var grub = new GrubImages();
        string disc = grub.CompactDisc("echo THIS-IS-THE-CD\nhalt\n");
        string text = BunrakuProgram.Run(_folder, 0, ["run", "--cdrom", disc, "--timeout", "3m", "--memory", "128M"]);
        Assert.Contains("THIS-IS-THE-CD", text, StringComparison.Ordinal);
        Assert.Contains("as with --bios seabios", text, StringComparison.Ordinal);
    }
}
