using Bunraku.Engines;

namespace Bunraku.Machine.Tests.Board;

/// <summary>An engine whose guest does nothing: tests hand exits to the hypervisor themselves.</summary>
internal sealed class IdleEngine : IEngine
{
    public static readonly CpuModel Model =
        new("idle", "GenuineIntel", 6, 1, 1, "Idle", new HashSet<CpuFeature> { CpuFeature.Apic, CpuFeature.X2apic, CpuFeature.TscDeadline, CpuFeature.Lm });

    public string Name => "idle";

    public EngineProbe Probe() => new(true, "does nothing");

    public IEngineVm CreateVm(GuestMemory memory, CpuModel model, VirtualClock clock) => new Vm();

    private sealed class Vm : IEngineVm
    {
        public IVirtualCpu CreateCpu(int index) => new Cpu(index);

        public void Dispose()
        {
        }
    }

    private sealed class Cpu(int index) : IVirtualCpu
    {
        public int Index => index;
        public ExecutionControls Controls { get; set; } = new();
        public CpuActivity Activity { get; set; }
        public bool InterruptWindowOpen => false;
        public bool NmiWindowOpen => false;
        public EngineCounters Counters => default;
        public VmExit Enter() => throw new InvalidOperationException("the VM is not to be started");

        public void Kick()
        {
        }

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

        public void Dispose()
        {
        }
    }
}
