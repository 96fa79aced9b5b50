using System.Buffers.Binary;

namespace Bunraku.Machine.Virtio.Files;

/// <summary>
/// The file system device: Virtual I/O Device (VIRTIO) Version 1.3, section 5.11. It carries FUSE requests to a <see cref="SharedFolder"/>; header and data are
/// what FUSE has (section 5.11.6).
/// </summary>
public sealed class FileSystemDevice : FolderDevice
{
    /// <summary>Most bytes of a tag, in UTF-8.</summary>
    public const int LongestTag = 36;

    /// <summary>Most request queues.</summary>
    public const int MostQueues = 64;

    // Section 5.11.2: queue 0 has what must not wait behind others; there are no notifications.
    private const int UrgentQueueSize = 128, QueueSize = 1024;
    private const int QueuesAt = LongestTag, ConfigurationLength = QueuesAt + 4;

    private readonly byte[] _configuration = new byte[ConfigurationLength];

    /// <param name="id">Its name in the machine.</param>
    /// <param name="folder">Closed by who opened it, after the machine's end.</param>
    /// <param name="tag">By which the guest mounts it: 1 to <see cref="LongestTag"/> bytes of UTF-8.</param>
    /// <param name="queues">1 to <see cref="MostQueues"/>.</param>
    public FileSystemDevice(string id, SharedFolder folder, string tag, int queues = 1) : this(id, new FuseServer(folder), folder, tag, queues)
    {
    }

    private FileSystemDevice(string id, FuseServer server, SharedFolder folder, string tag, int queues)
        : base(id, VirtioType.FileSystem, server, folder, FuseInHeader.Size, FuseServer.LargestTransfer + FuseServer.LargestRest,
            [UrgentQueueSize, .. Enumerable.Repeat((ushort)QueueSize, queues)])
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(queues, MostQueues);
        BytesOf(tag, LongestTag).CopyTo(_configuration, 0);
        BinaryPrimitives.WriteUInt32LittleEndian(_configuration.AsSpan(QueuesAt), (uint)queues);
        Server = server;
    }

    /// <summary>The server, for tests.</summary>
    internal FuseServer Server { get; }

    /// <inheritdoc/>
    protected override ReadOnlySpan<byte> Configuration => _configuration;
}
