namespace Bunraku.Processor.X86;

/// <summary>
/// Who decides about accesses to the page that stands for a guest's local APIC. The TLB never holds that page, so that each of them is asked about.
/// </summary>
internal unsafe interface IGuestApicPage
{
    /// <summary>An access to the page that both stages allow is about to be made. When it returns, the access goes on here.</summary>
    /// <param name="offset">0 to 4095.</param>
    /// <param name="length">Bytes of it in the page, at least 1.</param>
    /// <param name="access">As for a page walk.</param>
    /// <param name="linear">Its linear address.</param>
    /// <param name="page">The page, as the walk has found it.</param>
    /// <exception cref="ExitRequest">It exits, or its instruction must be executed alone. Nothing has changed.</exception>
    void Check(uint offset, int length, uint access, ulong linear, ulong page);

    /// <summary>Reads what <see cref="Check"/> has let through: 1 to 4 bytes of one register.</summary>
    void Read(uint offset, byte* destination, int length);

    /// <summary>Writes what <see cref="Check"/> has let through, with what follows from it.</summary>
    void Write(uint offset, byte* source, int length);
}

/// <summary>The page that stands for a guest's local APIC.</summary>
/// <param name="Access">Null: no page does.</param>
/// <param name="Page">Its address: a multiple of 4096.</param>
/// <param name="IsGuestPhysical">The address is one of the guest, in front of the second stage; else it is one of the machine, behind it.</param>
internal readonly record struct GuestApicPage(IGuestApicPage? Access, ulong Page, bool IsGuestPhysical)
{
    /// <summary>For <see cref="AddressSpaceOwner.ApicPage"/>: tells it from others, and from none, which is 0.</summary>
    public ulong Key => Access == null ? 0 : Page | (IsGuestPhysical ? 3u : 1u);
}
