namespace Bunraku.Hypervisor;

/// <summary>Guest-physical ranges with a device behind them. Nothing there reads as all ones. Ranges may move while the machine lock is held (APIC base).</summary>
public sealed class MmioBus
{
    private readonly List<(ulong Start, ulong Length, IMmioDevice Device)> _ranges = [];

    /// <exception cref="InvalidOperationException">The range overlaps another one.</exception>
    public void Add(ulong start, ulong length, IMmioDevice device)
    {
        foreach ((ulong s, ulong l, IMmioDevice other) in _ranges)
            if (start < s + l && s < start + length) throw new InvalidOperationException($"MMIO range {start:X} of {device.GetType().Name} overlaps {other.GetType().Name}");
        _ranges.Add((start, length, device));
    }

    public void Remove(IMmioDevice device) => _ranges.RemoveAll(r => r.Device == device);

    /// <summary>True when a device answers at <paramref name="address"/>.</summary>
    public bool Covers(ulong address)
    {
        foreach ((ulong start, ulong length, _) in _ranges)
            if (address - start < length) return true;
        return false;
    }

    public ulong Read(ulong address, int size)
    {
        foreach ((ulong start, ulong length, IMmioDevice device) in _ranges)
            if (address - start < length) return device.ReadMmio(address - start, size);
        return ulong.MaxValue;
    }

    public void Write(ulong address, int size, ulong value)
    {
        foreach ((ulong start, ulong length, IMmioDevice device) in _ranges)
        {
            if (address - start >= length) continue;
            device.WriteMmio(address - start, size, value);
            return;
        }
    }
}
