using System.Buffers;
using System.Buffers.Binary;
using System.Runtime.InteropServices;
using System.Text;
using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Platform;

namespace Bunraku.Machine.Virtio.Files;

/// <summary>
/// The file system device: Virtual I/O Device (VIRTIO) Version 1.3, section 5.11. It carries FUSE requests to a <see cref="SharedFolder"/>. Requests are taken
/// with the device's lock held and done on a thread for each queue, in their order, between the host's files and memory of ours: a device that is reset
/// meanwhile finds nothing of old requests in guest memory.
/// </summary>
/// <remarks>
/// A reset ends the guest's connection: what it knew and had open is gone. Requests that were not begun before are dropped, and nothing that came after begins
/// before those that were begun are over. While the guest has the folder mounted the device cannot be saved, since what it knows and has open are descriptors
/// of this process.
/// </remarks>
public sealed class FileSystemDevice : VirtioDevice, IDisposable
{
    /// <summary>Most bytes of a tag, in UTF-8.</summary>
    public const int LongestTag = 36;

    /// <summary>Most request queues.</summary>
    public const int MostQueues = 64;

    // Section 5.11.2: queue 0 has what must not wait behind others; there are no notifications.
    private const int UrgentQueueSize = 128, QueueSize = 1024;
    private const int QueuesAt = LongestTag, ConfigurationLength = QueuesAt + 4;

    private readonly FuseServer _server;
    private readonly byte[] _configuration = new byte[ConfigurationLength];
    private readonly RequestThreads _threads;
    private readonly int _queues;
    private readonly bool _isMapped;

    /// <param name="id">Its name in the machine.</param>
    /// <param name="folder">Closed by who opened it, after the machine's end.</param>
    /// <param name="tag">By which the guest mounts it: 1 to <see cref="LongestTag"/> bytes of UTF-8.</param>
    /// <param name="queues">1 to <see cref="MostQueues"/>.</param>
    public FileSystemDevice(string id, SharedFolder folder, string tag, int queues = 1)
        : base(id, VirtioType.FileSystem, [UrgentQueueSize, .. Enumerable.Repeat((ushort)QueueSize, queues)])
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(queues, MostQueues);
        byte[] name = Encoding.UTF8.GetBytes(tag);
        if (name.Length is 0 or > LongestTag || name.Contains((byte)0)) throw new ArgumentException($"'{tag}' is no tag", nameof(tag));
        name.CopyTo(_configuration, 0);
        BinaryPrimitives.WriteUInt32LittleEndian(_configuration.AsSpan(QueuesAt), (uint)queues);
        _server = new FuseServer(folder);
        _isMapped = folder.Owners == FileOwners.Mapped;
        (_queues, _threads) = (queues, new RequestThreads(queues + 1, Live, Guarded, Begin));
    }

    /// <summary>The server, for tests.</summary>
    internal FuseServer Server => _server;

    /// <inheritdoc/>
    protected override ReadOnlySpan<byte> Configuration => _configuration;

    /// <inheritdoc/>
    protected internal override void AttachTo(X86Machine machine, DeviceLock @lock)
    {
        _threads.Start(n => machine.CreateIoThread(n == 0 ? Id : $"{Id}.{n}"), @lock);
        if (!_isMapped) return;
        for (int n = 0; n <= _queues; n++) _threads.Post(n, FolderCalls.WritesTakePrivileges);
    }

    /// <inheritdoc/>
    protected override int EntriesUnderWay(int queue) => _threads.Entries(queue);

    /// <inheritdoc/>
    protected override void DeviceReset()
    {
        _threads.Forget();
        // It may take its time to close everything, and does not have to be over for anything else.
        if (_server.Reset() is { } remains) _threads.Post(0, remains.Dispose);
    }

    /// <inheritdoc/>
    protected override void QueueWasReset(int queue) => _threads.Forget();

    /// <summary>Closes what the guest has left open. Behind the machine's end.</summary>
    public void Dispose() => _server.Dispose();

    /// <inheritdoc/>
    protected override byte[] SaveOwn() =>
        _server.IsConnected ? throw new CannotSaveException(Id, "the guest has the shared folder mounted, and what it has open is in this process") : [];

    /// <inheritdoc/>
    protected override void RestoreOwn(byte[] state)
    {
        base.RestoreOwn(state);
        DeviceReset();
    }

    /// <inheritdoc/>
    protected override void Notified(int queue) => _threads.Take(queue);

    /// <summary>Reads the request out of guest memory and hands it to the thread. Section 5.11.6: header and data are what FUSE has.</summary>
    private void Begin(int queue, DescriptorChain buffer)
    {
        const ulong largest = FuseServer.LargestTransfer + FuseServer.LargestRest;
        if (buffer.ReadableLength < FuseInHeader.Size) throw new VirtqueueException("a request without header");
        int length = (int)Math.Min(buffer.ReadableLength, largest), room = (int)Math.Min(buffer.WritableLength, largest);
        byte[] message = ArrayPool<byte>.Shared.Rent(length);
        bool isRead = buffer.TryRead(Dma, 0, message.AsSpan(0, length));
        if (!isRead || room < FuseOutHeader.Size && !FuseServer.HasNoAnswer(MemoryMarshal.Read<FuseInHeader>(message).Opcode))
        {
            ArrayPool<byte>.Shared.Return(message);
            throw new VirtqueueException(isRead ? "a request without room for its answer" : "a buffer is not in RAM");
        }
        long bytes = length + room;
        _threads.Begin(queue, buffer, bytes, isLive =>
        {
            byte[]? answer = null;
            int used = 0;
            if (isLive())
            {
                answer = ArrayPool<byte>.Shared.Rent(Math.Max(room, FuseOutHeader.Size));
                used = _server.Handle(message.AsSpan(0, length), answer.AsSpan(0, room));
            }
            _threads.End(queue, buffer, bytes, () => Answer(queue, buffer, answer.AsSpan(0, used)));
            ArrayPool<byte>.Shared.Return(message);
            if (answer is not null) ArrayPool<byte>.Shared.Return(answer);
        });
    }

    private void Answer(int queue, DescriptorChain buffer, ReadOnlySpan<byte> answer)
    {
        if (!buffer.TryWrite(Dma, 0, answer)) throw new VirtqueueException("a buffer is not in RAM");
        Complete(queue, buffer, (uint)answer.Length);
    }
}
