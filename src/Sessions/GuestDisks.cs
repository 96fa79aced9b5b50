using Bunraku.Machine.Ahci;
using Bunraku.Machine.Board;
using Bunraku.Machine.Virtio;
using Bunraku.Platform;
using Bunraku.Sessions.Snapshots;
using Bunraku.Storage;

namespace Bunraku.Sessions;

/// <summary>What a disk is connected to.</summary>
public enum DiskBus
{
    /// <summary>virtio: Linux calls the disks vda, vdb and so on.</summary>
    Virtio,
    /// <summary>A SATA controller, for which any system has a driver: Linux calls the disks sda, sdb and so on.</summary>
    Ahci,
}

/// <summary>A disk of a VM; those of one bus have its order of the list.</summary>
/// <param name="Image">Where its bytes are.</param>
public sealed record VmDisk(DiskOptions Image)
{
    /// <summary>Most characters of <see cref="Serial"/>.</summary>
    public const int LongestSerial = 20;

    /// <summary>Serial number that the guest sees, up to <see cref="LongestSerial"/> printable ASCII characters.</summary>
    public string Serial { get; init; } = "";

    /// <summary>What it is connected to.</summary>
    public DiskBus Bus { get; init; }

    /// <summary>What the guest writes is gone at the end: the image is only read.</summary>
    public bool Throwaway { get; init; }

    /// <summary>Where the host has no room for what the guest writes, the machine is stopped until it is let go on; else the guest gets an error.</summary>
    public bool StopsWhenFull { get; init; }

    /// <summary>What a throwaway disk has over its image at the beginning: a file from <see cref="ThrowawayDisk.CopyTo"/>; null: nothing.</summary>
    internal string? Begun { get; init; }

    /// <summary>Bytes of a throwaway disk, at least those of its image; null: the same.</summary>
    [System.Text.Json.Serialization.JsonIgnore(Condition = System.Text.Json.Serialization.JsonIgnoreCondition.WhenWritingNull)]
    public ulong? Size { get; init; }
}

/// <summary>The disks of one VM, open from before its start until it is disposed of.</summary>
internal sealed class GuestDisks : IDisposable
{
    private const int MostQueues = 8;

    private readonly List<(string Path, GuestDisk Disk)> _disks = [];
    private readonly List<Block?> _devices = []; // of the disks, without the discs; null: on another bus

    /// <param name="shapes">Of the disks, and the discs behind them, which are opened later: another machine has them. Null: they are opened at once.</param>
    /// <exception cref="CannotStartException">A disk cannot be had.</exception>
    public GuestDisks(VmOptions options, IReadOnlyList<DiskShape>? shapes = null)
    {
        var parts = new List<IBoardPart>();
        var drives = new List<SataDrive>();
        try
        {
            foreach (VmDisk disk in options.Disks)
            {
                GuestDisk backend = Make(disk.Image.Path, () => Open(disk));
                string id = $"disk{_disks.Count - 1}";
                if (disk.StopsWhenFull) backend.AwaitRoom = path => AwaitRoom?.Invoke(path) == true;
                if (disk.Bus == DiskBus.Ahci)
                {
                    drives.Add(SataDrive.Disk(backend, disk.Serial.Length > 0 ? disk.Serial : id));
                    _devices.Add(null);
                    continue;
                }
                var block = new Block(id, backend, disk.Serial, Math.Min(options.Cpus, MostQueues));
                _devices.Add(block);
                parts.Add(new VirtioPart(block));
            }
            foreach (string path in options.CompactDiscs)
            {
                GuestDisk disc = Make(path, () => DiskImage.Open(new DiskOptions(path) { Format = ImageFormat.Raw, ReadOnly = true }));
                drives.Add(SataDrive.CompactDisc(disc));
            }
        }
        catch (IOException e)
        {
            Dispose();
            throw new CannotStartException(e.Message, e);
        }
        if (drives.Count > 0) parts.Add(new AhciPart(drives));
        if (options.Rng) parts.Add(new VirtioPart(new Entropy("rng", options.Seed is { } seed ? Entropy.Seeded(seed) : null)));
        Parts = parts;

        GuestDisk Make(string path, Func<IBlockBackend> open)
        {
            int number = _disks.Count;
            GuestDisk disk = shapes is null ? new(path, open) { Number = number } : new(path, open, shapes[number]) { Number = number };
            disk.Failed = error => Failed?.Invoke(error);
            _disks.Add((path, disk));
            return disk;
        }
    }

