namespace Bunraku.Hypervisor.X86;

/// <summary>
/// What delivers events to one vCPU (its local APIC with the PIC behind it). With <see cref="VirtualMachine.InterruptLock"/> held.
/// When an event becomes pending the source calls <see cref="VirtualMachine.WakeCpu"/>, unless the vCPU itself is at work here: its run loop looks then anyway.
/// </summary>
public interface IInterruptSource
{
    /// <summary>An external interrupt waits that the current priority lets through.</summary>
    bool InterruptPending { get; }

    /// <summary>Takes the highest pending interrupt into service (INTA) and returns its vector; null when it went away (then nothing is injected).</summary>
    byte? AcknowledgeInterrupt();

    /// <summary>An NMI waits.</summary>
    bool NmiPending { get; }

    /// <summary>Takes one pending NMI, if any.</summary>
    bool TakeNmi();

    /// <summary>
    /// The processor handles an NMI: of those that wait it holds one. Without that, two are two, though the vCPU may find them late: a processor would have
    /// begun the first before the second came.
    /// </summary>
    void CollapseNmis();

    /// <summary>An interrupt is in service. Changes on the vCPU's own thread only, and may be asked there without the lock.</summary>
    bool IsInService => false;

    /// <summary>
    /// True when the vCPU may end its interrupt in service without telling: nobody waits for the end, and nothing else is requested. From then on until
    /// <see cref="WithdrawSilentEoi"/> each new request wakes the vCPU. For paravirtual guests.
    /// </summary>
    bool TryOfferSilentEoi() => false;

    /// <summary>The vCPU is back; it has ended its interrupt, or not.</summary>
    void WithdrawSilentEoi(bool ended)
    {
    }

    /// <summary>The task priority as CR8 shows it (TPR bits 7:4), 0 to 15.</summary>
    ulong Cr8 { get; set; }

    /// <summary>The processor itself ends its interrupt in service, as a write to the EOI register does.</summary>
    void EndOfInterrupt()
    {
    }

    /// <summary>INIT waits.</summary>
    bool InitPending => false;

    /// <summary>The processor has dealt with an INIT that waited: what belongs to the source stays as it is.</summary>
    void DropInit()
    {
    }

    /// <summary>From now on the processor waits for a start-up IPI: it is in that state though there was no INIT.</summary>
    void WaitForStartUp()
    {
    }

    /// <summary>Takes a pending INIT, if any; what belongs to the source itself is then in its state after INIT.</summary>
    bool TakeInit();

    /// <summary>
    /// The processor waits for a start-up IPI and nothing else (wait-for-SIPI): an application processor after power-up and after INIT. A bootstrap processor
    /// never does, INIT sends it to the firmware.
    /// </summary>
    bool WaitsForStartUp { get; }

    /// <summary>Takes the start-up IPI that came since the processor waits for one, and ends the wait. Its vector, or null when there is none yet.</summary>
    byte? TakeStartUp();
}
