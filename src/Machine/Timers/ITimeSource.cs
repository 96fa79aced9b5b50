using Bunraku.Hypervisor;

namespace Bunraku.Machine.Timers;

/// <summary>Virtual time as devices use it; an interface so that tests can move time themselves.</summary>
public interface ITimeSource
{
    /// <summary>Nanoseconds of virtual time since power-on; never goes back.</summary>
    long Nanoseconds { get; }

    /// <summary>TSC ticks a second.</summary>
    ulong TscFrequency { get; }

    /// <summary>Makes a timer that is not armed.</summary>
    IMachineTimer CreateTimer(Action callback);
}

/// <summary>The time of a virtual machine for the devices of one lock, with which their timers call back.</summary>
internal sealed class MachineTime(X86Machine vm, DeviceLock @lock) : ITimeSource
{
    public long Nanoseconds => vm.Clock.Nanoseconds;
    public ulong TscFrequency => vm.Clock.CounterFrequency;
    public IMachineTimer CreateTimer(Action callback) => vm.Timers.Create(callback, @lock);
}
