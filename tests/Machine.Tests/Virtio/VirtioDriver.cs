using System.Buffers.Binary;
using Bunraku.Hypervisor;
using Bunraku.Machine.Pci;
using Bunraku.Machine.Tests.State;
using Bunraku.Machine.Virtio;

namespace Bunraku.Machine.Tests.Virtio;

/// <summary>
/// The driver's side of one virtio device on PCI, written from the specification (Virtual I/O Device (VIRTIO) Version 1.3): it finds the structures by their
/// capabilities, and has its queues in guest memory.
/// </summary>
internal sealed class VirtioDriver
{
    public const ulong Structures = 0xE000_0000, Messages = 0xE001_0000;
    private const byte VendorCapability = 9;

    private readonly BoardRig _rig;
    private readonly int _slot;
    private readonly Dictionary<int, (uint Offset, uint Length, uint Multiplier)> _structures = [];

    public VirtioDriver(BoardRig rig, int slot)
    {
        (_rig, _slot) = (rig, slot);
        for (int at = (byte)Config(PciRegister.Capabilities, 1); at != 0; at = (int)Config(at + 1, 1))
        {
            if (Config(at, 1) == VendorCapability && Config(at + 4, 1) == 0)
                _structures[(int)Config(at + 3, 1)] = (Config(at + 8, 4), Config(at + 12, 4), Config(at + 16, 4));
        }
        WriteConfig(PciRegister.FirstBar, 4, (uint)Structures);
        WriteConfig(PciRegister.FirstBar + 4, 4, (uint)Messages);
        Enable(PciCommand.MemorySpace | PciCommand.BusMaster);
    }

    public uint Config(int register, int size)
    {
        _rig.Io(PciHost.FirstPort, 4, true, 1u << 31 | (uint)(_slot << 11 | register & 0xFC));
        return (uint)_rig.Io((ushort)(PciHost.FirstPort + 4 + (register & 3)), size, false, 0);
    }

    public void WriteConfig(int register, int size, uint value)
    {
        _rig.Io(PciHost.FirstPort, 4, true, 1u << 31 | (uint)(_slot << 11 | register & 0xFC));
        _rig.Io((ushort)(PciHost.FirstPort + 4 + (register & 3)), size, true, value);
    }

    public void Enable(PciCommand command) => WriteConfig(PciRegister.Command, 2, (uint)command);

    public ulong Common(uint offset, int size) => _rig.Mmio(0, Structures + _structures[1].Offset + offset, size, false, 0);

    public void WriteCommon(uint offset, int size, ulong value) => _rig.Mmio(0, Structures + _structures[1].Offset + offset, size, true, value);

    public ulong Device(uint offset, int size) => _rig.Mmio(0, Structures + _structures[4].Offset + offset, size, false, 0);

    public void WriteDevice(uint offset, int size, ulong value) => _rig.Mmio(0, Structures + _structures[4].Offset + offset, size, true, value);

    public byte TakeInterrupt() => (byte)_rig.Mmio(0, Structures + _structures[3].Offset, 1, false, 0);

    public VirtioStatus Status
    {
        get => (VirtioStatus)Common(20, 1);
        set => WriteCommon(20, 1, (ulong)value);
    }

    public ulong Offered
    {
        get
        {
            WriteCommon(0, 4, 0);
            ulong low = Common(4, 4);
            WriteCommon(0, 4, 1);
            return low | Common(4, 4) << 32;
        }
    }

    /// <summary>Section 3.1.1 "Driver Requirements: Device Initialization", up to the features. True when the device agrees.</summary>
    public bool Negotiate(ulong features)
    {
        Status = 0;
        Status = VirtioStatus.Acknowledge;
        Status = VirtioStatus.Acknowledge | VirtioStatus.Driver;
        for (uint half = 0; half < 2; half++)
        {
            WriteCommon(8, 4, half);
            WriteCommon(12, 4, (uint)(features >> (int)(32 * half)));
        }
        Status = VirtioStatus.Acknowledge | VirtioStatus.Driver | VirtioStatus.FeaturesOk;
        return Status.HasFlag(VirtioStatus.FeaturesOk);
    }

