namespace Bunraku.Sessions;

/// <summary>How a restored VM comes to its memory.</summary>
public enum MemoryBacking
{
    /// <summary>
    /// The snapshot's file is mapped, and a page is read when it is touched: the VM runs at once, whatever its size. The file must stay as it is while the VM
    /// lives. What the engine does with pages at further addresses, direct execution above all, is not there.
    /// </summary>
    Lazy,
    /// <summary>All of it is read before the VM runs, and the file is not needed any more.</summary>
    Copy,
}
