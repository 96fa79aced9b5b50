using Bunraku.Storage.Qcow2;

namespace Bunraku.Storage.Tests;

/// <summary>Images that we write are what QEMU reads, and what QEMU writes is what we read.</summary>
public sealed class Qcow2OracleTests
{
    private const int Size = (4 << 20) + 512 * 3;

    /// <summary>Version, cluster size, bits of a count, the disk has a backing file, the seed.</summary>
    public static TheoryData<int, int, int, bool, int> Images => new()
    {
        { 3, 65536, 16, false, 1 }, { 3, 65536, 16, true, 2 }, { 2, 65536, 16, true, 3 }, { 3, 512, 16, false, 4 }, { 3, 512, 64, true, 5 },
        { 2, 4096, 16, false, 6 }, { 3, 2 << 20, 32, true, 7 }, { 3, 1024, 4, false, 8 },
    };

    /// <summary>The same random operations on our image and on a plain array; QEMU reads the image, finds nothing wrong, and goes on with it.</summary>
    [Theory, MemberData(nameof(Images))]
    public void Random_operations_leave_what_QEMU_reads(int version, int clusterSize, int refcountBits, bool backed, int seed)
    {
        using var folder = new TemporaryFolder();
        var random = new Random(seed);
        string path = folder["image.qcow2"];
        byte[] model = new byte[Size];
        if (backed)
        {
            random.NextBytes(model.AsSpan(0, Size * 3 / 4 & ~511));
            File.WriteAllBytes(folder["base.raw"], model[..(Size * 3 / 4 & ~511)]);
        }
        using (HostImageFile file = HostImageFile.Create(path, replace: false))
        {
            Qcow2Creator.Create(file, Size, new Qcow2CreateOptions
            {
                Version = version,
                ClusterSize = clusterSize,
                RefcountBits = refcountBits,
                Backing = backed ? "base.raw" : null,
            });
        }
        QemuTools.Check(path);
        var snapshots = new Dictionary<string, byte[]>();
        for (int life = 0; life < 3; life++)
        {
            using (IBlockBackend disk = DiskImage.Open(new DiskOptions(path) { AllowBacking = true }))
            {
                for (int n = 0; n < 120; n++) Operate(disk, model, random);
                disk.Flush();
                Compare(disk, model);
                if (refcountBits > 1) WithSnapshots((Qcow2Disk)disk, snapshots, ref model, random, life);
                Compare(disk, model);
            }
            QemuTools.Check(path);
            Assert.Equal(model, QemuTools.ReadAll(path));
            foreach ((string name, byte[] then) in snapshots)
            {
                QemuTools.Image("convert", "-f", "qcow2", "-O", "raw", "-l", $"snapshot.name={name}", path, folder["then.raw"]);
                Assert.Equal(then, File.ReadAllBytes(folder["then.raw"]));
            }
            // QEMU goes on, in places of its own, compressed and not.
            int at = random.Next(Size / 512 - 200) * 512;
            QemuTools.Io(path, $"write -P {life + 1} {at} 65536", $"write -z {at / 2 & ~511} 70144");
            model.AsSpan(at, 65536).Fill((byte)(life + 1));
            model.AsSpan(at / 2 & ~511, 70144).Clear();
            int compressed = random.Next(Size / clusterSize) * clusterSize, length = Math.Min(clusterSize, Size - compressed);
            if (length < clusterSize || snapshots.Count > 0) continue;
            QemuTools.Io(path, $"write -c -P {life + 100} {compressed} {length}");
            model.AsSpan(compressed, length).Fill((byte)(life + 100));
        }
    }

    private static void WithSnapshots(Qcow2Disk disk, Dictionary<string, byte[]> snapshots, ref byte[] model, Random random, int life)
    {
        disk.TakeSnapshot($"s{life}", DateTime.UtcNow);
        snapshots[$"s{life}"] = [.. model];
        Assert.Equal(snapshots.Keys.Order(), disk.Snapshots.Select(s => s.Name).Order());
        for (int n = 0; n < 40; n++) Operate(disk, model, random);
        if (life == 1)
        {
            disk.ApplySnapshot("s0");
            model = [.. snapshots["s0"]];
            for (int n = 0; n < 40; n++) Operate(disk, model, random);
        }
        if (life == 2)
        {
            disk.DeleteSnapshot("s0");
            snapshots.Remove("s0");
        }
        disk.Flush();
    }

    [Fact]
    public void Snapshots_that_the_counts_cannot_hold_leave_the_image_as_it_was()
    {
        using var folder = new TemporaryFolder();
        string path = folder["image.qcow2"];
        using (HostImageFile file = HostImageFile.Create(path, replace: false))
            Qcow2Creator.Create(file, Size, new Qcow2CreateOptions { RefcountBits = 2, ClusterSize = 4096 });
        byte[] model = new byte[Size];
        using (var disk = (Qcow2Disk)DiskImage.Open(new DiskOptions(path)))
        {
            var random = new Random(1);
            for (int n = 0; n < 30; n++) Operate(disk, model, random);
            disk.TakeSnapshot("one", DateTime.UtcNow);
            disk.TakeSnapshot("two", DateTime.UtcNow);
            Assert.Contains("hold no more", Assert.Throws<DiskException>(() => disk.TakeSnapshot("three", DateTime.UtcNow)).Message, StringComparison.Ordinal);
            for (int n = 0; n < 30; n++) Operate(disk, model, random);
            disk.Flush();
        }
        QemuTools.Check(path);
        Assert.Equal(model, QemuTools.ReadAll(path));
    }

