namespace Bunraku.Sessions;

/// <summary>
/// Sees what happens to a <see cref="Vm"/>. A VM has any number of observers, which are called one after another in the order in which
/// <see cref="VmBuilder.Observers"/> has them; one implements what it wants to see.
/// </summary>
/// <remarks>
/// Called on the VM's own threads, several at a time where the VM has several vCPUs. No method may wait for the VM (pause it, read its processors' state,
/// dispose of it) or for anything that the VM's end has to come before; ending it (<see cref="Vm.End"/>) is allowed everywhere. An exception ends the VM, and
/// <see cref="Vm.RunAsync"/> throws an <see cref="ObserverException"/>.
/// </remarks>
public interface IVmObserver
{
    /// <summary>The VM starts to run, stands still, goes on, or has ended. In the order in which it happens; on the thread that causes it.</summary>
    /// <param name="vm">The VM.</param>
    /// <param name="state">What it does from now on.</param>
    void OnStateChanged(Vm vm, VmState state)
    {
    }

    /// <summary>The guest reset the machine, which boots again. All vCPUs stand still.</summary>
    /// <param name="vm">The VM.</param>
    void OnReset(Vm vm)
    {
    }

    /// <summary>
    /// The host could not do what a request of the guest to a disk asked for. On a disk's thread, before the guest is told or the machine stopped.
    /// </summary>
    /// <param name="vm">The VM.</param>
    /// <param name="error">What it was.</param>
    void OnDiskError(Vm vm, DiskError error)
    {
    }

    /// <summary>A vCPU left the guest, and the exit was handled. On the vCPU's thread, without locks; the guest's speed depends on it.</summary>
    /// <param name="vm">The VM.</param>
    /// <param name="exit">What it was.</param>
    void OnExit(Vm vm, in ExitRecord exit)
    {
    }

    /// <summary>The guest printed on its console. On a vCPU's thread, with the lock of a serial port held: it must not wait.</summary>
    /// <param name="vm">The VM.</param>
    /// <param name="bytes">What it printed; they are gone when the method returns.</param>
    void OnOutput(Vm vm, ReadOnlySpan<byte> bytes)
    {
    }

    /// <summary>The VM has ended: its vCPUs stand still, its state can be read, and all output is written. On a thread of the pool.</summary>
    /// <param name="vm">The VM.</param>
    /// <param name="result">How.</param>
    void OnEnd(Vm vm, VmResult result)
    {
    }
}
