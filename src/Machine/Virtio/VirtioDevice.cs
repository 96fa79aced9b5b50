using Bunraku.Engines;
using Bunraku.Hypervisor;

namespace Bunraku.Machine.Virtio;

/// <summary>What a virtio device interrupts its driver through. With the device's lock held.</summary>
internal interface IVirtioTransport
{
    /// <summary>Guest memory as the device sees it.</summary>
    DmaSpace Dma { get; }

    /// <summary>Buffers of a queue were used.</summary>
    void InterruptForQueue(int queue);

    /// <summary>The device's configuration or status changed.</summary>
    void InterruptForConfiguration();
}

/// <summary>
/// A device of the Virtual I/O Device (VIRTIO) specification, Version 1.3, without the bus that it is on: status, features, queues, configuration space. Kinds
/// of devices derive from it. With the device's lock held.
/// </summary>
public abstract class VirtioDevice
{
    private const VirtioFeatures Common =
        VirtioFeatures.IndirectDescriptors | VirtioFeatures.EventIndex | VirtioFeatures.Version1 | VirtioFeatures.RingPacked
            | VirtioFeatures.InOrder | VirtioFeatures.RingReset;

    private readonly QueueRegisters[] _queues;
    private IVirtioTransport? _transport;
    private int _generation;

    /// <param name="id">Its name in the machine.</param>
    /// <param name="queueSizes">Most entries of each queue: powers of two up to 32768.</param>
    protected VirtioDevice(string id, VirtioType type, params ReadOnlySpan<ushort> queueSizes)
    {
        (Id, Type) = (id, type);
        _queues = new QueueRegisters[queueSizes.Length];
        for (int n = 0; n < _queues.Length; n++) _queues[n] = new QueueRegisters(queueSizes[n]);
    }

    /// <summary>Its name in the machine.</summary>
    public string Id { get; }

    /// <summary>What kind it is.</summary>
    public VirtioType Type { get; }

    /// <summary>Features of the kind of device: bits 0 to 23 and 50 to 63.</summary>
    protected virtual ulong DeviceFeatures => 0;

    /// <summary>Bytes of the configuration space; changes of it are told by <see cref="ConfigurationChanged"/>.</summary>
    protected virtual ReadOnlySpan<byte> Configuration => [];

    /// <summary>The driver writes configuration space. Most fields are read-only, and then this does nothing.</summary>
    protected virtual void WriteConfiguration(int offset, ReadOnlySpan<byte> bytes)
    {
    }

    /// <summary>The driver made buffers of a queue available, or may have.</summary>
    /// <exception cref="VirtqueueException">What stands in memory is no queue.</exception>
    protected abstract void Notified(int queue);

    /// <summary>
    /// All queues are gone, with what was taken from them: a device that is busy with a buffer finds that <see cref="Virtqueue.Use(DescriptorChain, uint)"/>
    /// refuses it.
    /// </summary>
    protected virtual void DeviceReset()
    {
    }

    /// <summary>One queue is gone by itself, with what was taken from it.</summary>
    protected virtual void QueueWasReset(int queue)
    {
    }

    /// <summary>The driver has agreed on features and says that it is ready.</summary>
    protected virtual void DriverIsReady()
    {
    }

    /// <summary>State of the kind of device, as bytes of its own.</summary>
    protected virtual byte[] SaveOwn() => [];

    /// <summary>Takes it back, behind features, status and queues. The bytes are not trusted.</summary>
    /// <exception cref="StateFormatException">They are not of this device.</exception>
    protected virtual void RestoreOwn(byte[] state) => StateCheck.Length(state, 0, Id);

    /// <summary>Entries of a queue that were taken last and not given back yet; a device that answers at once has none.</summary>
    protected virtual int EntriesUnderWay(int queue) => 0;

    /// <summary>Doubleword 0 or 1 of features; further ones are 0.</summary>
    internal static uint Half(VirtioFeatures features, uint select) => select switch { 0 => (uint)features, 1 => (uint)((ulong)features >> 32), _ => 0 };

    internal VirtioFeatures OfferedFeatures => (VirtioFeatures)DeviceFeatures | Common;

    /// <summary>What the driver accepted.</summary>
    protected internal VirtioFeatures Features { get; internal set; }

    internal VirtioStatus Status { get; private set; }

    /// <summary>Goes up with each change of configuration space, so that a driver notices one between two reads.</summary>
    internal byte ConfigurationGeneration { get; private set; }

    internal int QueueCount => _queues.Length;

    internal QueueRegisters Queue(int number) => _queues[number];

    /// <summary>The driver is ready, and has done nothing wrong.</summary>
    protected bool IsReady => (Status & (VirtioStatus.DriverOk | VirtioStatus.NeedsReset)) == VirtioStatus.DriverOk;

