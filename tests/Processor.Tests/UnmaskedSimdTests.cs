using System.Text;
using Bunraku.Processor.X86;
using Bunraku.Silicon;
using Iced.Intel;

namespace Bunraku.Processor.Tests;

/// <summary>
/// SSE and AVX floating point with unmasked exceptions against the host's silicon: every form, every combination of MXCSR's masks, operands whose results
/// overflow, are tiny or inexact. Intel SDM vol. 1, "SIMD Floating-Point Exceptions"; MXCSR and the destination behind #XM are compared bit by bit.
/// </summary>
[Collection("silicon")]
public sealed class UnmaskedSimdTests(SiliconFixture silicon)
{
    private const int Batches = 2;

    /// <summary>Engine, CPUID feature of the forms.</summary>
    public static TheoryData<string, string> Groups()
    {
        var data = new TheoryData<string, string>();
        if (SiliconFixture.WhyNot is { } reason)
        {
            data.Add("none", "NOT RUN: " + reason);
            return data;
        }
        foreach (string engine in SiliconFixture.Engines.Select(e => e.Name))
            foreach (string group in Forms.Select(Group).Distinct().Order()) data.Add(engine, group);
        return data;
    }

    private static IEnumerable<Code> Forms => FormList.For(SiliconFixture.Model, 64)
        .Where(c => ThunkForm.Get(c) is { IsSimd: true, IsFloat: true } && Exclusions.Reason(c) == null);

    private static string Group(Code code) => code.CpuidFeatures()[0].ToString();

    [Theory]
    [MemberData(nameof(Groups))]
    public void UnmaskedExceptionsAreTheSilicons(string engine, string group)
    {
        if (SiliconFixture.WhyNot is not null) return;
        (_, Comparer comparer) = silicon.For(engine);
        // A batch of all masks, ten times.
        var tester = new FormTester(comparer, SiliconFixture.Model) { Encodings = 16, TrialsPerEncoding = 40, Unmasked = true };
        var report = new StringBuilder();
        int failed = 0;
        foreach (Code code in Forms.Where(c => Group(c) == group))
        {
            var differences = new List<Difference>();
            for (ulong seed = 1; seed <= Batches && differences.Count == 0; seed++)
                Assert.True(tester.Run(code, 64, seed, differences), $"no encoding of {code} could be made");
            if (differences.Count > 0 && ++failed <= 10) report.Append($"{code}:\n  {differences[0]}\n");
        }
        Assert.True(failed == 0, $"{failed} forms differ\n{report}");
    }
}
