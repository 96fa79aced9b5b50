using System.Buffers;
using System.Buffers.Binary;
using System.Text;
using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Platform;

namespace Bunraku.Machine.Virtio.Files;

/// <summary>
/// The 9P transport device, which carries requests of 9P2000.L to a <see cref="SharedFolder"/>: for guests that have no virtio-fs, and for what QEMU's
/// <c>-virtfs</c> asks for. It has no section in the specification but its number (section 5); the registers are those of Linux's virtio_9p.h. As with
/// <see cref="FileSystemDevice"/>, requests are done on a thread between the host's files and memory of ours, in their order.
/// </summary>
/// <remarks>While the guest has the folder mounted the device cannot be saved, since what it knows and has open are descriptors of this process.</remarks>
public sealed class NinePDevice : VirtioDevice, IDisposable
{
    /// <summary>Most bytes of a tag, in UTF-8: as many as a driver shows of it (a page of sysfs).</summary>
    public const int LongestTag = 255;

    private const int QueueSize = 128;
    private const ulong HasTag = 1; // VIRTIO_9P_MOUNT_TAG

    private readonly NinePServer _server;
    private readonly byte[] _configuration;
    private readonly RequestThreads _threads;
    private readonly bool _isMapped;

    /// <param name="id">Its name in the machine.</param>
    /// <param name="folder">Closed by who opened it, after the machine's end.</param>
    /// <param name="tag">By which the guest mounts it: 1 to <see cref="LongestTag"/> bytes of UTF-8.</param>
    public NinePDevice(string id, SharedFolder folder, string tag) : base(id, VirtioType.NineP, QueueSize)
    {
        byte[] name = Encoding.UTF8.GetBytes(tag);
        if (name.Length is 0 or > LongestTag || name.Contains((byte)0)) throw new ArgumentException($"'{tag}' is no tag", nameof(tag));
        _configuration = new byte[sizeof(ushort) + name.Length];
        BinaryPrimitives.WriteUInt16LittleEndian(_configuration, (ushort)name.Length);
        name.CopyTo(_configuration, sizeof(ushort));
        _server = new NinePServer(folder);
        _isMapped = folder.Owners == FileOwners.Mapped;
        _threads = new RequestThreads(1, Live, Guarded, Begin);
    }

    /// <summary>The server, for tests.</summary>
    internal NinePServer Server => _server;

    /// <inheritdoc/>
    protected override ulong DeviceFeatures => HasTag;

    /// <inheritdoc/>
    protected override ReadOnlySpan<byte> Configuration => _configuration;

    /// <inheritdoc/>
    protected internal override void AttachTo(X86Machine machine, DeviceLock @lock)
    {
        _threads.Start(_ => machine.CreateIoThread(Id), @lock);
        if (_isMapped) _threads.Post(0, FolderCalls.WritesTakePrivileges);
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

    /// <summary>Reads the request out of guest memory and hands it to the thread.</summary>
    private void Begin(int queue, DescriptorChain buffer)
    {
        const ulong largest = NinePServer.LargestMessage;
        if (buffer.ReadableLength < NineP.HeaderSize || buffer.WritableLength < NineP.ErrorSize)
            throw new VirtqueueException("a request without header, or without room for an answer");
        int length = (int)Math.Min(buffer.ReadableLength, largest), room = (int)Math.Min(buffer.WritableLength, largest);
        byte[] message = ArrayPool<byte>.Shared.Rent(length);
        if (!buffer.TryRead(Dma, 0, message.AsSpan(0, length)))
        {
            ArrayPool<byte>.Shared.Return(message);
            throw new VirtqueueException("a buffer is not in RAM");
        }
        long bytes = length + room;
        _threads.Begin(queue, buffer, bytes, isLive =>
        {
            byte[]? answer = null;
            int used = 0;
            if (isLive())
            {
                answer = ArrayPool<byte>.Shared.Rent(room);
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
