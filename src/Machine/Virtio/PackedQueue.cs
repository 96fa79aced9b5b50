using Bunraku.Hypervisor;

namespace Bunraku.Machine.Virtio;

/// <summary>
/// The packed layout: section 2.8 "Packed Virtqueues". One ring of descriptors that both sides write: each has a counter that flips when it comes round, and
/// two bits of a descriptor say by them whose it is.
/// </summary>
internal sealed class PackedQueue(DmaSpace dma, VirtqueueSetup setup, VirtioFeatures features, int generation) : Virtqueue(dma, setup, features, generation)
{
    private const ushort WrapBit = 1 << 15;
    private const int EventFlagsOffset = 2;
    // Event suppression flags: section 2.8.10.
    private const ushort Enable = 0, Disable = 1, AtDescriptor = 2;

    private int _available, _used;
    private bool _availableWrap = true, _usedWrap = true;
    private ushort _sinceInterrupt;

    public override DescriptorChain? Take()
    {
        if (!IsAvailable()) return null;
        Thread.MemoryBarrier(); // the rest of the descriptor was written before its flags
        DescriptorFlags flags = default;
        var pieces = new List<(ulong Address, uint Length, DescriptorFlags Flags)>();
        int at = _available;
        ushort id = 0;
        do
        {
            if (pieces.Count == Size) throw new VirtqueueException("a chain is longer than the ring");
            ulong descriptor = Setup.Descriptors + (ulong)at * DescriptorSize;
            flags = (DescriptorFlags)Read<ushort>(descriptor + 14);
            id = Read<ushort>(descriptor + 12); // that of the last one counts
            pieces.Add((Read<ulong>(descriptor), Read<uint>(descriptor + 8), flags));
            at = at + 1 == Size ? 0 : at + 1;
        }
        while (flags.HasFlag(DescriptorFlags.Next));

        var chain = new DescriptorChain { Id = id, Generation = Generation, Entries = pieces.Count };
        foreach ((ulong address, uint length, DescriptorFlags kind) in pieces)
        {
            if (!kind.HasFlag(DescriptorFlags.Indirect))
            {
                Add(chain, address, length, kind);
                continue;
            }
            if (!Features.HasFlag(VirtioFeatures.IndirectDescriptors) || pieces.Count > 1)
                throw new VirtqueueException("an indirect descriptor where none may be");
            AddIndirect(chain, address, length, linked: false);
        }
        Advance(ref _available, ref _availableWrap, pieces.Count);
        return chain;
    }

    /// <summary>The entry that is taken after so many others is available; then they are as well, since the driver goes by their order.</summary>
    private bool IsAvailable(int behind = 0)
    {
        (int index, bool wrap) = Behind(behind);
        var flags = (DescriptorFlags)Read<ushort>(Setup.Descriptors + (ulong)index * DescriptorSize + 14);
        return flags.HasFlag(DescriptorFlags.Available) == wrap && flags.HasFlag(DescriptorFlags.Used) != wrap;
    }

    private (int Index, bool Wrap) Behind(int entries)
    {
        int index = _available + entries;
        return index < Size ? (index, _availableWrap) : (index - Size, !_availableWrap);
    }

    public override int Available
    {
        get
        {
            int count = 0;
            for (int step = 1 << 15; step > 0; step >>= 1)
            {
                if (count + step <= Size && IsAvailable(count + step - 1)) count += step;
            }
            return count;
        }
    }

    private protected override void Return(ReadOnlySpan<DescriptorChain> buffers, ReadOnlySpan<uint> written)
    {
        // The driver goes on where the first one is used: its flags come last of all.
        (ulong Address, ushort Flags) first = default;
        for (int n = 0; n < buffers.Length; n++)
        {
            ulong descriptor = Setup.Descriptors + (ulong)_used * DescriptorSize;
            Write(descriptor + 8, written[n]);
            Write(descriptor + 12, buffers[n].Id);
            var flags = (ushort)((_usedWrap ? DescriptorFlags.Available | DescriptorFlags.Used : 0) | (written[n] > 0 ? DescriptorFlags.Write : 0));
            if (n == 0) first = (descriptor + 14, flags);
            else Write(descriptor + 14, flags);
            Advance(ref _used, ref _usedWrap, buffers[n].Entries);
            _sinceInterrupt += (ushort)buffers[n].Entries;
        }
        Thread.MemoryBarrier();
        Write(first.Address, first.Flags);
    }

    private void Advance(ref int index, ref bool wrap, int by)
    {
        index += by;
        if (index < Size) return;
        index -= Size;
        wrap = !wrap;
    }

    public override bool WantsInterrupt()
    {
        if (_sinceInterrupt == 0) return false;
        ushort passed = _sinceInterrupt;
        _sinceInterrupt = 0;
        Thread.MemoryBarrier(); // as in a split ring
        ushort flags = (ushort)(Read<ushort>(Setup.Driver + EventFlagsOffset) & 3), place = Read<ushort>(Setup.Driver);
        if (flags != AtDescriptor || !HasEventIndex) return flags != Disable;
        int wanted = place & ~WrapBit;
        if ((place & WrapBit) != 0 != _usedWrap) wanted -= Size; // of the round before
        return IsPassed((ushort)wanted, (ushort)_used, (ushort)(_used - passed));
    }

    public override bool EnableNotifications(int after = 1)
    {
        if (!HasEventIndex) after = 1;
        (int index, bool wrap) = Behind(after - 1);
        if (HasEventIndex) Write(Setup.Device, Packed(index, wrap));
        Write(Setup.Device + EventFlagsOffset, HasEventIndex ? AtDescriptor : Enable);
        Thread.MemoryBarrier();
        return IsAvailable(after - 1);
    }

    private static ushort Packed(int index, bool wrap) => (ushort)(index | (wrap ? WrapBit : 0));

    internal override VirtqueuePosition Save(int underWay)
    {
        int available = _available - underWay;
        bool round = available < 0; // they were taken before the ring came round
        return new(Packed(round ? available + Size : available, _availableWrap ^ round), Packed(_used, _usedWrap), _sinceInterrupt);
    }

    internal override void Restore(VirtqueuePosition position)
    {
        (_available, _availableWrap) = ((position.Available & ~WrapBit) % Size, (position.Available & WrapBit) != 0);
        (_used, _usedWrap) = ((position.Used & ~WrapBit) % Size, (position.Used & WrapBit) != 0);
        _sinceInterrupt = position.SinceInterrupt;
    }
}
