namespace Bunraku.Processor.X86;

/// <summary>
/// One 8-byte descriptor as it lies in a descriptor table. Intel SDM vol. 3A, "Segment Descriptors", "System Descriptor Types", "Gate Descriptors".
/// </summary>
internal readonly unsafe struct Descriptor(ulong raw)
{
    public readonly ulong Raw = raw;

    public int Type => (int)(Raw >> 40) & 0xF;
    public bool IsSystem => (Raw & (1ul << 44)) == 0;
    public int Dpl => (int)(Raw >> 45) & 3;
    public bool Present => (Raw & (1ul << 47)) != 0;
    public bool Long => (Raw & (1ul << 53)) != 0;
    public bool Default32 => (Raw & (1ul << 54)) != 0;
    public bool IsCode => (Raw & (3ul << 43)) == 3ul << 43;
    public bool IsData => (Raw & (3ul << 43)) == 2ul << 43;
    /// <summary>Data: writable. Code: readable.</summary>
    public bool ReadWrite => (Raw & (1ul << 41)) != 0;
    /// <summary>Code segments only.</summary>
    public bool Conforming => (Raw & (1ul << 42)) != 0;
    public bool Accessed => (Raw & (1ul << 40)) != 0;

    public uint Base => (uint)(Raw >> 16) & 0xFF_FFFF | (uint)(Raw >> 32) & 0xFF00_0000;

    /// <summary>In bytes, G applied.</summary>
    public uint Limit
    {
        get
        {
            uint limit = (uint)Raw & 0xFFFF | (uint)(Raw >> 32) & 0xF_0000;
            return (Raw & (1ul << 55)) != 0 ? limit << 12 | 0xFFF : limit;
        }
    }

    /// <summary>In the format of <see cref="SegmentRegister.Attributes"/>.</summary>
    public uint Attributes => (uint)(Raw >> 40) & 0xF0FF;

    // Gates.
    public ushort GateSelector => (ushort)(Raw >> 16);
    /// <summary>Offset bits 31:0; 16-bit gates have only bits 15:0.</summary>
    public uint GateOffset => (uint)Raw & 0xFFFF | (uint)(Raw >> 32) & 0xFFFF_0000;
    /// <summary>Call gates: words or doublewords to copy. Long-mode interrupt gates: bits 2:0 are the IST number.</summary>
    public int GateParameterCount => (int)(Raw >> 32) & 0x1F;

    public void CopyTo(SegmentRegister* r, ushort selector)
    {
        r->Selector = selector;
        r->Base = Base;
        r->Limit = Limit;
        r->Attributes = Attributes;
    }
}

/// <summary>Types of system descriptors (S = 0).</summary>
internal static class SystemType
{
    public const int Tss16Available = 1, Ldt = 2, Tss16Busy = 3, CallGate16 = 4, TaskGate = 5, InterruptGate16 = 6, TrapGate16 = 7;
    /// <summary>32-bit outside long mode, 64-bit in it.</summary>
    public const int TssAvailable = 9, TssBusy = 11, CallGate = 12, InterruptGate = 14, TrapGate = 15;
}
