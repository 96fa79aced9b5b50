using System.Text;
using Bunraku.Machine.Virtio;
using Bunraku.Machine.Virtio.Files;

namespace Bunraku.Machine.Tests.Virtio;

/// <summary>What tests of shared folders have in common: a folder of the host, and a driver that asks for files in it.</summary>
public abstract class SharedFolderTests : IDisposable
{
    protected const VirtioFeatures Plain = VirtioFeatures.Version1;
    protected const ulong Root = NodeTable.RootId;
    protected const uint ReadOnlyFlag = 0, WriteOnly = 1, ReadWrite = 2, Truncate = 0x200, Append = 0x400;

    private protected HostFolder Host { get; } = new();

    public void Dispose()
    {
        Host.Dispose();
        GC.SuppressFinalize(this);
    }

    private protected FuseGuest Guest(VirtioFeatures ring = Plain, int queues = 1) => new(new SharedFolder(Host.Path), ring, queues);

    protected static byte[] Text(string text) => Encoding.UTF8.GetBytes(text);
}