    public void SetDriverOk() => Status = VirtioStatus.Acknowledge | VirtioStatus.Driver | VirtioStatus.FeaturesOk | VirtioStatus.DriverOk;

    public void Notify(int queue)
    {
        WriteCommon(22, 2, (uint)queue);
        (uint offset, _, uint multiplier) = _structures[2];
        _rig.Mmio(0, Structures + offset + Common(30, 2) * multiplier, 2, true, (uint)queue);
    }

    /// <summary>Puts a queue into guest memory from <paramref name="at"/> on and enables it.</summary>
    public TestQueue SetUp(int queue, ushort size, ulong at, VirtioFeatures features)
    {
        TestQueue q = features.HasFlag(VirtioFeatures.RingPacked) ? new TestPackedQueue(new DmaSpace(_rig.Machine.Memory), size, at, features)
            : new TestSplitQueue(new DmaSpace(_rig.Machine.Memory), size, at, features);
        WriteCommon(22, 2, (uint)queue);
        WriteCommon(24, 2, size);
        WriteCommon(32, 8, q.Descriptors);
        WriteCommon(40, 4, (uint)q.Driver);
        WriteCommon(44, 4, q.Driver >> 32);
        WriteCommon(48, 8, q.Device);
        WriteCommon(28, 2, 1);
        return q;
    }
}

/// <summary>A queue as its driver keeps it.</summary>
internal abstract class TestQueue(DmaSpace memory, ushort size, ulong at, VirtioFeatures features)
{
    protected DmaSpace Memory { get; private set; } = memory;

    /// <summary>The queue goes on in the memory of another machine.</summary>
    public void MoveTo(DmaSpace memory) => Memory = memory;

    protected ushort Size => size;
    protected bool HasEventIndex => features.HasFlag(VirtioFeatures.EventIndex);
    public ulong Descriptors => at;
    public ulong Driver => at + 0x10000;
    public ulong Device => at + 0x20000;

    /// <summary>Makes a buffer available. With a table it goes into memory there and takes one entry.</summary>
    /// <returns>What <see cref="TryTakeUsed"/> gives for it.</returns>
    public abstract int Add(ReadOnlySpan<(ulong Address, uint Length, bool Write)> pieces, ulong? table = null);

    public abstract bool TryTakeUsed(out int id, out uint written);

    protected static byte[] Entry(ulong address, uint length, ushort third, ushort fourth)
    {
        byte[] entry = new byte[16];
        BinaryPrimitives.WriteUInt64LittleEndian(entry, address);
        BinaryPrimitives.WriteUInt32LittleEndian(entry.AsSpan(8), length);
        BinaryPrimitives.WriteUInt16LittleEndian(entry.AsSpan(12), third);
        BinaryPrimitives.WriteUInt16LittleEndian(entry.AsSpan(14), fourth);
        return entry;
    }

    protected T Read<T>(ulong address) where T : unmanaged
    {
        Assert.True(Memory.TryRead(address, out T value));
        return value;
    }

    protected void Write<T>(ulong address, T value) where T : unmanaged => Assert.True(Memory.TryWrite(address, value));

    protected void Write(ulong address, byte[] bytes) => Assert.True(Memory.Write(address, bytes));
}

/// <summary>Section 2.7.</summary>
internal sealed class TestSplitQueue(DmaSpace memory, ushort size, ulong at, VirtioFeatures features) : TestQueue(memory, size, at, features)
{
    private readonly Queue<ushort> _free = new(Enumerable.Range(0, size).Select(n => (ushort)n));
    private readonly Dictionary<ushort, ushort[]> _taken = [];
    private ushort _available, _used;