    /// <summary>See <see cref="GuestDisk.AwaitRoom"/>, for disks that stop the machine. Set before the guest runs.</summary>
    public Func<string, bool>? AwaitRoom { get; set; }

    /// <summary>See <see cref="GuestDisk.Failed"/>. Set before the guest runs.</summary>
    public Action<DiskError>? Failed { get; set; }

    /// <summary>What is known of the disks, and of the discs behind them.</summary>
    public IReadOnlyList<DiskState> States => [.. _disks.Select(d => d.Disk.State)];

    /// <summary>Makes a disk larger, and tells the guest. While the machine is paused.</summary>
    /// <param name="number">Of a disk.</param>
    /// <exception cref="IOException">It cannot be.</exception>
    public void Grow(int number, ulong length)
    {
        (string path, GuestDisk disk) = _disks[number];
        Block device = _devices[number] ?? throw new DiskException($"disk {path}: a SATA disk keeps its size while the guest has it");
        disk.Grow(length);
        device.DiskResized();
    }

    private static IBlockBackend Open(VmDisk disk) =>
        disk.Throwaway ? new ThrowawayDisk(disk.Image, disk.Size, disk.Begun) : DiskImage.Open(disk.Image);

    /// <summary>What the guest sees of the disks, and of the discs behind them.</summary>
    public IReadOnlyList<DiskShape> Shapes
    {
        get
        {
            var shapes = new DiskShape[_disks.Count];
            for (int n = 0; n < shapes.Length; n++) shapes[n] = _disks[n].Disk.Shape;
            return shapes;
        }
    }

    /// <summary>Writes what was written to the first disk, a throwaway one, into a new file. While the machine is paused.</summary>
    /// <exception cref="IOException">It cannot be written.</exception>
    public void CopyFirst(string path) => _disks[0].Disk.CopyTo(path);

    /// <summary>Opens those that are closed. While the machine is paused.</summary>
    /// <exception cref="IOException">One cannot be had, or is another one.</exception>
    public void Open()
    {
        foreach ((_, GuestDisk disk) in _disks) disk.Open();
    }

    /// <summary>Begins a copy of each disk that can be written, as it is now. While the machine is paused.</summary>
    /// <param name="disks">As they were described.</param>
    /// <param name="copies">Takes them; the caller gives them back, whatever happens.</param>
    /// <returns>The disks of a copy of the machine: what it writes is its own, and gone at its end.</returns>
    /// <exception cref="IOException">There is no place for one.</exception>
    public IReadOnlyList<VmDisk> BeginCopies(IReadOnlyList<VmDisk> disks, List<DiskCopy> copies) => [.. disks.Select((disk, n) =>
    {
        if (_disks[n].Disk.IsReadOnly) return disk;
        DiskCopy copy = _disks[n].Disk.BeginCopy();
        copies.Add(copy);
        return disk with { Image = new DiskOptions(copy.Path) { Format = ImageFormat.Raw, Discard = disk.Image.Discard }, Throwaway = true, Size = null };
    })];

    /// <summary>Closes all, for another machine. While the machine is paused.</summary>
    /// <exception cref="IOException">What was written cannot be made lasting.</exception>
    public void Close()
    {
        foreach ((_, GuestDisk disk) in _disks) disk.Close();
    }

    /// <summary>What goes on the board.</summary>
    public IReadOnlyList<IBoardPart> Parts { get; } = [];

    /// <summary>Writes what the guest has written and not asked to be lasting. Null, or what went wrong.</summary>
    public CannotWriteException? Flush()
    {
        CannotWriteException? failure = null;
        foreach ((string path, GuestDisk disk) in _disks)
        {
            try
            {
                if (disk is { IsReadOnly: false, IsOpen: true }) disk.FlushNow();
            }
            catch (IOException e)
            {
                failure ??= new CannotWriteException($"disk {path}", HostError.Reason(e), e);
            }
        }
        return failure;
    }

    /// <summary>Closes the images. Behind the machine's end.</summary>
    public void Dispose()
    {
        foreach ((_, GuestDisk disk) in _disks) disk.Dispose();
    }
}
