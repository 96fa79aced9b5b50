using System.Buffers.Binary;
using Bunraku.Storage.Qcow2;

namespace Bunraku.Storage.Tests;

/// <summary>
/// The power fails at any moment: the file has what was flushed, and of what was written since any part, torn at sectors of 512 bytes. The image is right to
/// QEMU then, and each sector of the disk has what was there at the last flush or what was written since.
/// </summary>
public sealed class PowerFailureTests
{
    private const int Sector = 512, DiskSectors = 256, Variants = 8;

    /// <summary>Version, cluster size, bits of a count, the disk has a backing file, the seed.</summary>
    public static TheoryData<int, int, int, bool, int> Images => new()
    {
        { 3, 512, 16, false, 1 }, { 3, 4096, 16, true, 2 }, { 2, 512, 16, false, 3 }, { 3, 1024, 2, false, 4 }, { 2, 4096, 16, true, 5 },
        { 3, 512, 64, true, 6 },
    };

    [Theory, MemberData(nameof(Images))]
    public void Whatever_the_power_failure_leaves_is_a_right_image(int version, int clusterSize, int refcountBits, bool backed, int seed)
    {
        using var folder = new TemporaryFolder();
        var random = new Random(seed);
        string backing = folder["base.raw"], path = folder["image"];
        byte[] below = new byte[DiskSectors * Sector * 3 / 4];
        if (backed)
        {
            random.NextBytes(below);
            File.WriteAllBytes(backing, below);
        }
        else
        {
            below = [];
        }
        var start = new RecordedFile([]);
        var empty = new ResizableRecordedFile(start);
        Qcow2Creator.Create(empty, DiskSectors * Sector, new Qcow2CreateOptions
        {
            Version = version,
            ClusterSize = clusterSize,
            RefcountBits = refcountBits,
            Backing = backed ? backing : null,
        });
        var file = new RecordedFile(empty.Bytes);
        using Qcow2Disk disk = Qcow2Disk.Open(file, new Qcow2OpenOptions { OpenBacking = (name, _) => RawDisk.Open(name, readOnly: true) });

        // What each sector may have after a power failure behind a number of changes: what was flushed, and what came since.
        var history = new DiskHistory(below, DiskSectors);
        history.Note(0, flushed: true);
        ushort stamp = 0;
        for (int n = 0; n < 70; n++)
        {
            int from = random.Next(DiskSectors), count = Math.Min(random.Next(1, random.Next(2) == 0 ? 4 : 40), DiskSectors - from);
            switch (random.Next(10))
            {
                case < 5:
                    byte[] bytes = new byte[count * Sector];
                    stamp++;
                    for (int s = 0; s < count; s++) BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(s * Sector), (uint)(stamp << 16 | from + s));
                    history.Write(from, bytes);
                    disk.Write((ulong)from * Sector, bytes);
                    break;
                case 5:
                    history.Write(from, new byte[count * Sector]);
                    disk.WriteZeroes((ulong)from * Sector, (ulong)count * Sector, unmap: random.Next(2) == 0);
                    break;
                case 6:
                    history.Discard(from, count);
                    disk.Discard((ulong)from * Sector, (ulong)count * Sector);
                    break;
                default:
                    disk.Flush();
                    history.Note(file.Count, flushed: true);
                    continue;
            }
            history.Note(file.Count, flushed: false);
        }
        disk.Flush();
        history.Note(file.Count, flushed: true);

