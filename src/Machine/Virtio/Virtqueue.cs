using Bunraku.Engines;
using Bunraku.Hypervisor;

namespace Bunraku.Machine.Virtio;

/// <summary>
/// A queue between driver and device: Virtual I/O Device (VIRTIO) Version 1.3, section 2.6 "Virtqueues". The driver is hostile: whatever stands in memory, an
/// operation ends and touches nothing but guest RAM. With the device's lock held.
/// </summary>
public abstract class Virtqueue
{
    private protected Virtqueue(DmaSpace dma, VirtqueueSetup setup, VirtioFeatures features, int generation) =>
        (Dma, Setup, Features, Generation) = (dma, setup, features, generation);

    private protected DmaSpace Dma { get; }

    private protected VirtqueueSetup Setup { get; }

    private protected VirtioFeatures Features { get; }

    /// <summary>A number that no other life of this queue has.</summary>
    internal int Generation { get; }

    /// <summary>Entries.</summary>
    public int Size => Setup.Size;

    private protected bool HasEventIndex => Features.HasFlag(VirtioFeatures.EventIndex);

    internal static Virtqueue Create(DmaSpace dma, VirtqueueSetup setup, VirtioFeatures features, int generation) =>
        features.HasFlag(VirtioFeatures.RingPacked) ? new PackedQueue(dma, setup, features, generation) : new SplitQueue(dma, setup, features, generation);

    /// <summary>Takes the next buffer that the driver made available; null: there is none.</summary>
    /// <exception cref="VirtqueueException">What stands in memory is no queue.</exception>
    public abstract DescriptorChain? Take();

    /// <summary>Gives a buffer back. One that was taken in an earlier life of the queue is gone: false, and nothing is written.</summary>
    /// <param name="written">Bytes that the device wrote, from the beginning of what it can write.</param>
    /// <exception cref="VirtqueueException">The queue is not in RAM.</exception>
    public bool Use(DescriptorChain buffer, uint written)
    {
        if (buffer.Generation != Generation) return false;
        Return(buffer, written);
        return true;
    }

    /// <summary>
    /// Gives several buffers back that belong together: the driver sees all of them or none. All were taken in this life of the queue, or none.
    /// </summary>
    /// <param name="written">Bytes that the device wrote, for each.</param>
    /// <inheritdoc cref="Use(DescriptorChain, uint)"/>
    public bool Use(ReadOnlySpan<DescriptorChain> buffers, ReadOnlySpan<uint> written)
    {
        if (buffers.IsEmpty || buffers[0].Generation != Generation) return false;
        Return(buffers, written);
        return true;
    }

    private void Return(DescriptorChain buffer, uint written) => Return(new ReadOnlySpan<DescriptorChain>(in buffer), new ReadOnlySpan<uint>(in written));

    private protected abstract void Return(ReadOnlySpan<DescriptorChain> buffers, ReadOnlySpan<uint> written);

    /// <summary>The driver wants to be told of what was used since this was asked the last time.</summary>
    public abstract bool WantsInterrupt();

    /// <summary>The driver is to tell of what it makes available from now on.</summary>
    /// <param name="after">
    /// Only when there is so much (as <see cref="Available"/> counts), if the driver has a way to say so. It must be sure to make so much available.
    /// </param>
    /// <returns>True: so much is available already, of which it may not tell.</returns>
    public abstract bool EnableNotifications(int after = 1);

    /// <summary>How much is available: buffers in the split layout, entries of the ring in the packed one. There may be more.</summary>
    public abstract int Available { get; }

    /// <param name="underWay">Entries that the device has taken last and not given back: whoever takes the state over takes them again.</param>
    internal abstract VirtqueuePosition Save(int underWay);

    internal abstract void Restore(VirtqueuePosition position);

    /// <summary>Section 2.7.7.1: an event number lies in what was passed from <paramref name="before"/> to <paramref name="now"/>.</summary>
    private protected static bool IsPassed(ushort wanted, ushort now, ushort before) => (ushort)(now - wanted - 1) < (ushort)(now - before);

    private protected T Read<T>(ulong address) where T : unmanaged => Dma.TryRead(address, out T value) ? value : throw NotRam(address);

    private protected void Write<T>(ulong address, T value) where T : unmanaged
    {
        if (!Dma.TryWrite(address, value)) throw NotRam(address);
    }

    private static VirtqueueException NotRam(ulong address) => new($"{address:X} is not RAM, or the device may not master the bus");

    /// <summary>
    /// Follows a table of descriptors that one entry names: section 2.7.5.3.1. Those of split rings are linked, those of packed rings lie one behind the other.
    /// </summary>
    private protected void AddIndirect(DescriptorChain chain, ulong table, uint length, bool linked)
    {
        uint count = length / DescriptorSize;
        if (length == 0 || length % DescriptorSize != 0 || count > (uint)Size) throw new VirtqueueException($"an indirect table has {length} bytes");
        uint at = 0;
        for (uint n = 0; n < count; n++)
        {
            ulong address = table + at * (ulong)DescriptorSize;
            (ulong buffer, uint bytes) = (Read<ulong>(address), Read<uint>(address + 8));
            ushort word = Read<ushort>(address + 12), last = Read<ushort>(address + 14);
            var flags = (DescriptorFlags)(linked ? word : last);
            if (flags.HasFlag(DescriptorFlags.Indirect)) throw new VirtqueueException("an indirect table names another one");
            Add(chain, buffer, bytes, flags);
            if (!linked) at++;
            else if (!flags.HasFlag(DescriptorFlags.Next)) return;
            else if ((at = last) >= count) throw new VirtqueueException($"descriptor {at} of {count}");
        }
        if (linked) throw new VirtqueueException("an indirect table goes in circles");
    }

    private protected const uint DescriptorSize = 16;

    private protected static void Add(DescriptorChain chain, ulong address, uint length, DescriptorFlags flags)
    {
        if (!chain.TryAdd(new(address, length), flags.HasFlag(DescriptorFlags.Write)))
            throw new VirtqueueException("a buffer to be read behind one to be written");
    }
}

/// <summary>What stands in memory is no queue: the device needs a reset.</summary>
public sealed class VirtqueueException(string message) : Exception(message);

/// <summary>How the driver set a queue up.</summary>
/// <param name="Size">Entries: a power of two for split rings.</param>
/// <param name="Descriptors">Guest-physical address of the descriptor table or ring.</param>
/// <param name="Driver">Of what the driver writes: the available ring, or its event suppression.</param>
/// <param name="Device">Of what the device writes: the used ring, or its event suppression.</param>
public sealed record VirtqueueSetup(int Size, ulong Descriptors, ulong Driver, ulong Device);

/// <summary>Where a queue stands.</summary>
/// <param name="Available">Split: entries taken. Packed: the next entry to be taken, with the wrap counter in bit 15.</param>
/// <param name="Used">Split: entries given back. Packed: the next entry to be given back, with the wrap counter in bit 15.</param>
/// <param name="SinceInterrupt">Entries given back since the driver was last asked whether it wants to know.</param>
internal sealed record VirtqueuePosition(ushort Available, ushort Used, ushort SinceInterrupt);
