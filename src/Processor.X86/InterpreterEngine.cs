using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>The <c>interp</c> engine: every instruction is interpreted. Runs on any x86-64 host; the reference for the other engines.</summary>
public sealed class InterpreterEngine : IEngine
{
    public string Name => "interp";

    public int MaxCpus => ProcessorGroup.MostMembers;

    public EngineProbe Probe() => new(true, "software processor, interpreted");

    public IEngineVm CreateVm(GuestMemory memory, CpuModel model, VirtualClock clock) => new Vm(memory, model, clock);

    private sealed class Vm(GuestMemory memory, CpuModel model, VirtualClock clock) : IEngineVm
    {
        private readonly List<InterpretedCpu> _cpus = [];
        private readonly ProcessorGroup _group = new();
        private bool _a20 = true;

        public IVirtualCpu CreateCpu(int index)
        {
            var cpu = new InterpretedCpu(index, new Processor(memory, model, clock, _group) { CpuIndex = index });
            cpu.SetA20(_a20);
            _cpus.Add(cpu);
            return cpu;
        }

        public bool SetA20(bool pass)
        {
            _a20 = pass;
            foreach (InterpretedCpu cpu in _cpus) cpu.SetA20(pass);
            return true;
        }

        public void Dispose()
        {
            foreach (InterpretedCpu cpu in _cpus) cpu.Dispose();
        }
    }
}
