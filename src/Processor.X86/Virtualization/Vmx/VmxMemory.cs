using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>
/// What the processor itself reads and writes at guest-physical addresses: VMCS regions, bitmaps, lists of MSRs. These addresses are the hypervisor's own, so
/// no second stage of its guest applies. Outside RAM reads give all ones and writes vanish. Rights that our hypervisor has taken are its affair as with a
/// device: it is told before a write, which is made in any case, since a guest cannot be half left.
/// </summary>
/// <remarks>Invariant: an address is resolved at each access and never kept, and no access crosses a page.</remarks>
internal sealed unsafe class VmxMemory(Processor p)
{
    /// <summary>Host address of a byte of RAM, or of ROM that is only read; null when there is none.</summary>
    public byte* Pointer(ulong address, PageRights wanted)
    {
        byte* page = p.Physical.PageOf(address);
        if (page == null && (wanted & PageRights.Write) == 0) page = p.Physical.Resolve(address, wanted).Host;
        return page == null ? null : page + (address & 0xFFF);
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
        if (p.Memory.Rights.WereTaken) p.Memory.Rights.BeforeDeviceWrite(p.Code.BackingOffset(at));
        if (p.WriteWatch.IsOn) p.WriteWatch.Note(at, null);
    }

    /// <summary>Memory has changed: there may be code.</summary>
    public void Written(byte* at, int length) => p.Code.AfterWrite(at, length);

    /// <summary>A VMCS region's data, or a part of it, is read or written where it lies; null outside RAM.</summary>
    public byte* Region(ulong address, bool write) => Pointer(address & ~0xFFFul, write ? PageRights.Read | PageRights.Write : PageRights.Read);

    /// <summary>The bit of a bitmap in memory.</summary>
    public bool Bit(ulong bitmap, uint number) => (Read<byte>(bitmap + number / 8) >> (int)(number & 7) & 1) != 0;
}