    private static void Operate(IBlockBackend disk, byte[] model, Random random)
    {
        int sectors = model.Length / 512, from = random.Next(sectors), count = Math.Min(random.Next(1, random.Next(4) == 0 ? 600 : 20), sectors - from);
        Span<byte> range = model.AsSpan(from * 512, count * 512);
        ulong position = (ulong)from * 512;
        switch (random.Next(8))
        {
            case < 4:
                random.NextBytes(range);
                disk.Write(position, range);
                break;
            case 4:
                range.Clear();
                disk.WriteZeroes(position, (ulong)range.Length, unmap: random.Next(2) == 0);
                break;
            case 5:
                byte[] before = [.. range];
                disk.Discard(position, (ulong)range.Length);
                disk.Read(position, range);
                for (int n = 0; n < before.Length; n++) Assert.True(range[n] == before[n] || range[n] == 0, "what was discarded came from elsewhere");
                break;
            case 6:
                disk.Flush();
                break;
            default:
                byte[] read = new byte[range.Length];
                disk.Read(position, read);
                Assert.True(range.SequenceEqual(read), $"{range.Length} bytes at {position} differ");
                ulong zeros = disk.KnownZeros(position);
                Assert.False(model.AsSpan((int)position, (int)Math.Min(zeros, (ulong)model.Length - position)).ContainsAnyExcept((byte)0));
                break;
        }
    }

    private static void Compare(IBlockBackend disk, byte[] model)
    {
        byte[] all = new byte[model.Length];
        disk.Read(0, all);
        Assert.Equal(model, all);
    }

    /// <summary>Compressed clusters, backing chains, preallocation and features as QEMU makes them.</summary>
    [Theory]
    [InlineData("compat=1.1,compression_type=zlib")]
    [InlineData("compat=1.1,compression_type=zstd")]
    [InlineData("compat=1.1,compression_type=zstd,cluster_size=4096")]
    [InlineData("compat=0.10")]
    [InlineData("compat=1.1,cluster_size=2097152")]
    public void What_QEMU_compresses_is_read_and_overwritten(string options)
    {
        using var folder = new TemporaryFolder();
        var random = new Random(9);
        byte[] model = new byte[3 << 20];
        for (int at = 0; at < model.Length; at += 64) random.NextBytes(model.AsSpan(at, at / 4096 % 3 == 0 ? 64 : 5)); // some of it can be compressed
        File.WriteAllBytes(folder["source.raw"], model);
        string path = folder["image.qcow2"];
        QemuTools.Image("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, folder["source.raw"], path);
        for (int life = 0; life < 2; life++)
        {
            using (IBlockBackend disk = DiskImage.Open(new DiskOptions(path)))
            {
                Compare(disk, model);
                for (int n = 0; n < 60; n++) Operate(disk, model, random);
                disk.Flush();
                Compare(disk, model);
            }
            QemuTools.Check(path);
            Assert.Equal(model, QemuTools.ReadAll(path));
        }
    }

    [Fact]
    public void Counts_that_were_left_open_are_counted_again()
    {
        using var folder = new TemporaryFolder();
        string path = folder["image.qcow2"];
        QemuTools.Image("create", "-f", "qcow2", "-o", "lazy_refcounts=on", path, "64M");
        // QEMU ends without closing the image: counts are open then.
        QemuTools.Run("qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 3M", "-c", "flush", "-c", "abort", path);
        const int features = 79;
        Assert.Equal(1, File.ReadAllBytes(path)[features] & 1);
        using (IBlockBackend disk = DiskImage.Open(new DiskOptions(path)))
        {
            byte[] bytes = new byte[3 << 20];
            disk.Read(1 << 20, bytes);
            Assert.False(bytes.AsSpan().ContainsAnyExcept((byte)7));
            disk.Write(8 << 20, bytes);
            disk.Flush();
        }
        QemuTools.Check(path);
    }

    [Theory]
    [InlineData(3, 65536, false), InlineData(3, 512, true), InlineData(2, 4096, true), InlineData(3, 4096, false)]
    public void A_disk_that_was_resized_has_zeros_where_it_is_new(int version, int clusterSize, bool backed)
    {
        using var folder = new TemporaryFolder();
        string path = folder["image.qcow2"];
        byte[] below = new byte[4 << 20];
        below.AsSpan().Fill(0xBB);
        File.WriteAllBytes(folder["base.raw"], below);
        using (HostImageFile file = HostImageFile.Create(path, replace: false))
        {
            Qcow2Creator.Create(file, 1 << 20,
                new Qcow2CreateOptions { Version = version, ClusterSize = clusterSize, Backing = backed ? "base.raw" : null });
        }
        byte[] model = new byte[1 << 20];
        if (backed) model.AsSpan().Fill(0xBB);
        foreach (int size in (int[])[3 << 20, (1 << 20) + 1536, (2 << 20) + 512, 512, 6 << 20])
        {
            int before = model.Length;
            using (var disk = (Qcow2Disk)DiskImage.Open(new DiskOptions(path) { AllowBacking = true }))
            {
                disk.Resize((ulong)size);
                Array.Resize(ref model, size);
                Compare(disk, model);
                disk.Write((ulong)size - 512, model.AsSpan(size - 512));
                model.AsSpan(size - 512).Fill((byte)(size >> 9));
                disk.Write((ulong)size - 512, model.AsSpan(size - 512));
                disk.Flush();
            }
            QemuTools.Check(path);
            Assert.Equal(model, QemuTools.ReadAll(path));
        }
    }
}
