using System.Text.Json;
using Bunraku.Cli;
using Bunraku.Cli.CommandLine;
using Bunraku.Lab.Paging;

namespace Bunraku.Lab.Tests;

/// <summary>One run with a few workloads, which the tests look at.</summary>
public sealed class PagingFixture
{
    internal static readonly string[] Workloads = ["getppid", "churn"];

    private readonly Lazy<PagingReport> _report = new(() => PagingExperiment.Run(KnownEngines.All.First(e => e.Name == "bt"), [NestedVirtualization.Svm],
        Workloads, milliseconds: 20, progress: null, CancellationToken.None));

    public PagingReport Report => _report.Value;
}

/// <summary>What the manuals prescribe for walks, and KVM's own counts.</summary>
public sealed class PagingTests(PagingFixture fixture) : IClassFixture<PagingFixture>
{
    private PagingRun Nested => fixture.Report.Runs.Single(r => r.IsNested);
    private PagingRun Shadow => fixture.Report.Runs.Single(r => !r.IsNested);

    private static PagingRow Row(PagingRun run, string workload) => run.Rows.Single(r => r.Workload == workload);

    /// <summary>
    /// AMD APM vol. 2, "Nested Paging": up to four entries of the guest's, and up to four of the host's for each of their addresses and the last; of the host's
    /// only those whose result is not cached.
    /// </summary>
    [Fact]
    public void A_walk_in_two_dimensions_reads_up_to_24_entries()
    {
        foreach (PagingRow row in Nested.Rows.Where(r => r.Guest.Count > 0))
        {
            Assert.Equal(0ul, row.OneStage.Count);
            Assert.InRange(row.TwoStages.References, 1, 24);
        }
        Assert.True(Row(Nested, "churn").TwoStages.Count > 0);
    }

    /// <summary>AMD APM vol. 2, "Long-Mode Page Translation": four levels.</summary>
    [Fact]
    public void A_walk_of_the_shadow_reads_up_to_four()
    {
        foreach (PagingRow row in Shadow.Rows.Where(r => r.Guest.Count > 0))
        {
            Assert.Equal(0ul, row.TwoStages.Count);
            Assert.InRange(row.OneStage.References, 1, 4);
        }
    }

    [Fact]
    public void Writes_to_page_tables_trap_under_shadow_paging_alone()
    {
        Assert.All(Nested.Rows, r => Assert.Equal(0ul, r.PageTableWrites));
        PagingRow churn = Row(Shadow, "churn");
        Assert.True(churn.PageTableWrites > 0);
        // A page fault is an exit under shadow paging, whoever's it is in the end. KVM's count is read a moment earlier or later than ours.
        Assert.True(churn.Exits.GetValueOrDefault("Exception14") > churn.Reflected / 2);
        Assert.DoesNotContain("Exception14", Row(Nested, "churn").Exits.Keys);
    }

    [Fact]
    public void The_guest_computes_the_same_under_both() =>
        Assert.Equal(Nested.Rows.Select(r => (r.Workload, r.Checksum)), Shadow.Rows.Select(r => (r.Workload, r.Checksum)));

    [Fact]
    public void Table_and_JSON_have_every_workload()
    {
        string[] lines = NarrowConsole.Lines(console => PagingTables.Write(fixture.Report, console));
        Assert.All(PagingFixture.Workloads, w => Assert.Equal(2, lines.Count(l => l.StartsWith(w + " ", StringComparison.Ordinal))));
        using JsonDocument document = JsonDocument.Parse(fixture.Report.ToJson());
        JsonElement run = document.RootElement.GetProperty("runs")[1];
        Assert.False(run.GetProperty("isNested").GetBoolean());
        Assert.Equal(PagingFixture.Workloads, run.GetProperty("rows").EnumerateArray().Select(r => r.GetProperty("workload").GetString()));
    }

    [Fact]
    public void What_cannot_be_is_said_in_one_line()
    {
        Assert.Equal(["churn", "fork"], Options("--workloads", "churn,fork", "--nested", "vmx").Workloads);
        Assert.Equal([NestedVirtualization.Vmx, NestedVirtualization.Svm], Options().Techniques);
        Assert.StartsWith("--nested: 'off' is none of", Assert.Throws<UsageException>(() => Options("--nested", "off")).Message);
        var e = Assert.Throws<UsageException>(() => PagingCommand.Run(Options("--workloads", "churm"), KnownEngines.All, TextWriter.Null));
        Assert.StartsWith("--workloads: no workload 'churm'; there are ", e.Message);
        e = Assert.Throws<UsageException>(() => PagingCommand.Run(Options("--engine", "check"), KnownEngines.All, TextWriter.Null));
        Assert.StartsWith("--engine: 'check' shows nothing of guests inside its guests", e.Message);

        static PagingOptions Options(params string[] words) =>
            Assert.IsType<Request.Paging>(CommandLineParser.Parse(["lab", "paging", .. words])).Options;
    }
}
