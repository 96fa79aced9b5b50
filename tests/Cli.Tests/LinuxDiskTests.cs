using System.Diagnostics;
using System.Text;
using Bunraku.Storage;
using Bunraku.Storage.Qcow2;
using Bunraku.Testing;

namespace Bunraku.Cli.Tests;

/// <summary>Linux's own drivers on our disks; e2fsck and qemu-img on the host say whether what it wrote is right.</summary>
public sealed class LinuxDiskTests : IClassFixture<LinuxGuestFiles>
{
    private static async Task<string> Run(string engine, int cpus, VmDisk disk, string script)
    {
        var output = new MemoryStream();
        await using Vm vm = new VmBuilder(KnownEngines.All)
        {
            Engine = engine,
            Cpus = cpus,
            Memory = 256 << 20,
            Disks = [disk],
            Rng = true,
            Command = ["sh", "-ec", script],
            Output = output,
            Timeout = TimeSpan.FromMinutes(9),
        }.Build();
        VmResult result = await vm.RunAsync();
        string text = Encoding.UTF8.GetString(output.ToArray());
        Assert.True(result.ExitStatus == 0, $"status {result.ExitStatus}: {text}");
        return text;
    }

    private static void Tool(string name, params string[] arguments)
    {
        using var process = new TestProcess(new ProcessStartInfo(name, arguments) { RedirectStandardOutput = true, RedirectStandardError = true });
        Task<string> errors = process.StandardError.ReadToEndAsync();
        string output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        Assert.True(process.ExitCode == 0, $"{name} {string.Join(' ', arguments)}: {output}{errors.Result}");
    }

    /// <summary>One engine makes a file system, writes with two processors and discards; another one finds all of it again.</summary>
    [Theory]
    [InlineData(ImageFormat.Qcow2, "bt", "interp")]
    [InlineData(ImageFormat.Raw, "interp", "bt")]
    public async Task What_Linux_wrote_is_there_again(ImageFormat format, string first, string second)
    {
        string folder = Directory.CreateTempSubdirectory("bunraku-disk").FullName, path = Path.Combine(folder, "disk"), raw = Path.Combine(folder, "raw");
        try
        {
            ImageTools.Create(path, format, 48 << 20, new Qcow2CreateOptions());
            var disk = new VmDisk(new DiskOptions(path)) { Serial = "bunraku-7" };
            const string sums = "cd /m; find . -type f | sort | xargs sha256sum; cat /sys/block/vda/serial; cd /; umount /m";
            string written = await Run(first, 2, disk, """
                [ "$(cat /sys/class/misc/hw_random/rng_current)" = virtio_rng.0 ]; head -c 16 /dev/hwrng >/dev/null
                mke2fs -F /dev/vda >/dev/null 2>&1; mkdir /m; mount -t ext4 -o discard /dev/vda /m
                for n in 1 2; do dd if=/dev/urandom of=/m/r$n bs=64k count=64 2>/dev/null & done; wait
                cp -r /bin /m/bin; cat /m/r1 /m/r2 >/m/both; rm /m/r1; sync; fstrim /m; dd if=/m/both of=/m/again bs=4k 2>/dev/null; sync
                echo 3 >/proc/sys/vm/drop_caches

                """ + sums);
            Assert.EndsWith("bunraku-7", written.TrimEnd(), StringComparison.Ordinal);
            Assert.Contains("./both", written, StringComparison.Ordinal);
            if (format == ImageFormat.Qcow2) Tool("qemu-img", "check", path);
            string again = await Run(second, 1, disk, "mkdir /m; mount -t ext4 -o ro /dev/vda /m; " + sums);
            Assert.Equal(written, again);
            // Nothing of this stays.
            VmDisk throwaway = disk with { Throwaway = true };
            await Run("bt", 1, throwaway, "dd if=/dev/zero of=/dev/vda bs=64k count=100 2>/dev/null; sync; ! mount -t ext4 /dev/vda /tmp 2>/dev/null");
            Tool("qemu-img", "convert", "-f", DiskImage.Word(format), "-O", "raw", path, raw);
            Tool("e2fsck", "-f", "-n", raw);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    /// <summary>A disk that becomes larger while Linux has it: the driver shows the new size, and what is behind the old end can be written.</summary>
    [Theory]
    [InlineData(ImageFormat.Qcow2)]
    [InlineData(ImageFormat.Raw)]
    public async Task A_disk_becomes_larger_while_the_guest_has_it(ImageFormat format)
    {
        string folder = Directory.CreateTempSubdirectory("bunraku-disk").FullName, path = Path.Combine(folder, "disk");
        try
        {
            ImageTools.Create(path, format, 8 << 20, new Qcow2CreateOptions());
            var output = new GuestOutput();
            await using Vm vm = new VmBuilder(KnownEngines.All)
            {
                Engine = "bt",
                Disks = [new VmDisk(new DiskOptions(path))],
                Command = ["sh", "-ec", """
                    echo size $(cat /sys/block/vda/size)
                    until [ $(cat /sys/block/vda/size) = 32768 ]; do sleep 0.1; done
                    echo behind the end | dd of=/dev/vda bs=512 seek=32767 conv=sync,fsync 2>/dev/null; echo grown
                    """],
                Output = output,
                Timeout = TimeSpan.FromMinutes(9),
            }.Build();
            Task<VmResult> run = vm.RunAsync();
            await output.Until("size 16384", run);
            Assert.Contains("8388608 bytes", Assert.Throws<CannotWriteException>(() => vm.GrowDisk(0, 4 << 20)).Message, StringComparison.Ordinal);
            vm.GrowDisk(0, 16 << 20);
            Assert.Equal(0, (await run).ExitStatus);
            Assert.Contains("grown", output.Text, StringComparison.Ordinal);
            await vm.DisposeAsync();
            using IBlockBackend disk = DiskImage.Open(new DiskOptions(path) { ReadOnly = true });
            byte[] last = new byte[512];
            disk.Read((16 << 20) - 512, last);
            Assert.StartsWith("behind the end\n", Encoding.ASCII.GetString(last), StringComparison.Ordinal);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }
}