        int left = 0;
        for (int point = 0; point <= file.Count; point++)
        {
            // At each point our own check, and QEMU's at as many as time allows.
            for (int variant = 0; variant < Variants; variant++)
            {
                double odds = variant switch { 0 => 1, 1 => 0, _ => random.NextDouble() };
                byte[] bytes = file.After(point, () => random.NextDouble() < odds);
                using var after = Qcow2Disk.Open(new RecordedFile(bytes), new Qcow2OpenOptions
                {
                    ReadOnly = true,
                    OpenBacking = (name, _) => RawDisk.Open(name, readOnly: true),
                });
                CheckResult result = Qcow2Checker.Check(after);
                Assert.True(result.Errors == 0, $"behind change {point} of {file.Count}: {string.Join("; ", result.Messages)}");
                byte[] all = new byte[DiskSectors * Sector];
                after.Read(0, all);
                history.Compare(all, point);
                if (variant != point % Variants || random.Next(file.Count) > 20) continue;
                left++;
                File.WriteAllBytes(path, bytes);
                QemuTools.Check(path, leaksAllowed: true);
                Assert.Equal(all, QemuTools.ReadAll(path));
            }
        }
        Assert.True(left > 8, $"QEMU looked at {left} states only");
    }

    /// <summary>A creator needs to set the length once.</summary>
    private sealed class ResizableRecordedFile(RecordedFile file) : IImageFile
    {
        public byte[] Bytes => file.Bytes;
        public string Name => file.Name;
        public ulong Length => file.Length;
        public int Read(ulong position, Span<byte> destination) => file.Read(position, destination);
        public void Write(ulong position, ReadOnlySpan<byte> source) => file.Write(position, source);
        public void Flush() => file.Flush();
        public void Zero(ulong position, ulong length, bool unmap) => file.Zero(position, length, unmap);
        public void Discard(ulong position, ulong length) => file.Discard(position, length);
        public void Resize(ulong length) => file.Write(0, new byte[length]);
        public ulong Hole(ulong position) => 0;
        public void Dispose() => file.Dispose();
    }

    /// <summary>What each sector of a disk has had, and when.</summary>
    private sealed class DiskHistory
    {
        private readonly List<(int Moment, byte[]? Bytes)>[] _sectors; // null bytes: anything that was there before, or zeros
        private readonly List<(int Moment, int Changes, bool Flushed)> _moments = [];
        private int _now;

        public DiskHistory(byte[] start, int sectors)
        {
            _sectors = new List<(int, byte[]?)>[sectors];
            for (int n = 0; n < sectors; n++)
            {
                byte[] bytes = new byte[Sector];
                if (n * Sector < start.Length) start.AsSpan(n * Sector, Sector).CopyTo(bytes);
                _sectors[n] = [(0, bytes)];
            }
        }

        public void Write(int sector, byte[] bytes)
        {
            for (int n = 0; n * Sector < bytes.Length; n++) _sectors[sector + n].Add((_now + 1, bytes.AsSpan(n * Sector, Sector).ToArray()));
        }

        public void Discard(int sector, int count)
        {
            for (int n = 0; n < count; n++) _sectors[sector + n].Add((_now + 1, null));
        }

        /// <summary>An operation is over, with so many changes of the file.</summary>
        public void Note(int changes, bool flushed) => _moments.Add((++_now, changes, flushed));

        /// <summary>What a disk may have behind a number of changes: of each sector the state at the last flush, or a later one that had begun.</summary>
        public void Compare(byte[] disk, int changes)
        {
            int flushed = _moments.FindLastIndex(m => m.Flushed && m.Changes <= changes);
            int least = flushed < 0 ? 0 : _moments[flushed].Moment;
            int begun = _moments.FindIndex(m => m.Changes >= changes) is >= 0 and var next ? _moments[next].Moment : _now;
            for (int n = 0; n < _sectors.Length; n++)
            {
                ReadOnlySpan<byte> found = disk.AsSpan(n * Sector, Sector);
                List<(int Moment, byte[]? Bytes)> all = _sectors[n];
                int first = all.FindLastIndex(s => s.Moment <= least);
                // What a discard leaves is one of those before it, or zeros.
                while (first > 0 && all[first].Bytes is null) first--;
                bool right = false, zeros = false;
                for (int k = first; k < all.Count && all[k].Moment <= Math.Max(begun, least); k++)
                {
                    if (all[k].Bytes is { } bytes) right |= found.SequenceEqual(bytes);
                    else zeros = true;
                }
                if (!right && zeros) right = !found.ContainsAnyExcept((byte)0);
                Assert.True(right, $"sector {n} behind change {changes} has {Convert.ToHexString(found[..8])}: neither what was flushed nor what came since");
            }
        }
    }
}