    /// <summary>The queue, when the driver has enabled it and is ready; else null.</summary>
    protected Virtqueue? Live(int queue) => IsReady ? _queues[queue].Live : null;

    /// <summary>Guest memory.</summary>
    protected DmaSpace Dma => _transport!.Dma;

    /// <exception cref="InvalidOperationException">It is in a machine already.</exception>
    internal void Connect(IVirtioTransport transport)
    {
        if (_transport is not null) throw new InvalidOperationException($"{Id} is in a machine already: a device serves one");
        _transport = transport;
    }

    /// <summary>The device is in a machine: time to ask for threads and timers.</summary>
    /// <param name="lock">The device's.</param>
    protected internal virtual void AttachTo(X86Machine machine, DeviceLock @lock)
    {
    }

    /// <summary>Gives a buffer back and tells the driver if it wants to know. False: the queue that it came from is gone.</summary>
    /// <inheritdoc cref="Virtqueue.Use(DescriptorChain, uint)"/>
    protected bool Complete(int queue, DescriptorChain buffer, uint written)
    {
        if (Live(queue) is not { } live || !live.Use(buffer, written)) return false;
        if (live.WantsInterrupt()) _transport!.InterruptForQueue(queue);
        return true;
    }

    /// <summary>Gives several buffers back that belong together.</summary>
    /// <inheritdoc cref="Virtqueue.Use(ReadOnlySpan{DescriptorChain}, ReadOnlySpan{uint})"/>
    protected bool Complete(int queue, ReadOnlySpan<DescriptorChain> buffers, ReadOnlySpan<uint> written)
    {
        if (Live(queue) is not { } live || !live.Use(buffers, written)) return false;
        if (live.WantsInterrupt()) _transport!.InterruptForQueue(queue);
        return true;
    }

    /// <summary>Configuration space has other contents.</summary>
    protected void ConfigurationChanged()
    {
        ConfigurationGeneration++;
        if (Status.HasFlag(VirtioStatus.DriverOk)) _transport!.InterruptForConfiguration();
    }

    /// <summary>
    /// Does something with queues for which the driver is responsible: what it did wrong makes the device ask for a reset (section 2.1.2) and ends nothing
    /// else.
    /// </summary>
    protected void Guarded(Action work)
    {
        try
        {
            work();
        }
        catch (VirtqueueException)
        {
            AskForReset();
        }
    }

    /// <summary>The driver has done something wrong: nothing is done any more until it resets the device.</summary>
    protected void AskForReset()
    {
        Status |= VirtioStatus.NeedsReset;
        if (Status.HasFlag(VirtioStatus.DriverOk)) _transport!.InterruptForConfiguration();
    }

    internal void Notify(int queue)
    {
        if ((uint)queue < (uint)_queues.Length && Live(queue) is not null) Guarded(() => Notified(queue));
    }

    /// <summary>The driver accepts features, 32 at a time, until it has said that it agrees.</summary>
    internal void AcceptFeatures(uint select, uint half)
    {
        if (Status.HasFlag(VirtioStatus.FeaturesOk) || select > 1) return;
        int shift = 32 * (int)select;
        Features = (VirtioFeatures)((ulong)Features & ~(0xFFFF_FFFFul << shift) | (ulong)half << shift);
    }

    internal ulong ReadConfiguration(int offset, int size)
    {
        ReadOnlySpan<byte> all = Configuration;
        ulong value = 0;
        for (int n = 0; n < size && offset + n < all.Length; n++) value |= (ulong)all[offset + n] << (8 * n);
        return value;
    }

    internal void WriteConfiguration(int offset, int size, ulong value)
    {
        Span<byte> bytes = stackalloc byte[8];
        BitConverter.TryWriteBytes(bytes, value);
        if (offset + size <= Configuration.Length) WriteConfiguration(offset, bytes[..size]);
    }

    /// <summary>The driver writes the status register: bits are only ever added, but for 0, which resets the device (section 2.1.1).</summary>
    internal void WriteStatus(byte value)
    {
        if (value == 0)
        {
            Reset();
            return;
        }
        VirtioStatus next = Status | (VirtioStatus)value & ~VirtioStatus.NeedsReset;
        bool agree = next.HasFlag(VirtioStatus.FeaturesOk) && !Status.HasFlag(VirtioStatus.FeaturesOk);
        if (agree && ((Features & ~OfferedFeatures) != 0 || !Features.HasFlag(VirtioFeatures.Version1))) next &= ~VirtioStatus.FeaturesOk;
        bool started = next.HasFlag(VirtioStatus.DriverOk) && !Status.HasFlag(VirtioStatus.DriverOk);
        Status = next;
        if (started) DriverIsReady();
        // A driver may have made buffers available before.
        for (int n = 0; started && n < _queues.Length; n++) Notify(n);
    }

