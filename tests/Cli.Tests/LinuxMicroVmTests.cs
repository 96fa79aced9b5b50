using Bunraku.Storage;
using Bunraku.Storage.Qcow2;

namespace Bunraku.Cli.Tests;

/// <summary>Linux on a board without PCI: its drivers on our virtio devices in memory.</summary>
public sealed class LinuxMicroVmTests : IClassFixture<LinuxGuestFiles>, IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("bunraku-microvm").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private VmBuilder Builder(string engine, int cpus, string script, Stream output) => new(KnownEngines.All)
    {
        Engine = engine,
        Cpus = cpus,
        Memory = 256 << 20,
        Board = BoardKind.MicroVm,
        Rng = true,
        Balloon = new VmBalloon(),
        Shares = [new VmShare(_folder)],
        Command = ["sh", "-ec", script],
        Output = output,
        Timeout = TimeSpan.FromMinutes(9),
    };

    [Theory]
    [InlineData("bt", 2)]
    [InlineData("interp", 1)]
    [InlineData("check", 1)]
    public async Task It_has_disk_folder_and_random_numbers(string engine, int cpus)
    {
        string disk = Path.Combine(_folder, "disk");
        ImageTools.Create(disk, ImageFormat.Qcow2, 48 << 20, new Qcow2CreateOptions());
        var output = new GuestOutput();
        await using Vm vm = (Builder(engine, cpus, """
            [ ! -e /sys/bus/pci/devices/0000:00:00.0 ]
            [ "$(cat /sys/class/misc/hw_random/rng_current)" = virtio_rng.0 ]; head -c 16 /dev/hwrng >/dev/null
            mke2fs -F /dev/vda >/dev/null 2>&1; mkdir /m; mount /dev/vda /m
            cp -r /bin /m/bin; sync; echo 3 >/proc/sys/vm/drop_caches; cmp /bin/busybox /m/bin/busybox; umount /m
            sha256sum </bin/busybox >from-guest; cat from-guest
            """, output) with { Disks = [new VmDisk(new DiskOptions(disk))] }).Build();
        VmResult result = await vm.RunAsync();
        Assert.True(result.ExitStatus == 0, $"status {result.ExitStatus}: {output.Text}");
        Assert.Equal(File.ReadAllText(Path.Combine(_folder, "from-guest")), output.Text);
    }

    [Fact]
    public async Task It_goes_on_from_a_snapshot()
    {
        const string script = "echo begun; head -c 16 /dev/hwrng >/dev/null; read line; echo $line; head -c 16 /dev/hwrng | wc -c";
        string saved = Path.Combine(_folder, "saved");
        var first = new GuestOutput();
        await using (Vm vm = (Builder("bt", 1, script, first) with { Shares = [], Input = new Silence() }).Build())
        {
            Task<VmResult> run = vm.RunAsync();
            await first.Until("begun", run);
            await vm.SaveAsync(saved);
        }
        var second = new GuestOutput();
        await using Vm copy = (Builder("interp", 1, script, second) with { Shares = [], RestoreFrom = saved, Input = new MemoryStream("more\n"u8.ToArray()) })
            .Build();
        VmResult result = await copy.RunAsync();
        Assert.Equal((0, "more\n16\n"), (result.ExitStatus, second.Text));
    }

    /// <summary>Input that never comes.</summary>
    private sealed class Silence : MemoryStream
    {
        public override async ValueTask<int> ReadAsync(Memory<byte> buffer, CancellationToken cancellationToken = default)
        {
            await Task.Delay(Timeout.Infinite, cancellationToken);
            return 0;
        }
    }
}
