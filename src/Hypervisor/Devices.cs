using Bunraku.Engines;

namespace Bunraku.Hypervisor;

/// <summary>
/// What every device of a machine has: a name, a state that can be saved and restored, a reset. It is told to its machine by
/// <see cref="VirtualMachine.Add(IDevice, DeviceLock?)"/>, beside the buses that it
/// answers on. While no vCPU runs, with the lock held that it was added with.
/// </summary>
public interface IDevice : IStateful
{
    /// <summary>
    /// RESET of the machine: registers as after power-on, timers not armed, interrupt wires low. What is at the other side, input that waits for the guest, the
    /// time of day, stays. All devices of the machine are reset while no vCPU runs.
    /// </summary>
    void Reset();

    /// <summary>
    /// The machine stands still from now on: virtual time, timers and vCPUs do already. For devices with threads or requests to the host of their own; when it
    /// returns, guest memory is left alone.
    /// </summary>
    void Pause()
    {
    }

    /// <summary>The machine goes on.</summary>
    void Resume()
    {
    }
}

/// <summary>
/// A device in guest-physical address space. Addresses are offsets from the beginning of the device's range. Called on vCPU threads with the device's lock
/// held, which
/// <see cref="MmioBus.Add"/> names.
/// </summary>
public interface IMmioDevice
{
    /// <summary>The guest reads; bytes beyond <paramref name="size"/> do not count.</summary>
    /// <param name="offset">Offset from the registered base.</param>
    /// <param name="size">1 to 8 bytes, never across an 8-byte boundary.</param>
    ulong ReadMmio(ulong offset, int size);

    /// <summary>The guest writes.</summary>
    /// <param name="offset">Offset from the registered base.</param>
    /// <param name="size">1 to 8 bytes, never across an 8-byte boundary.</param>
    /// <param name="value">Bytes beyond <paramref name="size"/> do not count.</param>
    void WriteMmio(ulong offset, int size, ulong value);
}

/// <summary>A device whose registers are doublewords: a part of one, or two at once, can be read; narrower writes than one register do nothing.</summary>
public interface IDoublewordDevice : IMmioDevice
{
    /// <summary>Reads one register.</summary>
    /// <param name="offset">A multiple of 4.</param>
    uint ReadRegister(int offset);

    /// <summary>Writes one register.</summary>
    /// <param name="offset">A multiple of 4.</param>
    /// <param name="value">What is written.</param>
    void WriteRegister(int offset, uint value);

    ulong IMmioDevice.ReadMmio(ulong offset, int size)
    {
        (int first, int within) = ((int)offset & ~3, (int)offset & 3);
        ulong value = ReadRegister(first);
        if (within + size > 4) value |= (ulong)ReadRegister(first + 4) << 32;
        return value >> 8 * within;
    }

    void IMmioDevice.WriteMmio(ulong offset, int size, ulong value)
    {
        if ((offset & 3) != 0 || size < 4) return;
        WriteRegister((int)offset, (uint)value);
        if (size == 8) WriteRegister((int)offset + 4, (uint)(value >> 32));
    }
}

/// <summary>
/// An interrupt wire. Level semantics: edges are made of two calls. A wire is moved with the lock of its device held; what it leads to takes care of itself.
/// </summary>
public interface IInterruptLine
{
    /// <summary>Moves the wire. Nothing happens when it is there already.</summary>
    /// <param name="asserted">It is active, whichever voltage that is.</param>
    void Set(bool asserted);
}

/// <summary>A callback at a point of virtual time. Arm, cancel and the callback itself run with the device's lock held.</summary>
public interface IMachineTimer
{
    /// <summary>
    /// Calls back once <see cref="Engines.VirtualClock.Nanoseconds"/> reaches <paramref name="deadline"/>; replaces an earlier deadline. A deadline in the past
    /// fires at once.
    /// </summary>
    void Arm(long deadline);

    /// <summary>It will not call back any more; nothing when it is not armed.</summary>
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
