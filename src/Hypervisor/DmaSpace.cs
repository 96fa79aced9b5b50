using Bunraku.Engines;

namespace Bunraku.Hypervisor;

/// <summary>
/// Guest memory as a bus master sees it: by guest-physical address, RAM alone. What it writes is told to who has read code from there, and is in the log of
/// written pages (<see cref="GuestMemory.DeviceWrites"/>). Thread-safe; like a device's, its accesses are not ordered against those of vCPUs beyond x86-TSO.
/// </summary>
/// <param name="enabled">See <see cref="Enabled"/>; a device that is not on PCI is always enabled.</param>
public sealed class DmaSpace(GuestMemory memory, bool enabled = true)
{
    private volatile bool _enabled = enabled;

    /// <summary>The bus master enable bit: while it is clear every access fails. PCI Local Bus Specification 3.0, table 6-1 "Command Register Bits".</summary>
    public bool Enabled
    {
        get => _enabled;
        set => _enabled = value;
    }

    /// <summary>
    /// Copies guest memory out. False (with <paramref name="destination"/> filled up to there) when a byte is not RAM or the device may not master the bus.
    /// </summary>
    public bool Read(ulong address, Span<byte> destination) => _enabled && memory.Read(address, destination);

    /// <summary>Copies into guest memory. False when a byte is not RAM, with earlier pages written, or when the device may not master the bus.</summary>
    public bool Write(ulong address, ReadOnlySpan<byte> source) => _enabled && memory.Write(address, source);

    /// <summary>Reads one little-endian value; false as <see cref="Read"/>.</summary>
    public bool TryRead<T>(ulong address, out T value) where T : unmanaged
    {
        value = default;
        return _enabled && memory.TryRead(address, out value);
    }

    /// <summary>Writes one little-endian value; false as <see cref="Write"/>.</summary>
    public bool TryWrite<T>(ulong address, T value) where T : unmanaged => _enabled && memory.TryWrite(address, value);

    /// <summary>Gives pages of RAM back to the host: see <see cref="GuestMemory.Forget"/>. False also when the device may not master the bus.</summary>
    public bool Forget(ulong address, ulong length) => _enabled && memory.Forget(address, length);

    /// <summary>
    /// The memory of [<paramref name="address"/>, +<paramref name="length"/>) itself, in as few pieces as it has, for devices that read or write in place:
    /// <c>foreach (Span&lt;byte&gt; piece in transfer)</c>. False when a byte is not RAM or the device may not master the bus; then nothing is touched.
    /// </summary>
    /// <param name="writes">The device writes. Each piece counts as written when the next one is asked for, or at the end of the loop.</param>
    public bool TryOpen(ulong address, ulong length, bool writes, out DmaTransfer transfer)
    {
        transfer = default;
        if (!_enabled || length > ulong.MaxValue - address) return false;
        for (ulong at = address, left = length; left > 0;)
        {
            if (!memory.TryFind(at, out MemoryRegion region) || (writes && region.IsReadOnly)) return false;
            ulong piece = Math.Min(left, region.End - at);
            if (!memory.MayUse(region.Offset + (at - region.Start), piece)) return false;
            at += piece;
            left -= piece;
        }
        transfer = new DmaTransfer(memory, address, length, writes);
        return true;
    }
}

/// <summary>The pieces of one transfer: see <see cref="DmaSpace.TryOpen"/>. To be gone through once.</summary>
public unsafe ref struct DmaTransfer
{
    private const ulong LongestPiece = 1 << 30;

    private readonly GuestMemory _memory;
    private readonly bool _writes;
    private ulong _address, _left, _offset; // the last: of the piece, in the backing memory
    private int _length;

    internal DmaTransfer(GuestMemory memory, ulong address, ulong length, bool writes) =>
        (_memory, _address, _left, _writes) = (memory, address, length, writes);

    /// <summary>For <c>foreach</c>.</summary>
    public readonly DmaTransfer GetEnumerator() => this;

    /// <summary>The piece, which is guest memory itself.</summary>
    public readonly Span<byte> Current => new(_memory.Backing.Pointer + _offset, _length);

    /// <summary>Finishes the piece before and goes to the next one. False when there is none.</summary>
    public bool MoveNext()
    {
        Finish();
        if (_left == 0) return false;
        // The guest may have changed the map meanwhile: what lies there no more is left out, as when memory is taken away under a running transfer.
        if (!_memory.TryFind(_address, out MemoryRegion region) || (_writes && region.IsReadOnly))
        {
            _left = 0;
            return false;
        }
        _offset = region.Offset + (_address - region.Start);
        _length = (int)Math.Min(Math.Min(_left, region.End - _address), LongestPiece);
        if (!_memory.MayUse(_offset, (ulong)_length))
        {
            _left = 0;
            _length = 0;
            return false;
        }
        if (_writes) _memory.PrepareWrite(_offset, (ulong)_length);
        return true;
    }

    /// <summary>Finishes the last piece.</summary>
    public void Dispose() => Finish();

    private void Finish()
    {
        if (_length == 0) return;
        if (_writes) _memory.NotifyWritten(_offset, (ulong)_length);
        _address += (ulong)_length;
        _left -= (ulong)_length;
        _length = 0;
    }
}
