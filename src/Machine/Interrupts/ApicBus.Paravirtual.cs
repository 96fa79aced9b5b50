using Bunraku.Hypervisor.X86.Paravirtual;

namespace Bunraku.Machine.Interrupts;

// Interprocessor interrupts by hypercall: several destinations, one exit.
internal sealed partial class ApicBus : IInterruptSender
{
    public bool Send(uint apicId, uint icr)
    {
        var command = new InterruptCommand(icr);
        return command.Vector >= 16 || command.Mode == DeliveryMode.Nmi
            ? Deliver(new InterruptMessage(command.Vector, command.Mode, IsLogical: false, IsLevel: false, apicId, IsWide: true))
            : false;
    }

    public int FindCpu(uint apicId)
    {
        foreach (LocalApic apic in _localApics)
            if ((uint)apic.Index == apicId) return apic.Index;
        return -1;
    }
}
