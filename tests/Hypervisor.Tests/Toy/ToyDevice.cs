using Bunraku.Engines;

namespace Bunraku.Hypervisor.Tests.Toy;

/// <summary>State of the toy device.</summary>
[StateRecord("toy.device", version: 1)]
internal sealed record ToyDeviceState(ulong Sum, long? Deadline);

/// <summary>
/// A device with a sum, to which each write at offset 0 adds, and a timer, which a write at offset 8 arms for so many nanoseconds from now and which raises an
/// event for vCPU 0.
/// </summary>
internal sealed class ToyDevice : IMmioDevice, IDevice, IStateful<ToyDeviceState>
{
    public const ulong Base = 0x8000_0000, TimerRegister = Base + 8;

    private readonly ToyMachine _vm;
    private readonly IMachineTimer _timer;

    public ToyDevice(ToyMachine vm)
    {
        _vm = vm;
        var @lock = new DeviceLock("toy");
        _timer = vm.Timers.Create(((ToyThread)vm.Cpus[0]).Raise, @lock);
        vm.Mmio.Add(Base, 16, this, @lock);
        vm.Add(this, @lock);
    }

    public ulong Sum { get; private set; }

    public string Id => "toy";

    public ulong ReadMmio(ulong offset, int size) => Sum;

    public void WriteMmio(ulong offset, int size, ulong value)
    {
        if (offset == 0) Sum += value;
        else _timer.Arm(_vm.Clock.Nanoseconds + (long)value);
    }

    public void Reset()
    {
        Sum = 0;
        _timer.Cancel();
    }

    ToyDeviceState IStateful<ToyDeviceState>.Save() => new(Sum, _timer.Deadline);

    void IStateful<ToyDeviceState>.Restore(ToyDeviceState state)
    {
        Sum = state.Sum;
        _timer.Restore(state.Deadline);
    }
}
