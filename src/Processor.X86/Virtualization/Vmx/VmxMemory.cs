using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>
/// What the processor itself reads and writes at guest-physical addresses: VMCS regions, bitmaps, lists of MSRs. These addresses are the hypervisor's own, so
/// no second stage of its guest applies. Outside RAM reads give all ones and writes vanish.
/// </summary>
/// <remarks>Invariant: an address is resolved at each access and never kept, and no access crosses a page.</remarks>
internal sealed unsafe class VmxMemory(Processor p)
{
    /// <summary>Host address of a byte of RAM; null when there is none, or the right is not given.</summary>
    public byte* Pointer(ulong address, PageRights wanted)
    {
        PhysicalPage page = p.Physical.Resolve(address, wanted);
        return page.Kind == PhysicalKind.Ram ? page.Host + (address & 0xFFF) : null;
    }

    /// <summary>A naturally aligned value.</summary>
    public T Read<T>(ulong address) where T : unmanaged, System.Numerics.IBinaryInteger<T>
    {
        byte* at = Pointer(address & ~(ulong)(sizeof(T) - 1), PageRights.Read);
        return at == null ? T.AllBitsSet : *(T*)at;
    }

    public void Write<T>(ulong address, T value) where T : unmanaged
    {
        byte* at = Pointer(address & ~(ulong)(sizeof(T) - 1), PageRights.Write);
        if (at == null) return;
        BeforeWrite(at);
        *(T*)at = value;
        Written(at, sizeof(T));
    }

    /// <summary>Whoever watches writes is told, before memory changes.</summary>
    public void BeforeWrite(byte* at)
    {
        if (p.WriteWatch.IsOn) p.WriteWatch.Note(at, null);
    }

    /// <summary>Memory has changed: there may be code.</summary>
    public void Written(byte* at, int length) => p.Code.AfterWrite(at, length);

    /// <summary>A VMCS region's data, or a part of it, is read or written where it lies; null outside RAM.</summary>
    public byte* Region(ulong address, bool write) => Pointer(address & ~0xFFFul, write ? PageRights.Read | PageRights.Write : PageRights.Read);

    /// <summary>The bit of a bitmap in memory.</summary>
    public bool Bit(ulong bitmap, uint number) => (Read<byte>(bitmap + number / 8) >> (int)(number & 7) & 1) != 0;
}
