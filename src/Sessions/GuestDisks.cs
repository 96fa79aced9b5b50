using Bunraku.Machine.Board;
using Bunraku.Machine.Virtio;
using Bunraku.Platform;
using Bunraku.Storage;

namespace Bunraku.Sessions;

/// <summary>A disk of a VM: a virtio block device, which Linux calls vda, vdb and so on in the order of the list.</summary>
/// <param name="Image">Where its bytes are.</param>
public sealed record VmDisk(DiskOptions Image)
{
    /// <summary>Most characters of <see cref="Serial"/>.</summary>
    public const int LongestSerial = 20;

    /// <summary>Serial number that the guest sees, up to <see cref="LongestSerial"/> printable ASCII characters.</summary>
    public string Serial { get; init; } = "";

    /// <summary>What the guest writes is gone at the end: the image is only read.</summary>
    public bool Throwaway { get; init; }
}

/// <summary>The disks of one VM, open from before its start until it is disposed of.</summary>
internal sealed class GuestDisks : IDisposable
{
    private const int MostQueues = 8;

    private readonly List<(string Path, IBlockBackend Disk, Block Device)> _disks = [];

    /// <exception cref="CannotStartException">A disk cannot be had.</exception>
    public GuestDisks(VmOptions options)
    {
        try
        {
            foreach (VmDisk disk in options.Disks)
            {
                IBlockBackend backend = disk.Throwaway ? DiskImage.OpenThrowaway(disk.Image) : DiskImage.Open(disk.Image);
                var device = new Block($"disk{_disks.Count}", backend, disk.Serial, Math.Min(options.Cpus, MostQueues));
                _disks.Add((disk.Image.Path, backend, device));
            }
        }
        catch (IOException e)
        {
            Dispose();
            throw new CannotStartException(e.Message, e);
        }
        Parts = [.. _disks.Select(d => new VirtioPart(d.Device))];
        if (options.Rng) Parts = [.. Parts, new VirtioPart(new Entropy("rng"))];
    }

    /// <summary>What goes on the board.</summary>
    public IReadOnlyList<IBoardPart> Parts { get; } = [];

    /// <summary>Writes what the guest has written and not asked to be lasting. Null, or what went wrong.</summary>
    public CannotWriteException? Flush()
    {
        CannotWriteException? failure = null;
        foreach ((string path, IBlockBackend disk, _) in _disks)
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
        foreach ((_, IBlockBackend disk, _) in _disks) disk.Dispose();
    }
}
