using Bunraku.Engines;

namespace Bunraku.Hypervisor.X86.Paravirtual;

/// <summary>
/// A structure in guest RAM at an address that the guest chose. Invariant: <see cref="Pointer"/> is null, or all of its bytes lie in one writable region of
/// the guest's RAM, which is mapped as long as the memory lives.
/// </summary>
internal readonly unsafe struct GuestWindow
{
    private readonly GuestMemory? _memory;
    private readonly ulong _offset; // in the backing memory
    private readonly int _length;

    /// <summary>Looks the address up; an unusable one gives an empty window.</summary>
    public GuestWindow(GuestMemory memory, ulong address, int length)
    {
        if (!memory.TryFind(address, out MemoryRegion region) || region.IsReadOnly || (ulong)length > region.Length - (address - region.Start)) return;
        if (!memory.MayUse(region.Offset + (address - region.Start), (ulong)length)) return;
        (_memory, _offset, _length) = (memory, region.Offset + (address - region.Start), length);
        Pointer = memory.Backing.Pointer + _offset;
    }

    /// <summary>Where the host sees it; null: nowhere.</summary>
    public byte* Pointer { get; }

    public bool IsUsable => Pointer != null;

    /// <summary>
    /// The bytes are about to be written, in place: to be called first, since the page may be watched (<see cref="PageRightsTable.DeviceWriteRefused"/>).
    /// <see cref="Written"/> belongs behind the write.
    /// </summary>
    public void Prepare() => _memory?.PrepareWrite(_offset, (ulong)_length);

    /// <summary>The bytes were written: code that somebody decoded there is forgotten, and the write is in the log.</summary>
    public void Written() => _memory?.NotifyWritten(_offset, (ulong)_length);
}
