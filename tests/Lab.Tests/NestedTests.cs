using System.Text.Json;
using System.Xml.Linq;
using Bunraku.Cli;
using Bunraku.Cli.CommandLine;
using Bunraku.Lab.Nested;

namespace Bunraku.Lab.Tests;

/// <summary>One run on every software engine, which the tests look at. It fails where two engines count differently.</summary>
public sealed class NestedFixture
{
    internal static readonly string[] Engines = ["interp", "bt", "check"];

    private readonly Lazy<NestedReport> _report = new(() => NestedExperiment.Run([.. KnownEngines.All.Where(e => Engines.Contains(e.Name))], measure: false));

    public NestedReport Report => _report.Value;
}

/// <summary>
/// What one exit becomes at L0. Which instructions of a guest exit is the manuals' affair; how many a hypervisor executes is seen where it is L1.
/// </summary>
public sealed class NestedTests(NestedFixture fixture) : IClassFixture<NestedFixture>
{
    private const string Shadowing = "VMCS shadowing", Assists = "virtual GIF, VMLOAD and VMSAVE";

    private NestedCase Case(string technique, string assistance, int level) =>
        fixture.Report.Cases.Single(c => (c.Technique, c.Assistance, c.Level) == (technique, assistance, level));

    /// <summary>
    /// Intel SDM vol. 3C, "Instructions That Cause VM Exits Unconditionally", "Instructions That Cause VM Exits Conditionally": VMRESUME always exits,
    /// VMREAD and VMWRITE unless a shadow VMCS answers. AMD APM vol. 2, "Instruction Intercepts", "Virtual GIF", "VMSAVE and VMLOAD Virtualization".
    /// </summary>
    [Theory]
    [InlineData("", "", 1, "L1 CPUID")]
    [InlineData("VMX", "", 2, "L2 CPUID")]
    [InlineData("VMX", "", 3, "L3 CPUID, L2 VMREAD x3, L2 VMWRITE, L2 VMRESUME")]
    [InlineData("VMX", Shadowing, 3, "L3 CPUID, L2 VMRESUME")]
    [InlineData("SVM", "", 2, "L2 CPUID")]
    [InlineData("SVM", "", 3, "L3 CPUID, L2 VMSAVE, L2 STGI, L2 CLGI, L2 VMLOAD, L2 VMRUN")]
    [InlineData("SVM", Assists, 3, "L3 CPUID, L2 VMRUN")]
    public void Instructions_exit_as_the_manuals_say(string technique, string assistance, int level, string sequence) =>
        Assert.Equal(sequence, string.Join(' ', NestedTables.Sequence(Case(technique, assistance, level))));

    [Fact]
    public void The_guest_is_answered_by_the_hypervisor_below_it_and_goes_on_behind_its_instruction() =>
        Assert.All(fixture.Report.Cases, c => Assert.Equal(c.Level - 1, c.Answered));

    /// <summary>XOR, DEC and JNZ; CPUID as well where it is not emulated inside.</summary>
    [Fact]
    public void The_guest_executes_its_loop() =>
        Assert.All(fixture.Report.Cases, c => Assert.Equal(c.Level == 1 ? 4ul : 3, c.Instructions[^1]));

    /// <summary>The same code handles the same exit at L1 and at L2; there what exits is emulated instead of executed.</summary>
    [Theory, InlineData("VMX", ""), InlineData("VMX", Shadowing), InlineData("SVM", ""), InlineData("SVM", Assists)]
    public void A_hypervisor_does_the_same_at_L2_as_at_L1(string technique, string assistance)
    {
        NestedCase inside = Case(technique, assistance, 3);
        Assert.Equal(Case(technique, "", 2).Instructions[0], inside.Instructions[1] + (ulong)inside.Exits.Where(e => e.Level == 2).Sum(e => e.Count));
    }

    /// <summary>Every exit is L1's, and only that of L3 is L2's.</summary>
    [Fact]
    public void Each_hypervisor_sees_the_exits_above_it()
    {
        Assert.All(fixture.Report.Cases.Where(c => c.Level > 1), c => Assert.Equal(c.TotalExits, c.ExitsSeenAt(1)));
        Assert.All(fixture.Report.Cases, c => Assert.Equal(c.Level == 3 ? 1 : 0, c.ExitsSeenAt(2)));
        Assert.All(fixture.Report.Cases.Where(c => c.Level == 3), c => Assert.Equal(c.Exits.Sum(e => e.Count), c.Steps.Count(s => !s.IsExit)));
    }

    [Fact]
    public void All_software_engines_have_run_it_and_agree() =>
        Assert.Equal(NestedFixture.Engines.Order(), fixture.Report.Engines.Order());

    [Fact]
    public void The_table_has_a_line_for_each_case_and_fits_80_columns()
    {
        string[] lines = NarrowConsole.Lines(console => NestedTables.Write(fixture.Report, console));
        Assert.Contains(lines, l => l.StartsWith("L3, VMX                 6    6    1", StringComparison.Ordinal));
        Assert.Contains(lines, l => l.StartsWith("L3, VMX, assisted       2    2    1", StringComparison.Ordinal));
        Assert.All(fixture.Report.Cases, c => Assert.Single(lines, l => l == c.Name));
    }

    [Fact]
    public void JSON_and_picture_have_every_case_and_step()
    {
        using JsonDocument document = JsonDocument.Parse(fixture.Report.ToJson());
        JsonElement[] cases = [.. document.RootElement.GetProperty("cases").EnumerateArray()];
        Assert.Equal(fixture.Report.Cases.Select(c => c.TotalExits), cases.Select(c => c.GetProperty("totalExits").GetInt32()));
        XElement picture = XElement.Parse(NestedPicture.Draw(fixture.Report));
        string[] texts = [.. picture.Descendants().Where(e => e.Name.LocalName == "text").Select(e => e.Value)];
        Assert.All(fixture.Report.Cases, c => Assert.Single(texts, t => t.StartsWith($"{c.Name}: {c.TotalExits} exit", StringComparison.Ordinal)));
        Assert.Equal(fixture.Report.Cases.Sum(c => c.Steps.Count), picture.Descendants().Count(e => e.Name.LocalName == "line"));
    }

    /// <summary>Measured once, so that it can be: the figures are nobody's affair here.</summary>
    [Fact]
    public void The_command_measures_and_names_engines_that_cannot()
    {
        Request request = CommandLineParser.Parse(["lab", "nested", "--engine", "interp", "--json", "/dev/null"]);
        var output = new StringWriter();
        Assert.Equal(0, NestedCommand.Run(Assert.IsType<Request.Nested>(request).Options, KnownEngines.All, output));
        Assert.Matches(@"(?m)^L2, SVM .* \d+\.\d\d$", output.ToString());
        var e = Assert.Throws<UsageException>(() => NestedCommand.Run(new NestedOptions(null, null, ["bochs"]), KnownEngines.All, output));
        Assert.StartsWith("--engine: ", e.Message);
    }
}
