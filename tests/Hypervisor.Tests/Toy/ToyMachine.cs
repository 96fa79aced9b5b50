using Bunraku.Engines;

namespace Bunraku.Hypervisor.Tests.Toy;

/// <summary>The engine of the toy processor.</summary>
internal sealed class ToyEngine : IEngine
{
    public string Name => "toy";

    public int MaxCpus => 8;

    public EngineProbe Probe() => new(true, "a toy");

    public ToyVm CreateVm(GuestMemory memory) => new(memory);
}

/// <summary>The engine's part of one VM.</summary>
internal sealed class ToyVm(GuestMemory memory) : IEngineVm
{
    public ToyCpu CreateCpu(int index) => new(index, memory);

    IVirtualCpu IEngineVm.CreateCpu(int index) => CreateCpu(index);

    public void Dispose()
    {
    }
}

/// <summary>
/// The toy's part of the run loop: events wake a vCPU and are counted by it; call 1 starts vCPU 1, every call is noted and answered with twice what it was
/// given.
/// </summary>
internal sealed class ToyThread : CpuThread
{
    private readonly ToyMachine _vm;
    private readonly ToyCpu _cpu;
    private int _events;
    private volatile bool _start;

    public ToyThread(ToyMachine vm, ToyCpu cpu) : base(vm, cpu) => (_vm, _cpu) = (vm, cpu);

    /// <summary>An event for this vCPU. Any thread.</summary>
    public void Raise()
    {
        Interlocked.Increment(ref _events);
        Wake();
    }

    protected override bool TakeEvents()
    {
        if (_start && _cpu.Activity == CpuActivity.WaitForStartUp) _cpu.Activity = CpuActivity.Active;
        int count = Interlocked.Exchange(ref _events, 0);
        for (int n = 0; n < count; n++) _cpu.AddEvent();
        if (count > 0 && _cpu.Activity == CpuActivity.Halted) _cpu.Activity = CpuActivity.Active;
        return true;
    }

    protected override ExitAction HandleArchitectural(VmExit exit)
    {
        lock (_vm.Calls) _vm.Calls.Add((_cpu.Index, exit.Address, exit.Data));
        if (exit.Address == 1)
        {
            var other = (ToyThread)_vm.Cpus[1];
            other._start = true;
            other.Wake();
        }
        exit.Data *= 2;
        return ExitAction.Continue;
    }
}

/// <summary>A machine with toy processors: RAM in two pieces, and a <see cref="ToyDevice"/>.</summary>
internal sealed class ToyMachine : VirtualMachine
{
    /// <summary>Where the second piece of RAM lies.</summary>
    public const ulong HighMemory = 0x4000_0000;

    private const ulong PieceSize = 1 << 20;

    public ToyMachine(ulong[] program, int cpus = 1) : base(new ToyEngine(),
        [new(0, PieceSize, 0, false), new(HighMemory, PieceSize, PieceSize, false)], new VirtualMachineOptions { CounterFrequency = 1_000_000_000 })
    {
        var vm = new ToyVm(Memory);
        Use(vm);
        for (int n = 0; n < cpus; n++) Add(new ToyThread(this, vm.CreateCpu(n)));
        Device = new ToyDevice(this);
        for (int n = 0; n < program.Length; n++) Memory.TryWrite((ulong)n * 8, program[n]);
    }

    public ToyDevice Device { get; }

    /// <summary>Who called, with which number and what. Under its own lock.</summary>
    public List<(int Cpu, ulong Number, ulong A)> Calls { get; } = [];

    protected override string Architecture => "toy";
}
