namespace Bunraku.Hypervisor;

/// <summary>
/// Guest-physical ranges with a device behind them. Nothing there reads as all ones; writes to nothing are lost. Thread-safe: look-ups take no lock, and
/// ranges come, move and go while the guest runs. An access holds the device's lock.
/// </summary>
/// <param name="defaultLock">The lock of devices that are added without one; null: each has its own.</param>
public sealed class MmioBus(DeviceLock? defaultLock = null)
{
    private const ulong Granule = 8; // no access crosses a boundary of it

    private readonly AddressMap<IMmioDevice> _map = new(ulong.MaxValue, defaultLock);

    /// <summary>Puts a device at [<paramref name="start"/>, +<paramref name="length"/>), both multiples of 8.</summary>
    /// <param name="lock">Held for each access; null: the device's lock if it is on the bus already, or the bus's default.</param>
    /// <param name="priority">Where ranges overlap the highest answers, among equals the first that was added.</param>
    /// <exception cref="ArgumentException">Not multiples of 8, or nothing.</exception>
    public IBusMapping Add(ulong start, ulong length, IMmioDevice device, DeviceLock? @lock = null, int priority = 0)
    {
        if (((start | length) & (Granule - 1)) != 0)
            throw new ArgumentException($"MMIO range {start:X} of {length:X} bytes is not made of multiples of {Granule}", nameof(start));
        return _map.Add(start, length, device, @lock, priority);
    }

    /// <summary>Takes all ranges of a device away.</summary>
    public void Remove(IMmioDevice device) => _map.Remove(device);

    /// <summary>True when a device answers at <paramref name="address"/>.</summary>
    public bool Covers(ulong address) => _map.Find(address, out _) != null;

    /// <summary>Two devices of equal priority at one address, in words; null: there are none.</summary>
    public string? FindConflict() =>
        _map.FindConflict() is { } c ? $"guest-physical address {c.Address:X} of {c.Hidden.GetType().Name} is taken by {c.Answers.GetType().Name}" : null;

    /// <summary>False when no device answers.</summary>
    public bool TryRead(ulong address, int size, out ulong value)
    {
        while (_map.Find(address, out _) is { } found)
        {
            lock (found.Lock)
            {
                if (!found.Gone)
                {
                    value = found.Device.ReadMmio(address - found.First, size);
                    return true;
                }
            }
        }
        value = ulong.MaxValue;
        return false;
    }

    /// <summary>False when no device answers.</summary>
    public bool TryWrite(ulong address, int size, ulong value)
    {
        while (_map.Find(address, out _) is { } found)
        {
            lock (found.Lock)
            {
                if (found.Gone) continue;
                found.Device.WriteMmio(address - found.First, size, value);
                return true;
            }
        }
        return false;
    }

    /// <summary>All ones when no device answers.</summary>
    /// <param name="address">Guest-physical address.</param>
    /// <param name="size">1 to 8 bytes, never across an 8-byte boundary.</param>
    public ulong Read(ulong address, int size)
    {
        TryRead(address, size, out ulong value);
        return value;
    }

    /// <summary>Lost when no device answers.</summary>
    /// <param name="address">Guest-physical address.</param>
    /// <param name="size">1 to 8 bytes, never across an 8-byte boundary.</param>
    /// <param name="value">In the low bytes.</param>
    public void Write(ulong address, int size, ulong value) => TryWrite(address, size, value);
}
