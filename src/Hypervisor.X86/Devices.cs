namespace Bunraku.Hypervisor.X86;

/// <summary>
/// A device on the port bus. Addresses are offsets from the device's own first port. Called on vCPU threads with the device's lock held, which
/// <see cref="PortBus.Add"/> names.
/// </summary>
public interface IPortDevice
{
    /// <summary>The guest reads; bits beyond <paramref name="size"/> do not count.</summary>
    /// <param name="offset">Offset from the registered base.</param>
    /// <param name="size">1, 2 or 4 bytes.</param>
    uint ReadPort(ushort offset, int size);

    /// <summary>The guest writes.</summary>
    /// <param name="offset">Offset from the registered base.</param>
    /// <param name="size">1, 2 or 4 bytes.</param>
    /// <param name="value">Bits beyond <paramref name="size"/> are 0.</param>
    void WritePort(ushort offset, int size, uint value);
}

/// <summary>A group of MSRs that live outside the processor (local APIC). Same threading as <see cref="IPortDevice"/>.</summary>
public interface IMsrDevice
{
    /// <summary>False raises #GP(0).</summary>
    bool TryReadMsr(int cpu, uint index, out ulong value);

    /// <summary>False raises #GP(0).</summary>
    bool TryWriteMsr(int cpu, uint index, ulong value);
}
