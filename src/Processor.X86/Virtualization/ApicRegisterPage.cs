using System.Numerics;

namespace Bunraku.Processor.X86;

/// <summary>
/// Registers of a guest's local APIC on a page of its hypervisor: 32 bits in each 16 bytes, and of a set of 256 vectors 32 in each. Whatever the page holds, no
/// index comes from it that is no vector.
/// </summary>
/// <remarks>Intel SDM vol. 3A, "Local APIC Register Address Map"; AMD APM vol. 2, "APIC Registers".</remarks>
internal abstract unsafe class ApicRegisterPage
{
    /// <summary>Offsets of registers on the page.</summary>
    public const uint Id = 0x20, Version = 0x30, TaskPriority = 0x80, ProcessorPriority = 0xA0, EndOfInterrupt = 0xB0, LogicalDestination = 0xD0,
        DestinationFormat = 0xE0, SpuriousVector = 0xF0, InService = 0x100, Trigger = 0x180, Request = 0x200, ErrorStatus = 0x280, InterruptCommand = 0x300,
        InterruptCommandHigh = 0x310, LvtTimer = 0x320, LvtError = 0x370, InitialCount = 0x380, DivideConfiguration = 0x3E0, SelfIpi = 0x3F0;

    /// <summary>A set of registers: a bit for each 16 bytes of the page's first KiB.</summary>
    public static ulong Registers(uint first, uint last) => (1ul << (int)(last >> 4) << 1) - (1ul << (int)(first >> 4));

    /// <summary>A register; all ones where the page is no RAM.</summary>
    /// <param name="offset">A multiple of 4 below 4096.</param>
    public abstract uint Get(uint offset);

    /// <summary>The register that has a vector's bit, of those that a set begins with.</summary>
    protected static uint RegisterOf(uint set, byte vector) => set + (vector & 0xE0u) / 2;

    /// <summary>A vector's bit there.</summary>
    protected static uint BitOf(byte vector) => 1u << (vector & 31);

    /// <summary>The highest vector of a set; 0: none.</summary>
    protected byte Highest(uint set)
    {
        for (uint n = 8; n-- > 0;)
        {
            uint bits = Get(set + n * 16);
            if (bits != 0) return (byte)(n * 32 + (uint)BitOperations.Log2(bits));
        }
        return 0;
    }

    /// <summary>Reads 1 to 4 bytes of one register.</summary>
    public void Read(uint offset, byte* destination, int length)
    {
        uint value = Get(offset & ~3u) >> (int)(8 * (offset & 3));
        for (int n = 0; n < length; n++) destination[n] = (byte)(value >> (8 * n));
    }

    /// <summary>What a write of 1 to 4 bytes makes of a register.</summary>
    protected uint Changed(uint offset, byte* source, int length)
    {
        uint value = Get(offset & ~3u);
        for (int n = 0; n < length; n++)
        {
            int shift = (int)(8 * ((offset & 3) + (uint)n));
            value = value & ~(0xFFu << shift) | (uint)source[n] << shift;
        }
        return value;
    }
}
