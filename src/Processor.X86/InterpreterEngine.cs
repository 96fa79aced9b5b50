using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>The <c>interp</c> engine: every instruction is interpreted. Runs on any x86-64 host; the reference for the other engines.</summary>
public sealed class InterpreterEngine : IEngine
{
    public string Name => "interp";

    public EngineProbe Probe() => new(true, "software processor, interpreted");

    public IEngineVm CreateVm(GuestMemory memory, CpuModel model, VirtualClock clock) => new Vm(memory, model, clock);

    private sealed class Vm(GuestMemory memory, CpuModel model, VirtualClock clock) : IEngineVm
    {
        private readonly List<InterpretedCpu> _cpus = [];

        public IVirtualCpu CreateCpu(int index)
        {
            var cpu = new InterpretedCpu(index, new Processor(memory, model, clock) { CpuIndex = index });
            _cpus.Add(cpu);
            return cpu;
        }

        public void Dispose()
        {
            foreach (InterpretedCpu cpu in _cpus) cpu.Dispose();
        }
    }
}
