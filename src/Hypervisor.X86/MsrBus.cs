namespace Bunraku.Hypervisor.X86;

/// <summary>The MSRs outside the processor: devices are asked in the order in which they were added until one answers. Filled before the guest runs.</summary>
public sealed class MsrBus
{
    private (IMsrDevice Device, DeviceLock? Lock)[] _devices = [];

    /// <param name="lock">Held while the device is asked; null: it needs none.</param>
    public void Add(IMsrDevice device, DeviceLock? @lock = null) => _devices = [.. _devices, (device, @lock)];

    /// <summary>False raises #GP(0).</summary>
    public bool TryRead(int cpu, uint index, out ulong value)
    {
        foreach ((IMsrDevice device, DeviceLock? @lock) in _devices)
        {
            if (@lock == null)
            {
                if (device.TryReadMsr(cpu, index, out value)) return true;
                continue;
            }
            lock (@lock)
            {
                if (device.TryReadMsr(cpu, index, out value)) return true;
            }
        }
        value = 0;
        return false;
    }

    /// <summary>False raises #GP(0).</summary>
    public bool TryWrite(int cpu, uint index, ulong value)
    {
        foreach ((IMsrDevice device, DeviceLock? @lock) in _devices)
        {
            if (@lock == null)
            {
                if (device.TryWriteMsr(cpu, index, value)) return true;
                continue;
            }
            lock (@lock)
            {
                if (device.TryWriteMsr(cpu, index, value)) return true;
            }
        }
        return false;
    }
}
