using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>
/// Accesses to the APIC-access page: which of them are virtualized, that is, go to the virtual-APIC page, and which exit. The TLB never holds the page, so that
/// each of them comes here.
/// </summary>
/// <remarks>Intel SDM vol. 3C, "Virtualizing Memory-Mapped APIC Accesses".</remarks>
internal sealed unsafe class VirtualApicAccess(Processor p, Vmx vmx) : IGuestApicPage
{
    /// <summary>Stands for an access to the page that exits, among what a second stage refuses; no qualification of a violation.</summary>
    public const ulong Refused = 1ul << 62;

    // Sets of registers: a bit for each 16 bytes of the page's first KiB.
    private const ulong TaskPriority = 1ul << (int)(VirtualApic.TaskPriority >> 4);
    private const ulong Delivery = TaskPriority | 1ul << (int)(VirtualApic.EndOfInterrupt >> 4) | 1ul << (int)(VirtualApic.InterruptCommand >> 4);

    private static readonly ulong s_written = Delivery | Register(VirtualApic.Id) | Register(VirtualApic.LogicalDestination)
        | Register(VirtualApic.DestinationFormat) | Register(VirtualApic.SpuriousVector) | Register(VirtualApic.ErrorStatus)
        | Register(VirtualApic.InterruptCommandHigh) | Registers(VirtualApic.LvtTimer, VirtualApic.LvtError) | Register(VirtualApic.InitialCount)
        | Register(VirtualApic.DivideConfiguration);

    private static readonly ulong s_read = s_written | Register(VirtualApic.Version) | Registers(VirtualApic.InService, VirtualApic.Request + 0x70);

    private static ulong Register(uint offset) => 1ul << (int)(offset >> 4);

    private static ulong Registers(uint first, uint last) => (Register(last) << 1) - Register(first);

    /// <inheritdoc/>
    public void Check(uint offset, int length, uint access, ulong linear, ulong page)
    {
        bool write = (access & PageWalker.WriteAccess) != 0, fetch = (access & PageWalker.FetchAccess) != 0;
        if (fetch || (access & PageWalker.InTwoPages) != 0 || p.Delivery.IsDelivering || p.Delivery.Vectoring != null
            || !IsVirtualized(offset, length, write))
        {
            PageRights wanted = fetch ? PageRights.Execute : write ? PageRights.Write : PageRights.Read;
            throw p.Exits.RefusedAccess(linear, new Refusal(page, wanted, IsTableAccess: false, new SecondStageFault(Refused)));
        }
        if (!write || p.State->Current == null || (p.State->Mode & ModeKey.Single) != 0 || !vmx.Apic.MayInterrupt(offset)) return;
        p.GuestMode.StepsApicWrite = true;
        throw p.Exits.ExecuteAlone();
    }

    /// <inheritdoc/>
    public void Read(uint offset, byte* destination, int length) => vmx.Apic.ReadPage(offset, destination, length);

    /// <inheritdoc/>
    public void Write(uint offset, byte* source, int length) => vmx.Apic.WritePage(offset, source, length);

    private bool IsVirtualized(uint offset, int length, bool write)
    {
        if (!vmx.Has(ProcessorControls.UseTprShadow) || (offset & 0xF) + length > sizeof(uint) || offset >= 0x400) return false;
        if (vmx.Has(SecondaryControls.ApicRegisterVirtualization)) return ((write ? s_written : s_read) & Register(offset)) != 0;
        return (offset & 0xF) == 0 && ((vmx.Has(SecondaryControls.VirtualInterruptDelivery) ? Delivery : TaskPriority) & Register(offset)) != 0;
    }
}
