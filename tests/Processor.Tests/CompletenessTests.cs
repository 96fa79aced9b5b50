using Bunraku.Processor.X86;
using Bunraku.Silicon;
using Iced.Intel;

namespace Bunraku.Processor.Tests;

/// <summary>Nothing that the processor can decode escapes the comparison with the silicon.</summary>
[Collection("silicon")]
public sealed class CompletenessTests(SiliconFixture silicon)
{
    private static readonly int[] s_modes = [64, 32, 16];

    [Theory]
    [InlineData(64)]
    [InlineData(32)]
    [InlineData(16)]
    public void EveryFormOfTheModelIsComparedOrExcludedWithAReason(int bitness)
    {
        (_, Comparer comparer) = silicon.For(SiliconFixture.Engines[0].Name);
        var tester = new FormTester(comparer, SiliconFixture.Model);
        var missing = FormList.For(SiliconFixture.Model, bitness).Where(c => Exclusions.Reason(c) == null && !tester.CanEncode(c, bitness));
        Assert.True(!missing.Any(), string.Join(", ", missing));
    }

    [Fact]
    public void EveryFormOfTheModelIsImplemented()
    {
        var missing =
            s_modes.SelectMany(b => FormList.For(SiliconFixture.Model, b)).Distinct().Where(c => !Exclusions.AlwaysUndefined(SiliconFixture.Model, c, 64)
            && Exclusions.Reason(c) is null).Where(c => !InstructionTable.Implements(c));
        Assert.True(!missing.Any(), string.Join(", ", missing));
    }

    [Fact]
    public void EveryImplementedFormIsInTheListOfForms()
    {
        HashSet<Code> listed = [.. s_modes.SelectMany(b => FormList.For(SiliconFixture.Model, b))];
        var unknown =
            Enum.GetValues<Code>().Where(c => InstructionTable.Implements(c) && !listed.Contains(c) && Exclusions.OtherModels(SiliconFixture.Model, c) == null);
        Assert.True(!unknown.Any(), string.Join(", ", unknown));
    }

    [Fact]
    public void NoExclusionIsInVain()
    {
        HashSet<Mnemonic> listed = [.. s_modes.SelectMany(b => FormList.For(SiliconFixture.Model, b)).Select(c => c.ToOpCode().Mnemonic)];
        Assert.DoesNotContain(Exclusions.Mnemonics, m => !listed.Contains(m));
    }
}
