using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>
/// The processor's own accesses to VMCBs, host save areas and permission maps, by addresses of the machine. Rights that our hypervisor has taken are its
/// affair as with a device: it is told before a write, which is made in any case, since a guest cannot be half left.
/// </summary>
internal sealed unsafe class SvmMemory(Processor p)
{
    /// <summary>Host address of a page, or null outside RAM.</summary>
    public byte* Page(ulong address) => p.Physical.PageOf(address);

    /// <summary>A page is about to be written through its host address.</summary>
    public void BeforeWrite(byte* page)
    {
        if (p.Memory.Rights.WereTaken) p.Memory.Rights.BeforeDeviceWrite(p.Code.BackingOffset(page));
        if (p.WriteWatch.IsOn) p.WriteWatch.Note(page, null);
    }

    /// <summary>Bytes of a page were written: decoded code there is forgotten.</summary>
    public void AfterWrite(byte* place, int length)
    {
        if (p.Code.IsCodePage(place)) p.Code.AfterWrite(place, length);
    }

    /// <summary>A byte of a permission map; outside RAM everything is intercepted.</summary>
    public byte Read(ulong address)
    {
        byte* page = Page(address);
        return page == null ? (byte)0xFF : page[address & (GuestMemory.PageSize - 1)];
    }
}
