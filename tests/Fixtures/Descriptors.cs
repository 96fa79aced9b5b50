namespace Bunraku.Fixtures;

/// <summary>Makes descriptors. Intel SDM vol. 3A, "Segment Descriptors", "Gate Descriptors", "IDT Descriptors".</summary>
internal static class Desc
{
    // Types with S = 1, to be combined with a DPL; P is included.
    public const int DataRo = 0x91, Data = 0x93, DataDownRo = 0x95, DataDown = 0x97, CodeXo = 0x99, Code = 0x9B, CodeConformingXo = 0x9D, CodeConforming = 0x9F;
    // System types, present.
    public const int Tss16 = 0x81, Ldt = 0x82, Tss16Busy = 0x83, CallGate16 = 0x84, TaskGate = 0x85, IntGate16 = 0x86, TrapGate16 = 0x87, Tss32 = 0x89,
        Tss32Busy = 0x8B, CallGate = 0x8C, IntGate = 0x8E, TrapGate = 0x8F;
    public const int NotPresent = 0x80; // to be subtracted

    [Flags]
    public enum Size { Bits16 = 0, Long = 2, Big = 4, Granular = 8 }

    /// <param name="limit">As it stands in the descriptor: 20 bits, in 4 KiB units with <see cref="Size.Granular"/>.</param>
    public static ulong Segment(uint start, uint limit, int access, Size size = Size.Bits16, int dpl = 0) =>
        (limit & 0xFFFF) | (ulong)(start & 0xFF_FFFF) << 16 | (ulong)(access | dpl << 5) << 40 | (ulong)(limit >> 16 & 0xF) << 48 | (ulong)size << 52
            | (ulong)(start >> 24) << 56;

    /// <summary>Flat 4 GiB segment.</summary>
    public static ulong Flat(int access, int dpl = 0, Size size = Size.Big) => Segment(0, 0xF_FFFF, access, size | Size.Granular, dpl);

    /// <summary>
    /// Call gates (with parameters), task gates, interrupt and trap gates; the low half in long mode, where <paramref name="parameters"/> is the IST number.
    /// </summary>
    public static ulong Gate(ushort selector, ulong offset, int access, int dpl = 0, int parameters = 0) =>
        (offset & 0xFFFF) | (ulong)selector << 16 | (ulong)(parameters & 0x1F) << 32 | (ulong)(access | dpl << 5) << 40 | (offset >> 16 & 0xFFFF) << 48;
}
