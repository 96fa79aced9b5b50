using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Engine.Kvm;

/// <summary>The <c>kvm</c> engine: the guest runs on the host's hardware virtualization through /dev/kvm.</summary>
/// <remarks>Linux Documentation/virt/kvm/api.rst. Interrupt controllers and timers stay ours: no irqchip is created in the kernel.</remarks>
public sealed class KvmEngine : IEngine
{
    public string Name => "kvm";

    /// <summary>KVM decides for itself which instructions exit; what MONITOR and MWAIT do is its affair too.</summary>
    public ExecutionControls Intercepts { get; } = new(InterceptedInstructions.Mwait, 0, InterruptWindowExiting: true, NmiWindowExiting: true);

    public EngineProbe Probe() => KvmHost.Probe();

    /// <exception cref="KvmException">KVM refuses; the message names the request, the error and the remedy.</exception>
    public IEngineVm CreateVm(GuestMemory memory, CpuModel model, VirtualClock clock)
    {
        using KvmDescriptor kvm = KvmHost.TryOpen(out string problem) ?? throw new InvalidOperationException(problem);
        return new KvmVm(kvm, memory, model, clock);
    }
}
