using Bunraku.Engines;

namespace Bunraku.Hypervisor;

/// <summary>
/// What every device of a machine has: a name, a state that can be saved and restored, a reset. It is told to its machine by <see cref="VirtualMachine.Add(IDevice)"/>, beside the buses that it
/// answers on. While no vCPU runs, with the lock held that it was added with.
/// </summary>
public interface IDevice : IStateful
{
    /// <summary>
    /// RESET of the machine: registers as after power-on, timers not armed, interrupt wires low. What is at the other side, input that waits for the guest, the time of day, stays. All devices of
    /// the machine are reset while no vCPU runs.
    /// </summary>
    void Reset();

    /// <summary>The machine stands still from now on: virtual time, timers and vCPUs do already. For devices with threads or requests to the host of their own; when it returns, guest memory is left alone.</summary>
    void Pause()
    {
    }

    /// <summary>The machine goes on.</summary>
    void Resume()
    {
    }
}

/// <summary>
/// A device on the port bus. Addresses are offsets from the device's own first port. Called on vCPU threads with the device's lock held, which
/// <see cref="PortBus.Add"/> names.
/// </summary>
public interface IPortDevice
{
    /// <param name="offset">Offset from the registered base.</param>
    /// <param name="size">1, 2 or 4 bytes.</param>
    uint ReadPort(ushort offset, int size);

    void WritePort(ushort offset, int size, uint value);
}

/// <summary>A device in guest-physical address space. Same threading as <see cref="IPortDevice"/>.</summary>
public interface IMmioDevice
{
    /// <param name="offset">Offset from the registered base.</param>
    /// <param name="size">1 to 8 bytes, never across an 8-byte boundary.</param>
    ulong ReadMmio(ulong offset, int size);

    void WriteMmio(ulong offset, int size, ulong value);
}

/// <summary>A group of MSRs that live outside the processor (local APIC). Same threading as <see cref="IPortDevice"/>.</summary>
public interface IMsrDevice
{
    /// <summary>False raises #GP(0).</summary>
    bool TryReadMsr(int cpu, uint index, out ulong value);

    /// <summary>False raises #GP(0).</summary>
    bool TryWriteMsr(int cpu, uint index, ulong value);
}

/// <summary>An interrupt wire. Level semantics: edges are made of two calls. A wire is moved with the lock of its device held; what it leads to takes care of itself.</summary>
public interface IInterruptLine
{
    void Set(bool asserted);
}

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
    /// The processor handles an NMI: of those that wait it holds one. Without that, two are two, though the vCPU may find them late: a processor would have begun the
    /// first before the second came.
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

/// <summary>A callback at a point of virtual time. Arm, cancel and the callback itself run with the device's lock held.</summary>
public interface IMachineTimer
{
    /// <summary>Calls back once <see cref="Engines.VirtualClock.Nanoseconds"/> reaches <paramref name="deadline"/>; replaces an earlier deadline. A deadline in the past fires at once.</summary>
    void Arm(long deadline);

    void Cancel();

    /// <summary>When it will call back; null while it is not armed. For who saves it.</summary>
    long? Deadline { get; }

    /// <summary>Arms it for a saved <see cref="Deadline"/>, or cancels it for null.</summary>
    void Restore(long? deadline)
    {
        if (deadline is { } time) Arm(time);
        else Cancel();
    }
}
