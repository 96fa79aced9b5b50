using System.Buffers.Binary;
using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Acpi;
using Bunraku.Machine.Board;

namespace Bunraku.Machine.Pci;

/// <summary>
/// The enhanced configuration access mechanism: configuration space of bus 0 as memory, 4 KiB for each function. What is behind the 256 bytes of a conventional
/// function does not answer. With the lock of the <see cref="PciHost"/> held.
/// </summary>
/// <remarks>
/// PCI Express Base Specification 5.0, section 7.2.2 "PCI Express Enhanced Configuration Access Mechanism (ECAM)"; PCI Firmware Specification 3.3, section
/// 4.1.2 "MCFG Table Description".
/// </remarks>
internal sealed class PciEcam(PciHost host) : IMmioDevice
{
    /// <summary>Bytes of bus 0.</summary>
    public const ulong Length = PciHost.Places << FunctionBits;

    private const int FunctionBits = 12, RegisterWidth = sizeof(uint);

    /// <summary>Puts it on a board, and tells ACPI where it is.</summary>
    public void AttachTo(IBoard board, DeviceLock @lock)
    {
        board.Machine.Mmio.Add(MemoryLayout.PciEcam, Length, this, @lock);
        byte[] table = new byte[8 + 16]; // reserved bytes, and one entry: address, segment group, first and last bus
        BinaryPrimitives.WriteUInt64LittleEndian(table.AsSpan(8), MemoryLayout.PciEcam);
        board.Acpi.AddTable("MCFG", 1, table);
        board.Acpi.Reserve(r => r.Memory((uint)MemoryLayout.PciEcam, (uint)Length)); // operating systems use it only where it is reserved
    }

    /// <inheritdoc/>
    public ulong ReadMmio(ulong offset, int size)
    {
        ulong value = 0;
        for (int done = 0; done < size;)
        {
            (PciFunction? function, int register, int count) = Find(offset + (ulong)done, size - done);
            ulong part = function?.ReadConfig(register, count) ?? uint.MaxValue;
            value |= (part & (1ul << 8 * count) - 1) << 8 * done;
            done += count;
        }
        return value;
    }

    /// <inheritdoc/>
    public void WriteMmio(ulong offset, int size, ulong value)
    {
        for (int done = 0; done < size;)
        {
            (PciFunction? function, int register, int count) = Find(offset + (ulong)done, size - done);
            function?.WriteConfig(register, count, (uint)(value >> 8 * done & (1ul << 8 * count) - 1));
            done += count;
        }
    }

    /// <summary>What answers at an offset, where in its configuration space that is, and how many bytes of an access are in the same doubleword.</summary>
    private (PciFunction? Function, int Register, int Count) Find(ulong offset, int size)
    {
        int register = (int)(offset & (1 << FunctionBits) - 1), count = Math.Min(size, RegisterWidth - register % RegisterWidth);
        return (register < PciConfigSpace.Size ? host.FunctionAt((int)(offset >> FunctionBits)) : null, register, count);
    }
}
