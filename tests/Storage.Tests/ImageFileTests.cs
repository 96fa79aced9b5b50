using System.Diagnostics;
using Bunraku.Testing;

namespace Bunraku.Storage.Tests;

/// <summary>Opening images: formats, locks, backing files, and images that are damaged on purpose.</summary>
public sealed class ImageFileTests
{
    private static string Message(Action open) => Assert.ThrowsAny<IOException>(open).Message;

    private static void Open(string path, bool readOnly = false, bool backing = false) =>
        DiskImage.Open(new DiskOptions(path) { ReadOnly = readOnly, AllowBacking = backing }).Dispose();

    /// <summary>QEMU and we keep each other away from an image, in both orders, and readers let readers in.</summary>
    [Theory, InlineData("qcow2"), InlineData("raw")]
    public void Locks_are_those_of_QEMU(string format)
    {
        using var folder = new TemporaryFolder();
        string path = folder["image"];
        QemuTools.Image("create", "-f", format, path, "1M");
        foreach (bool ours in (bool[])[true, false]) // read-only
        {
            using IBlockBackend disk = DiskImage.Open(new DiskOptions(path) { ReadOnly = ours });
            foreach (bool theirs in (bool[])[true, false])
            {
                // Who reads a raw disk by qemu-io does not mind writers.
                if (format == "raw" && theirs) continue;
                (int status, string output) = QemuTools.Run("qemu-io", [.. theirs ? new[] { "-r" } : [], "-f", format, "-c", "read 0 512", path]);
                Assert.True((ours && theirs) == (status == 0), $"ours read-only {ours}, theirs {theirs}: {output}");
            }
        }
        foreach (bool theirs in (bool[])[true, false])
        {
            if (format == "raw" && theirs) continue;
            string[] arguments = [.. theirs ? new[] { "-r" } : [], "-f", format, path];
            using var qemu = new TestProcess(new ProcessStartInfo("qemu-io", arguments) { RedirectStandardInput = true, RedirectStandardOutput = true });
            qemu.StandardInput.WriteLine("length");
            qemu.StandardInput.Flush();
            Assert.NotNull(qemu.StandardOutput.ReadLine()); // the image is open
            Assert.Contains("in use", Message(() => Open(path)), StringComparison.Ordinal);
            if (theirs) Open(path, readOnly: true);
            else Assert.Contains("in use", Message(() => Open(path, readOnly: true)), StringComparison.Ordinal);
        }
        Open(path);
    }

