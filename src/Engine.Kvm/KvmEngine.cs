using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Engine.Kvm;

/// <summary>The <c>kvm</c> engine: the guest runs on the host's hardware virtualization through /dev/kvm.</summary>
/// <remarks>Linux Documentation/virt/kvm/api.rst. I/O APIC, 8259A and PIT stay ours; the local APICs are in the kernel when the board asks for it.</remarks>
public sealed class KvmEngine : IX86Engine
{
    /// <inheritdoc/>
    public string Name => "kvm";

    /// <summary>
    /// Local APICs are taken into the kernel even where no hardware is behind KVM. Such a KVM has been seen to end an interrupt when it delivers it, so that
    /// priorities and level-triggered interrupts do not work; without this the board's local APICs are used there.
    /// </summary>
    public bool HoldsApicsWithoutHardware { get; init; }

    /// <summary>KVM decides for itself which instructions exit; what MONITOR and MWAIT do is its affair too.</summary>
    public ExecutionControls Intercepts { get; } = new(InterceptedInstructions.Mwait, 0, InterruptWindowExiting: true, NmiWindowExiting: true);

    /// <inheritdoc/>
    public bool UsesHostPaging => true;

    /// <inheritdoc/>
    public int MaxCpus => KvmHost.MaxCpus();

    /// <inheritdoc/>
    public EngineProbe Probe() => KvmHost.Probe();

    /// <inheritdoc/>
    /// <exception cref="KvmException">KVM refuses; the message names the request, the error and the remedy.</exception>
    public IX86Vm CreateVm(GuestMemory memory, CpuModel model, VirtualClock clock)
    {
        using KvmDescriptor kvm = KvmHost.TryOpen(out string problem) ?? throw new EngineException(problem);
        return new KvmVm(kvm, memory, model, clock) { MayHoldApics = HoldsApicsWithoutHardware || KvmHost.Backing() != KvmBacking.None };
    }
}
