using Bunraku.Hypervisor;

namespace Bunraku.Machine.Virtio;

/// <summary>
/// The split layout: section 2.7 "Split Virtqueues". A table of linked descriptors, a ring in which the driver names chains of them, and one in which the
/// device gives them back.
/// </summary>
internal sealed class SplitQueue(DmaSpace dma, VirtqueueSetup setup, VirtioFeatures features, int generation) : Virtqueue(dma, setup, features, generation)
{
    // Both rings: flags, index, entries; behind them the other side's event index.
    private const int IndexOffset = 2, RingOffset = 4, AvailableEntry = 2, UsedEntry = 8;
    private const ushort NoInterrupt = 1; // flag of the available ring

    private ushort _available, _used, _sinceInterrupt;

    private ulong UsedEvent => Setup.Driver + RingOffset + (ulong)Size * AvailableEntry;

    private ulong AvailableEvent => Setup.Device + RingOffset + (ulong)Size * UsedEntry;

    public override DescriptorChain? Take()
    {
        ushort index = Read<ushort>(Setup.Driver + IndexOffset);
        if (index == _available) return null;
        if ((ushort)(index - _available) > Size) throw new VirtqueueException($"{(ushort)(index - _available)} buffers are available in a queue of {Size}");
        Thread.MemoryBarrier(); // what the index counts was written before it
        ushort head = Read<ushort>(Setup.Driver + RingOffset + (ulong)(_available % Size) * AvailableEntry);
        var chain = new DescriptorChain { Id = head, Generation = Generation, Entries = 1 };
        Follow(chain, head);
        _available++;
        return chain;
    }

    private void Follow(DescriptorChain chain, ushort number)
    {
        for (int n = 0; n < Size; n++)
        {
            if (number >= Size) throw new VirtqueueException($"descriptor {number} of {Size}");
            ulong descriptor = Setup.Descriptors + number * (ulong)DescriptorSize;
            (ulong address, uint length) = (Read<ulong>(descriptor), Read<uint>(descriptor + 8));
            var flags = (DescriptorFlags)Read<ushort>(descriptor + 12);
            if (flags.HasFlag(DescriptorFlags.Indirect))
            {
                if (!Features.HasFlag(VirtioFeatures.IndirectDescriptors) || flags.HasFlag(DescriptorFlags.Next))
                    throw new VirtqueueException("an indirect descriptor where none may be");
                AddIndirect(chain, address, length, linked: true);
                return;
            }
            Add(chain, address, length, flags);
            if (!flags.HasFlag(DescriptorFlags.Next)) return;
            number = Read<ushort>(descriptor + 14);
        }
        throw new VirtqueueException("a chain of descriptors goes in circles");
    }

    private protected override void Return(ReadOnlySpan<DescriptorChain> buffers, ReadOnlySpan<uint> written)
    {
        for (int n = 0; n < buffers.Length; n++)
        {
            ulong entry = Setup.Device + RingOffset + (ulong)(_used % Size) * UsedEntry;
            Write(entry, (uint)buffers[n].Id);
            Write(entry + 4, written[n]);
            _used++;
            _sinceInterrupt++;
        }
        Thread.MemoryBarrier(); // the index comes last
        Write(Setup.Device + IndexOffset, _used);
    }

    public override bool WantsInterrupt()
    {
        ushort before = (ushort)(_used - _sinceInterrupt);
        if (_sinceInterrupt == 0) return false;
        _sinceInterrupt = 0;
        Thread.MemoryBarrier(); // the driver writes its wish, then looks at the index: one of us sees the other
        return HasEventIndex ? IsPassed(Read<ushort>(UsedEvent), _used, before) : (Read<ushort>(Setup.Driver) & NoInterrupt) == 0;
    }

    public override int Available => Math.Min(Size, (ushort)(Read<ushort>(Setup.Driver + IndexOffset) - _available));

    public override bool EnableNotifications(int after = 1)
    {
        if (HasEventIndex) Write(AvailableEvent, (ushort)(_available + after - 1));
        Thread.MemoryBarrier();
        return (ushort)(Read<ushort>(Setup.Driver + IndexOffset) - _available) >= (HasEventIndex ? after : 1);
    }

    internal override VirtqueuePosition Save(int underWay) => new((ushort)(_available - underWay), _used, _sinceInterrupt);

    internal override void Restore(VirtqueuePosition position) =>
        (_available, _used, _sinceInterrupt) = (position.Available, position.Used, position.SinceInterrupt);
}
