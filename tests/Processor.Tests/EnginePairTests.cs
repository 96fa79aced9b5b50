using Bunraku.Differential;
using Bunraku.Engines;
using Bunraku.Processor.X86;
using Bunraku.Silicon;

namespace Bunraku.Processor.Tests;

/// <summary>
/// Random programs on each engine beside the reference: registers, memory, exceptions, exits and counts of instructions compared. <c>tests/fuzz-engines</c>
/// runs longer.
/// </summary>
public sealed class EnginePairTests
{
    private const ulong FirstSeed = 1;

    private static readonly CpuModel[] s_models = [HostModel.Amd, HostModel.Intel];

    /// <summary>Engine, mode, vendor of the CPU model: what a vendor's processors do, both engines do on every host.</summary>
    public static TheoryData<string, ProgramMode, string> Pairs()
    {
        var data = new TheoryData<string, ProgramMode, string>();
        foreach (IX86Engine engine in SoftwareEngines.All)
        {
            foreach (ProgramMode mode in Enum.GetValues<ProgramMode>())
            {
                foreach (CpuModel model in s_models) data.Add(engine.Name, mode, model.Vendor);
            }
        }
        return data;
    }

    [Theory]
    [MemberData(nameof(Pairs))]
    public void RandomProgramsDoTheSameOnBothEngines(string engine, ProgramMode mode, string vendor)
    {
        const ulong programs = 60;
        using var fuzzer = new ProgramFuzzer(SoftwareEngines.Find(engine), SoftwareEngines.Reference, s_models.Single(m => m.Vendor == vendor)) { Mode = mode };
        for (ulong seed = FirstSeed; seed < FirstSeed + programs; seed++)
        {
            string? difference = fuzzer.Run(seed);
            Assert.True(difference == null, difference);
        }
        // Programs that end at once would compare nothing.
        Assert.InRange(fuzzer.Retired, programs * 2000, ulong.MaxValue);
        Assert.InRange(fuzzer.Exceptions, programs, ulong.MaxValue);
    }

    /// <summary>Code is given up every few blocks, for each of the reasons that a program can give.</summary>
    [Theory]
    [MemberData(nameof(Pairs))]
    public void RandomProgramsDoTheSameWhileCachesAreFullAllTheTime(string engine, ProgramMode mode, string vendor)
    {
        const ulong programs = 12;
        CpuModel model = s_models.Single(m => m.Vendor == vendor);
        using var fuzzer = new ProgramFuzzer(SoftwareEngines.Find(engine, sizes: CodeCacheSizes.Tiny), SoftwareEngines.Reference, model) { Mode = mode };
        for (ulong seed = FirstSeed; seed < FirstSeed + programs; seed++)
        {
            string? difference = fuzzer.Run(seed);
            Assert.True(difference == null, difference);
        }
        Assert.InRange(fuzzer.CodeFlushes, programs / 2, ulong.MaxValue);
    }

    [Fact]
    public void AnInstructionThatOneEngineExecutesDifferentlyIsFoundAndReduced()
    {
        using var fuzzer = new ProgramFuzzer(new WithoutFeature(CpuFeature.Movbe), SoftwareEngines.Reference, SiliconFixture.Model);
        string? difference = null;
        for (ulong seed = FirstSeed; difference == null; seed++)
        {
            Assert.True(seed < 2000, "no difference was found");
            string? found = fuzzer.Run(seed);
            if (found?.Contains("reduced", StringComparison.Ordinal) == true) difference = found;
        }
        // CPUID differs, too.
        Assert.True(difference.Contains("movbe", StringComparison.Ordinal) || difference.Contains("cpuid", StringComparison.Ordinal), difference);
        Assert.InRange(difference.Count(c => c == '\n'), 5, 60);
    }

    /// <summary>The reference engine with a processor that lacks a feature which the model has.</summary>
    private sealed class WithoutFeature(CpuFeature feature) : IX86Engine
    {
        public string Name => "defective";
        public EngineProbe Probe() => SoftwareEngines.Reference.Probe();
        public IX86Vm CreateVm(GuestMemory memory, CpuModel model, VirtualClock clock) =>
            SoftwareEngines.Reference.CreateVm(memory, model with { Features = model.Features.Where(f => f != feature).ToHashSet() }, clock);
    }
}
