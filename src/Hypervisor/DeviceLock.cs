namespace Bunraku.Hypervisor;

/// <summary>
/// The lock of one device, or of several that share state. A device takes it nowhere itself: the buses hold it for an access of the guest, the timers for a
/// callback. Who calls a device from elsewhere (keyboard, network, button) takes it first. Taken with <c>lock</c>, as often as one likes on one thread.
/// </summary>
/// <remarks>
/// Order: a device's lock; then the lock of a device that its wires or its output lead to; then <see cref="VirtualMachine.InterruptLock"/>; then the locks
/// inside timers, I/O threads and vCPUs, which call nobody. Interrupt controllers never call a device, so a device may move its wires while it holds its lock.
/// </remarks>
/// <param name="name">For people who look at a hang.</param>
public sealed class DeviceLock(string name)
{
    /// <inheritdoc/>
    public override string ToString() => name;
}