    [Fact]
    public void A_guest_that_writes_a_header_into_its_raw_disk_gains_nothing()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder["secret"], new string('s', 4096));
        string path = folder["disk"], evil = folder["evil"];
        File.WriteAllBytes(path, new byte[1 << 20]);
        QemuTools.Image("create", "-f", "qcow2", "-b", folder["secret"], "-F", "raw", evil);
        byte[] header = File.ReadAllBytes(evil);
        using (IBlockBackend disk = DiskImage.Open(new DiskOptions(path)))
        {
            try
            {
                disk.Write(0, header); // refused where the file system cannot remember what the disk is
            }
            catch (IOException)
            {
            }
        }
        using (IBlockBackend disk = DiskImage.Open(new DiskOptions(path)))
        {
            Assert.IsType<RawDisk>(disk);
            Assert.Equal(1ul << 20, disk.Length);
        }
        using var raw = new RawDisk(HostImageFile.Open(path, readOnly: false), readOnly: false, guardsFormat: true);
        raw.Write(0, new byte[512]);
        Assert.Throws<IOException>(() => raw.Write(0, header.AsSpan(0, 512)));
        raw.Write(2, header.AsSpan(2, 510));
        Assert.Throws<IOException>(() => raw.Write(0, header.AsSpan(0, 2)));
    }

    [Fact]
    public void Backing_files_are_opened_only_where_that_is_allowed()
    {
        using var folder = new TemporaryFolder();
        QemuTools.Image("create", "-f", "raw", folder["base"], "1M");
        QemuTools.Image("create", "-f", "qcow2", "-b", folder["base"], "-F", "raw", folder["middle"]);
        QemuTools.Image("create", "-f", "qcow2", "-b", "middle", "-F", "qcow2", folder["top"]);
        Assert.Contains("names the backing file 'middle'", Message(() => Open(folder["top"])), StringComparison.Ordinal);
        Open(folder["top"], backing: true);
        // A base of an unknown format that leads on to other files.
        byte[] bytes = File.ReadAllBytes(folder["top"]);
        bytes.AsSpan(bytes.AsSpan().IndexOf((ReadOnlySpan<byte>)[0xE2, 0x79, 0x2A, 0xCA]), 4).Fill(1); // the extension with the format is one that nobody knows
        File.WriteAllBytes(folder["top"], bytes);
        Assert.Contains("no recorded format", Message(() => Open(folder["top"], backing: true)), StringComparison.Ordinal);
        QemuTools.Image("rebase", "-u", "-b", "top", "-F", "qcow2", folder["top"]);
        Assert.Contains("top", Message(() => Open(folder["top"], backing: true)), StringComparison.Ordinal);
        QemuTools.Image("rebase", "-u", "-b", "top", "-F", "qcow2", folder["middle"]);
        QemuTools.Image("rebase", "-u", "-b", "middle", "-F", "qcow2", folder["top"]);
        Assert.Contains("its own backing file", Message(() => Open(folder["top"], readOnly: true, backing: true)), StringComparison.Ordinal);
        QemuTools.Image("rebase", "-u", "-b", "nbd://host/disk", "-F", "raw", folder["top"]);
        Assert.Contains("not a file of this host", Message(() => Open(folder["top"], backing: true)), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("extended_l2=on", "subclusters")]
    [InlineData("data_file=FOLDER/data", "data in another file")]
    [InlineData("encrypt.format=aes,encrypt.key-secret=s", "encrypted")]
    public void What_is_not_supported_is_refused_by_name(string option, string words)
    {
        using var folder = new TemporaryFolder();
        QemuTools.Image("create", "--object", "secret,id=s,data=x", "-f", "qcow2", "-o", option.Replace("FOLDER/", folder[""], StringComparison.Ordinal),
            folder["image"], "1M");
        Assert.Contains(words, Message(() => Open(folder["image"])), StringComparison.Ordinal);
    }

    [Fact]
    public void An_unknown_feature_is_refused_by_the_name_that_the_image_has_for_it()
    {
        using var folder = new TemporaryFolder();
        QemuTools.Image("create", "-f", "qcow2", folder["image"], "1M");
        byte[] bytes = File.ReadAllBytes(folder["image"]);
        bytes[77] = 0x80; // bit 23
        File.WriteAllBytes(folder["image"], bytes);
        Assert.Contains("number 23", Message(() => Open(folder["image"])), StringComparison.Ordinal);
        int entry = bytes.AsSpan().IndexOf("corrupt bit"u8) - 2;
        (bytes[entry + 1], bytes[77]) = (23, 0x80);
        File.WriteAllBytes(folder["image"], bytes);
        Assert.Contains("'corrupt bit'", Message(() => Open(folder["image"])), StringComparison.Ordinal);
    }

    /// <summary>
    /// Bytes of an image are changed at random: using it ends with a clear error or goes well, and nothing but the image changes.
    /// </summary>
    [Theory, InlineData(512), InlineData(4096)]
    public void Damaged_images_end_in_an_error_of_one_line(int clusterSize)
    {
        using var folder = new TemporaryFolder();
        QemuTools.Image("create", "-f", "qcow2", "-o", $"cluster_size={clusterSize}", folder["image"], "300k");
        QemuTools.Io(folder["image"], "write -P 1 0 64k", "write -P 2 128k 16k", "write -z 32k 16k", $"write -c -P 5 256k {clusterSize}");
        QemuTools.Image("snapshot", "-c", "one", folder["image"]);
        QemuTools.Io(folder["image"], "write -P 3 8k 32k", "discard 128k 8k");
        byte[] good = File.ReadAllBytes(folder["image"]);
        var random = new Random(clusterSize);
        int errors = 0;
        for (int round = 0; round < 3000; round++)
        {
            byte[] bytes = [.. good];
            int count = random.Next(1, 4);
            for (int n = 0; n < count; n++)
            {
                // Numbers of header and tables above all.
                int at = random.Next(3) == 0 ? random.Next(112) : random.Next(bytes.Length / 8) * 8 + random.Next(8);
                bytes[at] = random.Next(3) switch { 0 => 0, 1 => 0xFF, _ => (byte)random.Next(256) };
            }
            var file = new RecordedFile(bytes);
            try
            {
                using Qcow2.Qcow2Disk disk = Qcow2.Qcow2Disk.Open(file, new Qcow2.Qcow2OpenOptions());
                byte[] data = new byte[Math.Min(disk.Length, 300 << 10)];
                disk.Read(0, data);
                for (int n = 0; n < 10; n++)
                {
                    ulong from = (ulong)random.Next(data.Length / 512) * 512;
                    disk.Write(from, data.AsSpan(0, Math.Min(2048, data.Length - (int)from)));
                    disk.Discard(from, Math.Min(8192, disk.Length - from));
                }
                disk.Flush();
                if (round % 4 == 0) disk.TakeSnapshot("more", DateTime.UnixEpoch);
                if (round % 4 == 1) disk.DeleteSnapshot("one");
                if (round % 4 == 2) disk.ApplySnapshot("one");
                Qcow2.Qcow2Checker.Check(disk);
            }
            catch (DiskException e)
            {
                Assert.DoesNotContain('\n', e.Message);
                errors++;
            }
            Assert.True(file.Bytes.Length < good.Length + (4 << 20), $"round {round}: the image has grown to {file.Bytes.Length} bytes");
        }
        Assert.True(errors > 500, $"only {errors} errors");
    }

    [Fact]
    public void Sparse_sources_become_small_copies()
    {
        using var folder = new TemporaryFolder();
        var random = new Random(3);
        byte[] model = new byte[(8 << 20) + 512];
        random.NextBytes(model.AsSpan(1 << 20, 100_000));
        model.AsSpan(5 << 20, 300_000).Fill(7);
        model.AsSpan(model.Length - 3).Fill(9);
        File.WriteAllBytes(folder["source"], model);
        foreach ((string name, bool compress, int cluster) in (ReadOnlySpan<(string, bool, int)>)
            [("plain", false, 65536), ("packed", true, 65536), ("small", true, 4096), ("tiny", true, 512)])
        {
            var options = new Qcow2.Qcow2CreateOptions { ClusterSize = cluster };
            ImageTools.Convert(new DiskOptions(folder["source"]), folder[name], ImageFormat.Qcow2, options, compress, null);
            QemuTools.Check(folder[name]);
            Assert.Equal(model, QemuTools.ReadAll(folder[name]));
            ImageTools.Convert(new DiskOptions(folder[name]), folder[name + ".back"], ImageFormat.Raw, new Qcow2.Qcow2CreateOptions(), false, null);
            Assert.Equal(model, File.ReadAllBytes(folder[name + ".back"]));
            Assert.True(ImageTools.Info(folder[name + ".back"]).Allocated < 1 << 20);
        }
        Assert.True(ImageTools.Info(folder["packed"]).Allocated < ImageTools.Info(folder["plain"]).Allocated);
    }
}
