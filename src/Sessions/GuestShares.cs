using Bunraku.Machine.Board;
using Bunraku.Machine.Virtio;
using Bunraku.Machine.Virtio.Files;
using Bunraku.Platform;

namespace Bunraku.Sessions;

/// <summary>The shared folders of one VM, open from before its start until it is disposed of.</summary>
internal sealed class GuestShares : IDisposable
{
    private const int MostQueues = 8;

    private readonly List<SharedFolder> _folders = [];
    private readonly List<FolderDevice> _devices = [];

    /// <exception cref="CannotStartException">A folder cannot be had.</exception>
    public GuestShares(VmOptions options)
    {
        try
        {
            foreach (VmShare share in options.Shares)
            {
                if (share.Owners == FileOwners.Host && HostProcess.UserId != 0)
                    throw new CannotStartException($"folder {share.Folder}: the host's own owners need root; without 'ids=host' everybody can share it");
                var folder = new SharedFolder(share.Folder)
                {
                    IsReadOnly = share.ReadOnly,
                    Owners = share.Owners,
                    Cache = share.Cache,
                    MostDescriptors = SharedFolder.DescriptorsFor(options.Shares.Count),
                };
                _folders.Add(folder);
                string id = $"fs{_devices.Count}", tag = share.TagOf(_devices.Count);
                _devices.Add(share.Kind == ShareKind.NineP ? new NinePDevice(id, folder, tag)
                    : new FileSystemDevice(id, folder, tag, Math.Min(options.Cpus, MostQueues)));
            }
        }
        catch (IOException e)
        {
            Dispose();
            throw new CannotStartException(e.Message, e);
        }
        catch
        {
            Dispose();
            throw;
        }
        Parts = [.. _devices.Select(d => new VirtioPart(d))];
    }

    /// <summary>What goes on the board.</summary>
    public IReadOnlyList<IBoardPart> Parts { get; } = [];

    /// <summary>Closes all that the guest had open. Behind the machine's end.</summary>
    public void Dispose()
    {
        foreach (FolderDevice device in _devices) device.Dispose();
        foreach (SharedFolder folder in _folders) folder.Dispose();
    }
}