    /// <summary>The driver enables a queue. One that can't be makes the device ask for a reset.</summary>
    internal void EnableQueue(int number)
    {
        QueueRegisters queue = _queues[number];
        if (queue.Live is not null || !Status.HasFlag(VirtioStatus.FeaturesOk)) return;
        Guarded(() =>
        {
            bool packed = Features.HasFlag(VirtioFeatures.RingPacked);
            VirtqueueSetup s = queue.Setup;
            if (s.Size < 1 || s.Size > queue.MaxSize || !packed && !int.IsPow2(s.Size)) throw new VirtqueueException($"a queue of {s.Size} entries");
            // Section 2.7 and 2.8, alignment of the parts.
            if ((s.Descriptors & 15) != 0 || (s.Driver & (packed ? 3u : 1u)) != 0 || (s.Device & 3) != 0)
                throw new VirtqueueException("a part of a queue is not aligned");
            queue.Live = Virtqueue.Create(Dma, s, Features, ++_generation);
            queue.Live.EnableNotifications();
        });
    }

    /// <summary>Resets a queue by itself (section 2.6.1).</summary>
    internal void ResetQueue(int number)
    {
        _queues[number].Reset();
        QueueWasReset(number);
    }

    /// <summary>As after power-on.</summary>
    internal void Reset()
    {
        foreach (QueueRegisters queue in _queues) queue.Reset();
        (Status, Features) = (0, 0);
        DeviceReset();
    }

    /// <summary>The machine goes on, perhaps from a saved state: what was under way then is taken again.</summary>
    internal void Resume()
    {
        for (int n = 0; n < _queues.Length; n++) Notify(n);
    }

    internal VirtioState SaveCommon() => new((ulong)Features, (byte)Status, ConfigurationGeneration,
        [.. _queues.Select((q, n) => new VirtioQueueState(q.Size, q.Descriptors, q.Driver, q.Device, q.Vector, q.Live?.Save(EntriesUnderWay(n))))], SaveOwn());

    /// <exception cref="StateFormatException">It is the state of another device.</exception>
    internal void RestoreCommon(VirtioState state)
    {
        StateCheck.Length(state.Queues, _queues.Length, Id);
        (Features, Status, ConfigurationGeneration) =
            ((VirtioFeatures)state.Features & OfferedFeatures, (VirtioStatus)state.Status, state.ConfigurationGeneration);
        for (int n = 0; n < _queues.Length; n++)
        {
            (QueueRegisters queue, VirtioQueueState saved) = (_queues[n], state.Queues[n]);
            queue.Reset();
            // A driver may write any size to a queue that it does not enable, or in vain.
            queue.Size = saved.Position is null ? saved.Size : StateCheck.Range(saved.Size, (ushort)0, queue.MaxSize, Id);
            (queue.Descriptors, queue.Driver, queue.Device, queue.Vector) = (saved.Descriptors, saved.Driver, saved.Device, saved.Vector);
            if (saved.Position is not { } position) continue;
            bool packed = Features.HasFlag(VirtioFeatures.RingPacked);
            if (queue.Size == 0 || !packed && !int.IsPow2(queue.Size)) throw new StateFormatException($"{Id}: a live queue of {queue.Size} entries");
            queue.Live = Virtqueue.Create(Dma, queue.Setup, Features, ++_generation);
            queue.Live.Restore(position);
        }
        RestoreOwn(state.Own);
    }
}

/// <summary>What the driver writes about one queue before it enables it.</summary>
/// <param name="maxSize">Most entries, and what it has after a reset.</param>
internal sealed class QueueRegisters(ushort maxSize)
{
    /// <summary>No vector: the driver is not told of this queue.</summary>
    public const ushort NoVector = 0xFFFF;

    public ushort MaxSize { get; } = maxSize;
    public ushort Size { get; set; } = maxSize;
    public ushort Vector { get; set; } = NoVector;
    public ulong Descriptors { get; set; }
    public ulong Driver { get; set; }
    public ulong Device { get; set; }

    /// <summary>The queue, once it is enabled.</summary>
    public Virtqueue? Live { get; set; }

    public VirtqueueSetup Setup => new(Size, Descriptors, Driver, Device);

    public void Reset()
    {
        (Size, Vector, Live) = (MaxSize, NoVector, null);
        Descriptors = Driver = Device = 0;
    }
}

/// <summary>State that all virtio devices have.</summary>
/// <param name="Own">What the kind of device has beside.</param>
internal sealed record VirtioState(ulong Features, byte Status, byte ConfigurationGeneration, VirtioQueueState[] Queues, byte[] Own);

/// <summary>State of one queue.</summary>
/// <param name="Position">Null while it is not enabled.</param>
internal sealed record VirtioQueueState(ushort Size, ulong Descriptors, ulong Driver, ulong Device, ushort Vector, VirtqueuePosition? Position);
