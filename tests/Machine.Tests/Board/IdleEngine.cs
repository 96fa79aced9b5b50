using Bunraku.Engines;

namespace Bunraku.Machine.Tests.Board;

/// <summary>An engine whose guest does nothing: tests hand exits to the hypervisor themselves.</summary>
/// <param name="onKick">Told of each kick, with the number of the vCPU.</param>
/// <param name="onDispose">Told of the end of each vCPU.</param>
internal sealed class IdleEngine(Action<int>? onKick = null, Action<int>? onDispose = null) : IEngine
{
    public static readonly CpuModel Model =
        new("idle", "GenuineIntel", 6, 1, 1, "Idle", new HashSet<CpuFeature> { CpuFeature.Apic, CpuFeature.X2apic, CpuFeature.TscDeadline, CpuFeature.Lm });

    public string Name => "idle";

    public EngineProbe Probe() => new(true, "does nothing");

    public IEngineVm CreateVm(GuestMemory memory, CpuModel model, VirtualClock clock) => new Vm(onKick, onDispose);

    private sealed class Vm(Action<int>? onKick, Action<int>? onDispose) : IEngineVm
    {
        public IVirtualCpu CreateCpu(int index) => new Cpu(index, onKick, onDispose);

        public void Dispose()
        {
        }
    }

    private sealed class Cpu(int index, Action<int>? onKick, Action<int>? onDispose) : IVirtualCpu
    {
        public int Index => index;
        public ExecutionControls Controls { get; set; } = new();
        public CpuActivity Activity { get; set; }
        public bool InterruptWindowOpen => false;
        public bool NmiWindowOpen => false;
        public EngineCounters Counters => default;
        public VmExit Enter() => throw new InvalidOperationException("the VM is not to be started");

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
