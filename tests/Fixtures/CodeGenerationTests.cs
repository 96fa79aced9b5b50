using Bunraku.Engines;
using Bunraku.Processor.X86;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>Code that does not fit into the caches of the translator at once: it goes on being right, and the caches grow as far as they may.</summary>
public sealed class CodeGenerationTests
{
    private const int Rounds = 30;

    /// <summary>Functions that each add another number, called in turns.</summary>
    [Theory]
    [InlineData(3, false), InlineData(40, true), InlineData(300, true)]
    public void Functions_in_turns_are_right_and_get_another_generation_when_they_do_not_fit(int functions, bool grows)
    {
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            Label[] labels = [.. Enumerable.Range(0, functions).Select(_ => a.CreateLabel())];
            Label again = a.CreateLabel();
            a.xor(eax, eax);
            a.mov(ecx, Rounds);
            a.Label(ref again);
            foreach (Label label in labels) a.call(label);
            a.dec(ecx);
            a.jne(again);
            a.hlt();
            for (int n = 0; n < functions; n++)
            {
                a.Label(ref labels[n]);
                a.add(eax, n + 1);
                a.ret();
            }
        });
        g.On(new TranslatorEngine(threshold: 1) { Sizes = CodeCacheSizes.Tiny });
        Assert.Equal((ulong)(Rounds * functions * (functions + 1) / 2), g.Run(TestedEngines.TinyCaches).Done().State.Gpr[0]);
        Assert.Equal((ulong)(grows ? CodeCacheSizes.Tiny.MostGenerations : CodeCacheSizes.Tiny.Generations), Count(g, "generations"));
        ulong givenUp = Count(g, "given up for translated code") + Count(g, "given up for decoded operations");
        if (functions > 100) Assert.InRange(givenUp, (ulong)Rounds, ulong.MaxValue);
    }

    private static ulong Count(Guest g, string name) => g.Cpu.Execution!.Counts.Single(c => c.Name == name).Value;
}
