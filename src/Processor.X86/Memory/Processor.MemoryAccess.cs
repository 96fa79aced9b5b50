namespace Bunraku.Processor.X86;

public sealed unsafe partial class Processor
{
    /// <summary>Serialises locked operations that cannot be one host atomic (split, MMIO).</summary>
    internal readonly Lock BusLock = new();

    internal T ReadSlow<T>(ulong address) where T : unmanaged => throw new InvalidOperationException();

    internal void WriteSlow<T>(ulong address, T value) where T : unmanaged => throw new InvalidOperationException();

    internal T ReadForWriteSlow<T>(ulong address) where T : unmanaged => throw new InvalidOperationException();

    /// <summary>Reads any number of bytes (1 to 4096) at a linear address with the current privilege; all of it is checked first.</summary>
    internal void ReadBytes(ulong address, Span<byte> destination) => throw new InvalidOperationException();

    /// <summary>Writes any number of bytes (1 to 4096); all pages are checked before the first byte is written.</summary>
    internal void WriteBytes(ulong address, ReadOnlySpan<byte> source) => throw new InvalidOperationException();

    /// <summary>Raises whatever a write of this range with the current privilege would raise, and nothing else.</summary>
    internal void CheckWrite(ulong address, int length) => throw new InvalidOperationException();

    /// <summary>Reads with supervisor privilege whatever CPL is: descriptor tables, TSS (implicit system access, SDM vol. 3A "Access Rights").</summary>
    internal T ReadSystem<T>(ulong address) where T : unmanaged => throw new InvalidOperationException();

    /// <summary>Writes with supervisor privilege whatever CPL is: accessed bits of descriptors, busy bit, TSS.</summary>
    internal void WriteSystem<T>(ulong address, T value) where T : unmanaged => throw new InvalidOperationException();

    /// <summary>
    /// To be called after any change of CR0, CR3, CR4, EFER, CPL, RFLAGS.AC, RFLAGS.VM, PKRU, CS or SS attributes, XCR0, DR7: recomputes
    /// <see cref="ProcessorState.Mode"/>, <see cref="ProcessorState.TlbContext"/> and the attention for single steps.
    /// Only what changed is recomputed by the callee; calling too often is harmless.
    /// </summary>
    internal void ModeChanged() => throw new InvalidOperationException();

    /// <summary>Drops cached translations: of everything, or of what is not global.</summary>
    internal void FlushTlb(bool includeGlobal) => throw new InvalidOperationException();

    /// <summary>INVLPG: drops the translation of one page in the current PCID and global ones.</summary>
    internal void FlushTlbPage(ulong address) => throw new InvalidOperationException();

    /// <summary>Drops what belongs to <paramref name="pcid"/>, except globals; for <paramref name="address"/> only if given.</summary>
    internal void FlushTlbPcid(uint pcid, ulong? address = null) => throw new InvalidOperationException();
}
