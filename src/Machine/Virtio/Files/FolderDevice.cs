using System.Buffers;
using System.Text;
using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Platform;

namespace Bunraku.Machine.Virtio.Files;

/// <summary>Answers a guest's requests for a <see cref="SharedFolder"/>, by one protocol.</summary>
internal interface IFolderServer : IDisposable
{
    /// <summary>The guest has the folder mounted, or has had and left it as it was. Any thread.</summary>
    bool IsConnected { get; }

    /// <summary>The request has all that is needed to answer it: so much room for that.</summary>
    /// <param name="message">All of the request, with a whole header.</param>
    bool HasRoom(ReadOnlySpan<byte> message, int room);

    /// <summary>Does what a request asks for.</summary>
    /// <param name="message">All of it, with its header.</param>
    /// <param name="room">For the answer with its header: <see cref="HasRoom"/> holds.</param>
    /// <returns>Bytes of the answer.</returns>
    int Handle(ReadOnlySpan<byte> message, Span<byte> room);

    /// <summary>
    /// The session is over: the guest has unmounted, or its machine begins anew. What is left of it is to be disposed of, which takes its time. Any thread.
    /// </summary>
    IDisposable? Reset();
}

/// <summary>
/// A device that gives the guest a folder of the host. Requests are taken with the device's lock held and done on a thread for each queue, in their order,
/// between the host's files and memory of ours: a device that is reset meanwhile finds nothing of old requests in guest memory.
/// </summary>
/// <remarks>
/// A reset ends the guest's session: what it knew and had open is gone. Requests that were not begun before are dropped, and nothing that came after begins
/// before those that were begun are over. While the guest has the folder mounted the device cannot be saved, since what it knows and has open are descriptors
/// of this process.
/// </remarks>
public abstract class FolderDevice : VirtioDevice, IDisposable
{
    private readonly IFolderServer _server;
    private readonly RequestThreads _threads;
    private readonly int _queues, _header, _largest;
    private readonly bool _isMapped;

    /// <param name="header">Bytes that a request has at least.</param>
    /// <param name="largest">Bytes of a request, and of an answer, at most: of what is longer the beginning.</param>
    private protected FolderDevice(string id, VirtioType type, IFolderServer server, SharedFolder folder, int header, int largest,
        params ReadOnlySpan<ushort> queueSizes) : base(id, type, queueSizes)
    {
        (_server, _header, _largest, _queues) = (server, header, largest, queueSizes.Length);
        _isMapped = folder.Owners == FileOwners.Mapped;
        _threads = new RequestThreads(_queues, Live, Guarded, Begin);
    }

    /// <summary>The bytes of a tag, by which the guest mounts the folder.</summary>
    /// <exception cref="ArgumentException">It has none, or too many.</exception>
    private protected static byte[] BytesOf(string tag, int longest)
    {
        byte[] name = Encoding.UTF8.GetBytes(tag);
        return name.Length > 0 && name.Length <= longest && !name.Contains((byte)0) ? name : throw new ArgumentException($"'{tag}' is no tag", nameof(tag));
    }

    /// <inheritdoc/>
    protected internal override void AttachTo(X86Machine machine, DeviceLock @lock)
    {
        _threads.Start(n => machine.CreateIoThread(n == 0 ? Id : $"{Id}.{n}"), @lock);
        if (!_isMapped) return;
        for (int n = 0; n < _queues; n++) _threads.Post(n, FolderCalls.WritesTakePrivileges);
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
        if (buffer.ReadableLength < (ulong)_header) throw new VirtqueueException("a request without header");
        int length = (int)Math.Min(buffer.ReadableLength, (ulong)_largest), room = (int)Math.Min(buffer.WritableLength, (ulong)_largest);
        byte[] message = ArrayPool<byte>.Shared.Rent(length);
        bool isRead = buffer.TryRead(Dma, 0, message.AsSpan(0, length));
        if (!isRead || !_server.HasRoom(message.AsSpan(0, length), room))
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
                answer = ArrayPool<byte>.Shared.Rent(Math.Max(room, 1));
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
