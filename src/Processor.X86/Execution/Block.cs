using System.Runtime.InteropServices;

namespace Bunraku.Processor.X86;

/// <summary>
/// Decoded code that is entered at one address in one mode, and ends with a control transfer. Found again by where its first byte lies in
/// guest memory, so that address spaces share it.
/// </summary>
/// <remarks>Invariant: <see cref="First"/> points to Count operations of the arena; blocks and operations live until the whole arena is given up.</remarks>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct Block
{
    /// <summary>Offset of the first byte in the backing memory.</summary>
    public ulong Start;
    /// <summary>For a block that crosses into another page: offset of that page in the backing memory, else <see cref="NoPage"/>.</summary>
    public ulong SecondPage;
    public Insn* First;
    /// <summary>Next block of the same hash bucket.</summary>
    public Block* NextInBucket;
    /// <summary>Next block of the first page, and of the second one.</summary>
    public Block* NextInPage, NextInSecondPage;
    /// <summary>The first of the parts that translations of other blocks have of this one.</summary>
    public TranslatedBlock* Parts;
    /// <summary>Of the bytes that were decoded: who reads them again, for a translation, must find the same.</summary>
    public ulong Checksum;
    public uint Mode;
    /// <summary>Number of operations, micro-operations included.</summary>
    public ushort Count;
    /// <summary>Bytes of guest code.</summary>
    public ushort Length;
    public bool Valid;
    /// <summary>In which of <see cref="Generations"/> it lies.</summary>
    public byte Generation;

    public const ulong NoPage = ulong.MaxValue;

    public readonly bool Crosses => SecondPage != NoPage;
}
