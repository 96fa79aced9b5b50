using Bunraku.Engines;
using Bunraku.Hypervisor.X86.Paravirtual;

namespace Bunraku.Hypervisor.X86;

/// <summary>What an x86 VM is made with beyond engine, CPU model and memory.</summary>
public sealed record X86MachineOptions : VirtualMachineOptions
{
    /// <summary>Hz of the guest's TSC, which is the counter of virtual time; 0: the host's.</summary>
    public ulong TscFrequency
    {
        get => CounterFrequency;
        init => CounterFrequency = value;
    }

    /// <summary>
    /// Offer KVM's paravirtual interface, where the model says that there is a hypervisor: ours when the engine lets hypercalls exit, else the engine's own if
    /// it has one.
    /// </summary>
    public bool Paravirtual { get; init; } = true;

    /// <summary>The engine holds the local APICs, if it can: see <see cref="X86Machine.EngineApics"/>. For boards that know what to do then.</summary>
    public bool EngineApics { get; init; }
}

/// <summary>A virtual machine with x86 processors: what x86 has beside memory, vCPUs and timers. A board puts devices on its buses.</summary>
public sealed class X86Machine : VirtualMachine
{
    private readonly IX86Vm _engineVm;
    private readonly List<X86CpuThread> _cpus = [];

    /// <summary>A VM whose memory lies in one piece from address 0 on.</summary>
    /// <param name="engine">What runs the vCPUs.</param>
    /// <param name="model">The processor that the guest is to see.</param>
    /// <param name="memorySize">Bytes of RAM, a multiple of 4096.</param>
    /// <param name="cpus">Number of vCPUs, from 1.</param>
    /// <param name="options">The rest; null: the defaults.</param>
    /// <exception cref="Scheduling.CpuTimeException">The host does not give what <see cref="VirtualMachineOptions.CpuTime"/> asks for.</exception>
    public X86Machine(IX86Engine engine, CpuModel model, ulong memorySize, int cpus = 1, X86MachineOptions? options = null)
        : this(engine, model, GuestMemory.Flat(memorySize), cpus, options)
    {
    }

    /// <summary>A VM whose memory lies where its board wants it.</summary>
    /// <param name="engine">What runs the vCPUs.</param>
    /// <param name="model">The processor that the guest is to see.</param>
    /// <param name="memory">Where RAM lies.</param>
    /// <param name="cpus">Number of vCPUs, from 1.</param>
    /// <param name="options">The rest; null: the defaults.</param>
    /// <exception cref="Scheduling.CpuTimeException">The host does not give what <see cref="VirtualMachineOptions.CpuTime"/> asks for.</exception>
    public X86Machine(IX86Engine engine, CpuModel model, IReadOnlyList<MemoryRegion> memory, int cpus = 1, X86MachineOptions? options = null)
        : base(engine, memory, options ??= new X86MachineOptions())
    {
        try
        {
            KvmFeatures features = ParavirtualInterface.Offered;
            bool paravirtual = options.Paravirtual && model.Has(CpuFeature.Hypervisor)
                && (engine.Intercepts.Instructions & InterceptedInstructions.Hypercall) != 0;
            if (paravirtual)
                model = model with { Hypervisor = ParavirtualInterface.Describe(features, options.CpuTime.Realtime ? KvmHints.Realtime : KvmHints.None) };
            else if (options.Paravirtual) model = model with { Hypervisor = HypervisorInterface.OfEngine };
            _engineVm = engine.CreateVm(Memory, model, Clock);
            Use(_engineVm);
            Model = _engineVm.NarrowedModel ?? model;
            if (options.EngineApics) EngineApics = _engineVm.HoldLocalApics();
            for (int n = 0; n < cpus; n++)
            {
                var cpu = new X86CpuThread(this, _engineVm.CreateCpu(n));
                _cpus.Add(cpu);
                Add(cpu);
            }
            if (!paravirtual) return;
            Paravirtual = new ParavirtualInterface(this, features);
            Msrs.Add(Paravirtual);
            Add(Paravirtual);
            foreach (X86CpuThread cpu in _cpus)
            {
                cpu.Paravirtual = Paravirtual.Add(cpu);
                cpu.Cpu.Controls = cpu.Cpu.Controls with { Instructions = cpu.Cpu.Controls.Instructions | InterceptedInstructions.Hypercall };
            }
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>The processor as the guest sees it: what boots it and what stands around it must not use more.</summary>
    public CpuModel Model { get; }

    /// <summary>The I/O ports.</summary>
    public PortBus Ports { get; } = new();

    /// <summary>MSRs outside the processor.</summary>
    public MsrBus Msrs { get; } = new();

    /// <summary>The vCPUs, by number.</summary>
    public new IReadOnlyList<X86CpuThread> Cpus => _cpus;

    /// <summary>KVM's interface for the guest; null when the guest is offered none.</summary>
    public ParavirtualInterface? Paravirtual { get; }

    /// <summary>The local APICs, when the engine holds them; null: they are the board's.</summary>
    public IEngineApics? EngineApics { get; }

    /// <summary>Ways around exits; null when the engine has none.</summary>
    public IEngineShortcuts? Shortcuts => _engineVm.Shortcuts;

    /// <summary>
    /// A local APIC of the engine broadcasts an EOI: the vector. Set by the board before the start; called with <see cref="VirtualMachine.InterruptLock"/>
    /// held.
    /// </summary>
    public Action<byte>? EndOfInterrupt { get; set; }

    /// <summary>Where FERR# of the processors leads; null: nowhere. Set by the board before the start.</summary>
    public IInterruptLine? FloatingPointError { get; set; }

    /// <summary>Masks (false) or passes address line 20 for all vCPUs. Any thread.</summary>
    /// <param name="pass">Bit 20 of addresses is as software made it.</param>
    public void SetA20(bool pass) => _engineVm.SetA20(pass);

    /// <inheritdoc/>
    protected override string Architecture => "x86";

    /// <inheritdoc/>
    protected override IEnumerable<string> Features => Model.Features.Select(f => f.ToString());

    /// <inheritdoc/>
    protected override IEnumerable<IStateful> ArchitectureParts => Paravirtual?.Cpus ?? [];

    /// <inheritdoc/>
    protected override void BeforeResume() => Paravirtual?.NoteStopped();
}
