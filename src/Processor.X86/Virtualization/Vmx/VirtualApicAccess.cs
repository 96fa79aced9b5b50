using Bunraku.Engines;
using static Bunraku.Processor.X86.ApicRegisterPage;

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

    // Sets of registers.
    private static readonly ulong s_taskPriority = Register(TaskPriority);
    private static readonly ulong s_delivery = s_taskPriority | Register(EndOfInterrupt) | Register(InterruptCommand);

    private static readonly ulong s_written = s_delivery | Register(Id) | Register(LogicalDestination)
        | Register(DestinationFormat) | Register(SpuriousVector) | Register(ErrorStatus)
        | Register(InterruptCommandHigh) | Registers(LvtTimer, LvtError) | Register(InitialCount)
        | Register(DivideConfiguration);

    private static readonly ulong s_read = s_written | Register(ApicRegisterPage.Version) | Registers(InService, Request + 0x70);

    private static ulong Register(uint offset) => Registers(offset, offset);

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
        if (write && vmx.Apic.MayInterrupt(offset)) p.GuestMode.RequireAlone();
    }

    /// <inheritdoc/>
    public void Read(uint offset, byte* destination, int length) => vmx.Apic.Read(offset, destination, length);

    /// <inheritdoc/>
    public void Write(uint offset, byte* source, int length) => vmx.Apic.WritePage(offset, source, length);

    private bool IsVirtualized(uint offset, int length, bool write)
    {
        if (!vmx.Has(ProcessorControls.UseTprShadow) || (offset & 0xF) + length > sizeof(uint) || offset >= 0x400) return false;
        if (vmx.Has(SecondaryControls.ApicRegisterVirtualization)) return ((write ? s_written : s_read) & Register(offset)) != 0;
        return (offset & 0xF) == 0 && ((vmx.Has(SecondaryControls.VirtualInterruptDelivery) ? s_delivery : s_taskPriority) & Register(offset)) != 0;
    }
}