    public override int Add(ReadOnlySpan<(ulong Address, uint Length, bool Write)> pieces, ulong? table = null)
    {
        var numbers = new ushort[table is null ? pieces.Length : 1];
        for (int n = 0; n < numbers.Length; n++) numbers[n] = _free.Dequeue();
        for (int n = 0; n < pieces.Length; n++)
        {
            bool last = n == pieces.Length - 1;
            ushort flags = (ushort)((last ? 0 : 1) | (pieces[n].Write ? 2 : 0));
            if (table is { } there) Write(there + (ulong)n * 16, Entry(pieces[n].Address, pieces[n].Length, flags, (ushort)(last ? 0 : n + 1)));
            else Write(Descriptors + numbers[n] * 16ul, Entry(pieces[n].Address, pieces[n].Length, flags, last ? (ushort)0 : numbers[n + 1]));
        }
        if (table is { } indirect) Write(Descriptors + numbers[0] * 16ul, Entry(indirect, (uint)pieces.Length * 16, 4, 0));
        _taken[numbers[0]] = numbers;
        Write(Driver + 4 + (ulong)(_available % Size) * 2, numbers[0]);
        Write(Driver + 2, ++_available);
        if (HasEventIndex) Write(Driver + 4 + Size * 2ul, _used); // used_event: tell of the next one
        return numbers[0];
    }

    public override bool TryTakeUsed(out int id, out uint written)
    {
        (id, written) = (0, 0);
        if (Read<ushort>(Device + 2) == _used) return false;
        ulong entry = Device + 4 + (ulong)(_used++ % Size) * 8;
        (id, written) = ((int)Read<uint>(entry), Read<uint>(entry + 4));
        Assert.True(_taken.Remove((ushort)id, out ushort[]? numbers), $"buffer {id} was not under way");
        foreach (ushort number in numbers) _free.Enqueue(number);
        return true;
    }
}

/// <summary>Section 2.8.</summary>
internal sealed class TestPackedQueue(DmaSpace memory, ushort size, ulong at, VirtioFeatures features) : TestQueue(memory, size, at, features)
{
    private readonly Dictionary<ushort, int> _taken = [];
    private int _next, _used;
    private bool _wrap = true, _usedWrap = true;
    private ushort _id;

    public override int Add(ReadOnlySpan<(ulong Address, uint Length, bool Write)> pieces, ulong? table = null)
    {
        int entries = table is null ? pieces.Length : 1, first = _next;
        ushort id = _id++, firstFlags = 0;
        for (int n = 0; n < pieces.Length; n++)
        {
            ushort kind = (ushort)((n == pieces.Length - 1 || table is not null ? 0 : 1) | (pieces[n].Write ? 2 : 0));
            if (table is { } there)
            {
                Write(there + (ulong)n * 16, Entry(pieces[n].Address, pieces[n].Length, 0, kind));
                continue;
            }
            Put(n, Entry(pieces[n].Address, pieces[n].Length, id, Owned(kind)), ref firstFlags);
        }
        if (table is { } indirect) Put(0, Entry(indirect, (uint)pieces.Length * 16, id, Owned(4)), ref firstFlags);
        Write(Descriptors + (ulong)first * 16 + 14, firstFlags); // the first one's flags make the whole available
        _taken[id] = entries;
        if (HasEventIndex)
        {
            Write(Driver, (ushort)(_used | (_usedWrap ? 1 << 15 : 0)));
            Write(Driver + 2, (ushort)2);
        }
        return id;
    }

    private void Put(int n, byte[] entry, ref ushort firstFlags)
    {
        if (n == 0)
        {
            firstFlags = BinaryPrimitives.ReadUInt16LittleEndian(entry.AsSpan(14));
            entry = entry[..14];
        }
        Write(Descriptors + (ulong)_next * 16, entry);
        if (++_next < Size) return;
        _next = 0;
        _wrap = !_wrap;
    }

    private ushort Owned(ushort kind) => (ushort)(kind | (_wrap ? 1 << 7 : 1 << 15));

    public override bool TryTakeUsed(out int id, out uint written)
    {
        (id, written) = (0, 0);
        ulong entry = Descriptors + (ulong)_used * 16;
        ushort flags = Read<ushort>(entry + 14);
        if ((flags & 1 << 7) != 0 != _usedWrap || (flags & 1 << 15) != 0 != _usedWrap) return false;
        (id, written) = (Read<ushort>(entry + 12), Read<uint>(entry + 8));
        Assert.True(_taken.Remove((ushort)id, out int entries), $"buffer {id} was not under way");
        _used += entries;
        if (_used < Size) return true;
        _used -= Size;
        _usedWrap = !_usedWrap;
        return true;
    }
}
