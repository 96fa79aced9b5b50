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
}
