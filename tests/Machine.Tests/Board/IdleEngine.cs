using Bunraku.Engines;

namespace Bunraku.Machine.Tests.Board;

/// <summary>An engine whose guest does nothing, unless a test says what: tests hand exits to the hypervisor themselves.</summary>
/// <param name="onKick">Told of each kick, with the number of the vCPU.</param>
/// <param name="onDispose">Told of the end of each vCPU, and of the VM's with the number -1.</param>
/// <param name="onEnter">What the guest does; null: the VM is not to be started.</param>
/// <param name="cpus">How many vCPUs can be made.</param>
internal sealed class IdleEngine(Action<int>? onKick = null, Action<int>? onDispose = null, Action<X86Exit>? onEnter = null, int cpus = int.MaxValue)
    : IX86Engine
{
    public static readonly CpuModel Model =
        new("idle", "GenuineIntel", 6, 1, 1, "Idle", new HashSet<CpuFeature> { CpuFeature.Apic, CpuFeature.X2apic, CpuFeature.TscDeadline, CpuFeature.Lm });

    public string Name => "idle";

    public EngineProbe Probe() => new(true, "does nothing");

    public IX86Vm CreateVm(GuestMemory memory, CpuModel model, VirtualClock clock) => new Vm(onKick, onDispose, onEnter, cpus);

    private sealed class Vm(Action<int>? onKick, Action<int>? onDispose, Action<X86Exit>? onEnter, int cpus) : IX86Vm
    {
        public IX86Cpu CreateCpu(int index) => index < cpus ? new Cpu(index, onKick, onDispose, onEnter) : throw new InvalidOperationException("no more vCPUs");

        public void Dispose() => onDispose?.Invoke(-1);
    }

    private sealed class Cpu(int index, Action<int>? onKick, Action<int>? onDispose, Action<X86Exit>? onEnter) : IX86Cpu
    {
        private readonly X86Exit _exit = new();

        public int Index => index;
        public ExecutionControls Controls { get; set; } = new();
        public CpuActivity Activity { get; set; }
        public bool InterruptWindowOpen => false;
        public bool NmiWindowOpen => false;
        public EngineCounters Counters => default;

        public X86Exit Enter()
        {
            if (onEnter is null) throw new InvalidOperationException("the VM is not to be started");
            _exit.Reason = ExitReason.Kicked;
            onEnter(_exit);
            return _exit;
        }

        public void Kick() => onKick?.Invoke(index);

        public void InjectInterrupt(byte vector) => throw new InvalidOperationException("the window is closed");
        public void InjectNmi() => throw new InvalidOperationException("the window is closed");
        public void InjectException(byte vector, uint? errorCode) => throw new InvalidOperationException("no exit asks for it");

        public void ReadState(CpuState state)
        {
        }

        public void WriteState(CpuState state)
        {
        }

        public void Reset()
        {
        }

        public void Dispose() => onDispose?.Invoke(index);
    }
}
