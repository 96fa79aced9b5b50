using Bunraku.Platform;

namespace Bunraku.Engines.X86;

/// <summary>A write by which the guest tells a device that there is work.</summary>
/// <param name="IsPort">In the I/O address space, else in guest-physical memory.</param>
/// <param name="Size">Bytes of the write; 1, 2, 4, or for memory 8.</param>
/// <param name="Value">Only writes of this value; null: of any.</param>
public readonly record struct Doorbell(bool IsPort, ulong Address, int Size, ulong? Value = null);

/// <summary>
/// Ways around exits that an engine may have. Each says whether it has it; where not, the exits come as ever, so a device needs both ways. Set up and
/// taken down by any thread, while vCPUs run or not; an engine takes no lock of the caller's.
/// </summary>
public interface IEngineShortcuts
{
    /// <summary>The guest's write signals the event instead of exiting.</summary>
    bool TryAddDoorbell(in Doorbell doorbell, EventDescriptor signalled);

    /// <summary>Takes back what <see cref="TryAddDoorbell"/> added.</summary>
    void RemoveDoorbell(in Doorbell doorbell, EventDescriptor signalled);

    /// <summary>Each signal of the event delivers the message. Needs the engine's local APICs.</summary>
    bool TryConnectInterrupt(EventDescriptor signal, MsiMessage message);

    /// <summary>Takes back what <see cref="TryConnectInterrupt"/> connected.</summary>
    void DisconnectInterrupt(EventDescriptor signal);

    /// <summary>
    /// Writes to the range need not come when they are made: they may be gathered and exit later, in order, before anything that follows them on the same
    /// vCPU. Only for what has no effect that anybody waits for.
    /// </summary>
    bool TryPostWrites(bool isPort, ulong address, uint length);
}
