using System.Text;
using Bunraku.Engines;
using Bunraku.Platform;
using Bunraku.Silicon;
using Iced.Intel;

namespace Bunraku.Processor.Tests;

/// <summary>Every instruction form against the host's silicon: random and edge operands; registers, flags, memory, faults and their state compared.</summary>
[Collection("silicon")]
public sealed class InstructionFormTests(SiliconFixture silicon)
{
    private const ulong Seed = 1;

    /// <summary>Engine, bits of the code segment, CPUID feature.</summary>
    public static TheoryData<string, int, string> Groups()
    {
        var data = new TheoryData<string, int, string>();
        if (SiliconFixture.WhyNot is { } reason)
        {
            data.Add("none", 0, "NOT RUN: " + reason);
            return data;
        }
        foreach (IX86Engine engine in SiliconFixture.Engines)
        {
            foreach (int bitness in (int[])[64, 32, 16])
            {
                foreach (string group in FormList.For(SiliconFixture.Model, bitness).Where(c => Exclusions.Reason(c) == null).Select(Group).Distinct().Order())
                    data.Add(engine.Name, bitness, group);
            }
        }
        return data;
    }

    private static string Group(Code code) => code.CpuidFeatures()[0].ToString();

    [Theory]
    [MemberData(nameof(Groups))]
    public void FormsDoWhatTheSiliconDoes(string engine, int bitness, string group)
    {
        if (SiliconFixture.WhyNot is not null) return;
        (_, Comparer comparer) = silicon.For(engine);
        var tester = new FormTester(comparer, SiliconFixture.Model);
        var report = new StringBuilder();
        int failed = 0;
        foreach (Code code in FormList.For(SiliconFixture.Model, bitness).Where(c => Group(c) == group && Exclusions.Reason(c) == null))
        {
            var differences = new List<Difference>();
            Assert.True(tester.Run(code, bitness, Seed, differences), $"no encoding of {code} could be made");
            if (!comparer.SiliconExecuted && !Exclusions.AlwaysUndefined(SiliconFixture.Model, code, bitness))
                differences.Add(new Difference(TestCase.Empty, "this host's processor does not have it: the form cannot be compared here"));
            if (differences.Count == 0) continue;
            failed++;
            if (failed <= 20) report.Append($"{code}:\n  {differences[0]}\n");
        }
        Assert.True(failed == 0, $"{failed} forms differ, the seed is {Seed}\n{report}");
    }

    /// <summary>
    /// A bit string and what a gather reads may lie far from the operand's address: trials must not meet what this process has there and the guest has not.
    /// </summary>
    [Theory]
    [InlineData(32)]
    [InlineData(64)]
    public void Bit_strings_and_gathers_do_not_reach_memory_of_this_process(int bitness)
    {
        if (SiliconFixture.WhyNot is not null) return;
        using var memory = new LowMemory(512 << 20); // no page of it is touched unless a trial does
        (_, Comparer comparer) = silicon.For("interp");
        var tester = new FormTester(comparer, SiliconFixture.Model);
        foreach (Code code in FormList.For(SiliconFixture.Model, bitness)
            .Where(c => c.Mnemonic() is Mnemonic.Bt or Mnemonic.Bts or Mnemonic.Btr or Mnemonic.Btc || IsGather(c)))
        {
            for (ulong seed = Seed; seed < Seed + 20; seed++)
            {
                var differences = new List<Difference>();
                tester.Run(code, bitness, seed, differences);
                Assert.True(differences.Count == 0, differences.FirstOrDefault()?.ToString());
            }
        }
    }

    private static bool IsGather(Code code)
    {
        OpCodeInfo form = code.ToOpCode();
        return form.OpCount > 1 && form.GetOpKind(1) is >= OpCodeOperandKind.mem_vsib32x and <= OpCodeOperandKind.mem_vsib64z;
    }
}
