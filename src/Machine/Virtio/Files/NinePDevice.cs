using System.Buffers.Binary;

namespace Bunraku.Machine.Virtio.Files;

/// <summary>
/// The 9P transport device, which carries requests of 9P2000.L to a <see cref="SharedFolder"/>: for guests that have no virtio-fs, and for what QEMU's
/// <c>-virtfs</c> asks for. It has no section in the specification but its number (section 5); the registers are those of Linux's virtio_9p.h.
/// </summary>
public sealed class NinePDevice : FolderDevice
{
    /// <summary>Most bytes of a tag, in UTF-8: as many as a driver shows of it (a page of sysfs).</summary>
    public const int LongestTag = 255;

    private const ushort QueueSize = 128;
    private const ulong HasTag = 1; // VIRTIO_9P_MOUNT_TAG

    private readonly byte[] _configuration;

    /// <param name="id">Its name in the machine.</param>
    /// <param name="folder">Closed by who opened it, after the machine's end.</param>
    /// <param name="tag">By which the guest mounts it: 1 to <see cref="LongestTag"/> bytes of UTF-8.</param>
    public NinePDevice(string id, SharedFolder folder, string tag) : this(id, new NinePServer(folder), folder, tag)
    {
    }

    private NinePDevice(string id, NinePServer server, SharedFolder folder, string tag)
        : base(id, VirtioType.NineP, server, folder, NineP.HeaderSize, NinePServer.LargestMessage, QueueSize)
    {
        byte[] name = BytesOf(tag, LongestTag);
        _configuration = new byte[sizeof(ushort) + name.Length];
        BinaryPrimitives.WriteUInt16LittleEndian(_configuration, (ushort)name.Length);
        name.CopyTo(_configuration, sizeof(ushort));
        Server = server;
    }

    /// <summary>The server, for tests.</summary>
    internal NinePServer Server { get; }

    /// <inheritdoc/>
    protected override ulong DeviceFeatures => HasTag;

    /// <inheritdoc/>
    protected override ReadOnlySpan<byte> Configuration => _configuration;
}
