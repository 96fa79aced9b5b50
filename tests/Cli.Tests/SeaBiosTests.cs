using System.Text;
using Bunraku.Hypervisor;
using Bunraku.Storage;

namespace Bunraku.Cli.Tests;

/// <summary>SeaBIOS from its package, and what it boots: GRUB as the peer of disk, tables and memory map.</summary>
public sealed class SeaBiosTests
{
    private static async Task<(VmResult Result, string Console, string Log)> Run(string engine, string disk, bool noReboot = false)
    {
        var output = new MemoryStream();
        var log = new MemoryStream();
        await using Vm vm = new VmBuilder(KnownEngines.All)
        {
            Bios = "seabios",
            Engine = engine,
            Cpus = engine == "check" ? 1 : 2,
            Memory = 128 << 20,
            Disks = [new VmDisk(new DiskOptions(disk) { Format = ImageFormat.Raw })],
            NoReboot = noReboot,
            Output = output,
            FirmwareLog = log.Write,
            Timeout = TimeSpan.FromMinutes(3),
        }.Build();
        VmResult result = await vm.RunAsync();
        return (result, Encoding.UTF8.GetString(output.ToArray()), Encoding.ASCII.GetString(log.ToArray()));
    }

    /// <summary>GRUB finds disk, ACPI tables and memory map, resets the machine, finds in CMOS that it was here, and switches off by ACPI.</summary>
    [Theory]
    [InlineData("interp")]
    [InlineData("bt")]
    public async Task GRUB_boots_from_a_disk_resets_the_machine_and_switches_it_off(string engine)
    {
        using var grub = new GrubImages();
        string disk = grub.Disk("""
            ls
            lsacpi
            lsmmap
            if cmostest 0x60:0; then echo SECOND; halt; fi
            echo FIRST
            cmosset 0x60:0
            reboot
            """);
        (VmResult result, string console, string log) = await Run(engine, disk);
        Assert.True(result.Cause.Reason == StopReason.PowerOff, $"{result.Cause}: {console}");
        Assert.Contains("SeaBIOS (version", console, StringComparison.Ordinal);
        int first = console.IndexOf("FIRST", StringComparison.Ordinal), second = console.IndexOf("SECOND", StringComparison.Ordinal);
        Assert.True(first >= 0 && second > first, console);
        Assert.Equal(2, console.Split("GRUB loading").Length - 1);
        Assert.Contains("(hd0)", console, StringComparison.Ordinal);
        Assert.Contains("RSDPv2 signature:RSD PTR  chksum:", console, StringComparison.Ordinal);
        Assert.DoesNotContain("(invalid)", console, StringComparison.Ordinal);
        Assert.Matches("base_addr = 0x100000, length = 0x7e[0-9a-f]{5}, available", console);
        Assert.Contains("Found 2 cpu(s) max supported 2 cpu(s)", log, StringComparison.Ordinal);
        Assert.Contains("found virtio-blk at", log, StringComparison.OrdinalIgnoreCase);
    }

    /// <summary>SeaBIOS's driver for AHCI reads CD and disk: nothing can be booted from the disk, so that the CD's turn comes.</summary>
    [Theory]
    [InlineData("interp")]
    [InlineData("bt")]
    public async Task GRUB_boots_from_a_CD_and_reads_a_SATA_disk(string engine)
    {
        using var grub = new GrubImages();
        string disc = grub.CompactDisc("cat (hd0)2047+1\nhalt\n"), disk = Path.Combine(grub.Folder, "sata.img");
        byte[] image = new byte[1 << 20];
        "WHAT-IS-ON-THE-LAST-SECTOR\n"u8.CopyTo(image.AsSpan(2047 * 512));
        File.WriteAllBytes(disk, image);
        var output = new MemoryStream();
        await using Vm vm = new VmBuilder(KnownEngines.All)
        {
            Bios = "seabios",
            Engine = engine,
            Memory = 128 << 20,
            Disks = [new VmDisk(new DiskOptions(disk) { Format = ImageFormat.Raw }) { Bus = DiskBus.Ahci }],
            CompactDiscs = [disc],
            Output = output,
            Timeout = TimeSpan.FromMinutes(3),
        }.Build();
        VmResult result = await vm.RunAsync();
        string console = Encoding.UTF8.GetString(output.ToArray());
        Assert.True(result.Cause.Reason == StopReason.PowerOff, $"{result.Cause}: {console}");
        Assert.Contains("Boot failed: not a bootable disk", console, StringComparison.Ordinal);
        Assert.Contains("Booting from DVD/CD", console, StringComparison.Ordinal);
        Assert.Contains("WHAT-IS-ON-THE-LAST-SECTOR", console, StringComparison.Ordinal);
    }

    /// <summary>Ends a run when the guest has printed a text.</summary>
    private sealed class Until(string text, CancellationTokenSource end) : MemoryStream
    {
        public override void Write(byte[] buffer, int offset, int count)
        {
            base.Write(buffer, offset, count);
            if (Encoding.ASCII.GetString(ToArray()).Contains(text, StringComparison.Ordinal)) end.Cancel();
        }
    }

    [Fact]
    public async Task Where_nothing_can_be_booted_SeaBIOS_says_so()
    {
        string disk = Path.GetTempFileName();
        try
        {
            File.WriteAllBytes(disk, new byte[1 << 20]);
            using var end = new CancellationTokenSource();
            var output = new Until("No bootable device", end);
            await using Vm vm = new VmBuilder(KnownEngines.All)
            {
                Bios = "seabios",
                Engine = "bt",
                Disks = [new VmDisk(new DiskOptions(disk) { Format = ImageFormat.Raw })],
                Output = output,
                Timeout = TimeSpan.FromMinutes(3),
            }.Build();
            await Assert.ThrowsAnyAsync<OperationCanceledException>(() => vm.RunAsync(end.Token));
            Assert.Contains("Boot failed: not a bootable disk", Encoding.ASCII.GetString(output.ToArray()), StringComparison.Ordinal);
        }
        finally
        {
            File.Delete(disk);
        }
    }
}
