using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>The software engines' part of one VM.</summary>
/// <param name="translateAfter">See <see cref="Processor"/>.</param>
/// <param name="sizes">Of each vCPU's caches.</param>
/// <param name="direct">Which programs run directly on the host's processor; null: none.</param>
internal sealed class SoftwareVm(GuestMemory memory, CpuModel model, VirtualClock clock, int translateAfter, CodeCacheSizes sizes,
    DirectSetup? direct = null) : IX86Vm
{
    private readonly List<InterpretedCpu> _cpus = [];
    private readonly ProcessorGroup _group = new();
    private bool _a20 = true;

    public bool HonoursPageRights => true;

    public IX86Cpu CreateCpu(int index)
    {
        var cpu = new InterpretedCpu(index, new Processor(memory, model, clock, _group, translateAfter, sizes, direct) { CpuIndex = index });
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
