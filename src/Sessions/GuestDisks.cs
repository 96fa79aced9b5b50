using Bunraku.Machine.Ahci;
using Bunraku.Machine.Board;
using Bunraku.Machine.Virtio;
using Bunraku.Platform;
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
}

/// <summary>The disks of one VM, open from before its start until it is disposed of.</summary>
internal sealed class GuestDisks : IDisposable
{
    private const int MostQueues = 8;

    private readonly List<(string Path, IBlockBackend Disk)> _disks = [];

    /// <exception cref="CannotStartException">A disk cannot be had.</exception>
    public GuestDisks(VmOptions options)
    {
        var parts = new List<IBoardPart>();
        var drives = new List<SataDrive>();
        try
        {
            foreach (VmDisk disk in options.Disks)
            {
                IBlockBackend backend = disk.Throwaway ? DiskImage.OpenThrowaway(disk.Image) : DiskImage.Open(disk.Image);
                string id = $"disk{_disks.Count}";
                _disks.Add((disk.Image.Path, backend));
                if (disk.Bus == DiskBus.Ahci) drives.Add(SataDrive.Disk(backend, disk.Serial.Length > 0 ? disk.Serial : id));
                else parts.Add(new VirtioPart(new Block(id, backend, disk.Serial, Math.Min(options.Cpus, MostQueues))));
            }
            foreach (string path in options.CompactDiscs)
            {
                IBlockBackend disc = DiskImage.Open(new DiskOptions(path) { Format = ImageFormat.Raw, ReadOnly = true });
                _disks.Add((path, disc));
                drives.Add(SataDrive.CompactDisc(disc));
            }
        }
        catch (IOException e)
        {
            Dispose();
            throw new CannotStartException(e.Message, e);
        }
        if (drives.Count > 0) parts.Add(new AhciPart(drives));
        if (options.Rng) parts.Add(new VirtioPart(new Entropy("rng")));
        Parts = parts;
    }

    /// <summary>What goes on the board.</summary>
    public IReadOnlyList<IBoardPart> Parts { get; } = [];

    /// <summary>Bytes of each, of the disks first and then of the discs.</summary>
    public IReadOnlyList<ulong> Sizes => [.. _disks.Select(d => d.Disk.Length)];

    /// <summary>Writes what the guest has written and not asked to be lasting. Null, or what went wrong.</summary>
    public CannotWriteException? Flush()
    {
        CannotWriteException? failure = null;
        foreach ((string path, IBlockBackend disk) in _disks)
        {
            try
            {
                if (!disk.IsReadOnly) disk.Flush();
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
        foreach ((_, IBlockBackend disk) in _disks) disk.Dispose();
    }
}
