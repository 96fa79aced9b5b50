namespace Bunraku.Machine.Acpi;

/// <summary>The resources of a device, for _CRS.</summary>
/// <remarks>ACPI Specification 6.3, section 6.4 "Resource Data Types for ACPI".</remarks>
public sealed class ResourceTemplate
{
    private const byte IrqTag = 0x22, IoTag = 0x47, EndTag = 0x79, Memory32FixedTag = 0x86, DWordSpaceTag = 0x87, WordSpaceTag = 0x88,
        InterruptTag = 0x89;
    private const byte MemoryRange = 0, IoRange = 1, BusRange = 2;
    /// <summary>General flags: minimum and maximum are fixed, positive decode, the device produces (passes on) the range.</summary>
    private const byte Fixed = 0x0C;

    private readonly List<byte> _bytes = [];

    /// <summary>IRQNoFlags: one edge-triggered, active-high ISA interrupt, 0 to 15.</summary>
    public ResourceTemplate Irq(int irq) => Add(IrqTag, 1).Add(1u << irq, 2);

    /// <summary>IO: <paramref name="count"/> ports at a fixed place, 16 address bits decoded.</summary>
    public ResourceTemplate Ports(ushort first, int count) => Add(IoTag, 1).Add(1, 1).Add(first, 2).Add(first, 2).Add(1, 1).Add((uint)count, 1);

    /// <summary>Memory32Fixed, writable.</summary>
    public ResourceTemplate Memory(uint first, uint length) => Add(Memory32FixedTag, 1).Add(9, 2).Add(1, 1).Add(first, 4).Add(length, 4);

    /// <summary>Extended interrupt: one global system interrupt that the device consumes, level-triggered, active high, shared.</summary>
    public ResourceTemplate Interrupt(uint number) => Add(InterruptTag, 1).Add(6, 2).Add(9, 1).Add(1, 1).Add(number, 4);

    /// <summary>WordBusNumber: PCI buses that a host bridge passes on.</summary>
    public ResourceTemplate BusRangeProduced(byte first, byte last) => Space(WordSpaceTag, 2, BusRange, typeFlags: 0, first, last);

    /// <summary>WordIO: ports that a host bridge passes on, ISA and other ones.</summary>
    public ResourceTemplate PortRangeProduced(ushort first, ushort last) => Space(WordSpaceTag, 2, IoRange, typeFlags: 3, first, last);

    /// <summary>DWordMemory: uncached, writable addresses that a host bridge passes on.</summary>
    public ResourceTemplate MemoryRangeProduced(uint first, uint last) => Space(DWordSpaceTag, 4, MemoryRange, typeFlags: 1, first, last);

    /// <summary>The bytes with the end tag behind them, whose checksum is 0: not checked.</summary>
    public byte[] ToArray() => [.. _bytes, EndTag, 0];

    /// <summary>An address space descriptor: granularity, minimum, maximum, translation, length, each of <paramref name="width"/> bytes.</summary>
    private ResourceTemplate Space(byte tag, int width, byte type, byte typeFlags, uint first, uint last) =>
        Add(tag, 1).Add((uint)(3 + 5 * width), 2).Add(type, 1).Add(Fixed, 1).Add(typeFlags, 1)
            .Add(0, width).Add(first, width).Add(last, width).Add(0, width).Add(last - first + 1, width);

    private ResourceTemplate Add(uint value, int bytes)
    {
        for (int n = 0; n < bytes; n++) _bytes.Add((byte)(value >> (8 * n)));
        return this;
    }
}
