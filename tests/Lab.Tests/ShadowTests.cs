using System.Text.Json;
using System.Xml.Linq;
using Bunraku.Cli;
using Bunraku.Cli.CommandLine;
using Bunraku.Lab.Shadow;
using Bunraku.Processor.X86;

namespace Bunraku.Lab.Tests;

/// <summary>One run of the experiment, which the tests look at.</summary>
public sealed class ShadowFixture
{
    private readonly Lazy<ShadowReport> _report = new(() =>
        ShadowExperiment.Run(new TranslatorEngine(threshold: 1) { Direct = DirectUse.Always }, CpuModels.Parse("max")));

    public ShadowReport Report => _report.Value;
}

/// <summary>The shadow of a program's page table: what comes, what goes, and when.</summary>
public sealed class ShadowTests(ShadowFixture fixture) : IClassFixture<ShadowFixture>
{
    private ShadowReport Report => fixture.Report;
    private StepReport Step(string what) => Report.Steps.Single(s => s.What.StartsWith(what, StringComparison.Ordinal));

    [DirectFact]
    public void Whatever_the_shadow_allows_the_guests_table_allows_unless_the_guest_has_told_nobody()
    {
        foreach (StepReport step in Report.Steps)
        {
            foreach (PageReport page in step.Pages.Where(p => p.Rights != ShadowRights.None))
            {
                Assert.Equal(page.Frame, page.ShadowFrame);
                bool isToBeCompared = page.Name == "beside" && (step == Step("clears an accessed flag") || step == Step("reads that page at once"));
                ulong needed = PagingBits.Present | PagingBits.User | (isToBeCompared ? 0 : PagingBits.Accessed);
                if ((page.Rights & ShadowRights.Write) != 0) needed |= PagingBits.Writable | PagingBits.Dirty;
                Assert.Equal(needed, page.Entry & needed);
                if ((page.Rights & ShadowRights.Execute) != 0) Assert.Equal(0ul, page.Entry & PagingBits.ExecuteDisable);
                // Never both: who writes code is to be noticed.
                Assert.NotEqual(ShadowRights.Write | ShadowRights.Execute, page.Rights & (ShadowRights.Write | ShadowRights.Execute));
            }
        }
    }

    [DirectFact]
    public void Pages_come_with_the_first_access_and_become_writable_with_the_first_write()
    {
        StepReport begin = Report.Steps[0], reads = Step("reads data"), writes = Step("writes to the data");
        Assert.All(begin.Pages, p => Assert.Equal("none", p.Shadow));
        Assert.Equal(("r", "rw"), (reads["data"].Shadow, reads["beside"].Shadow));
        Assert.Equal("rw", writes["data"].Shadow);
        Assert.Equal(1ul, writes.Count("left for a page"));
        Assert.Equal("rw", Step("writes to it")["copied"].Shadow);
        Assert.Equal("rw", Step("writes to a page that is not there")["absent"].Shadow);
    }

    [DirectFact]
    public void Sensitive_code_is_guarded_as_far_as_the_breakpoints_go_and_else_refused()
    {
        StepReport once = Step("calls code that shows the task register"), often = Step("calls code that does so");
        if (!once["guarded"].Refused)
        {
            Assert.Equal("rx guarded", once["guarded"].Shadow);
            Assert.Equal([1ul], once["guarded"].Guards);
            Assert.Equal(1ul, once.Count("left for a guarded place"));
        }
        Assert.True(often["refused"].Refused);
        Assert.Equal("none refused", often["refused"].Shadow);
        Assert.Equal(1ul, often.Count("pages of code refused"));
    }

    [DirectFact]
    public void A_page_that_becomes_code_cannot_be_written_to_unnoticed() =>
        Assert.Equal(["rw", "rx", "r"], new[] { "writes code", "calls what", "writes to that code" }.Select(s => Step(s)["made"].Shadow));

    [DirectFact]
    public void INVLPG_drops_a_page_and_a_cleared_flag_does_when_the_tables_are_compared()
    {
        StepReport remaps = Step("gives the data another frame");
        Assert.Equal(("none", 1ul), (remaps["data"].Shadow, remaps.Count("pages dropped")));
        Assert.Equal(remaps["data"].Frame, Step("reads the data, which")["data"].ShadowFrame);
        Assert.Equal("rw", Step("clears an accessed flag")["beside"].Shadow);
        Assert.Equal("none", Step("a second later")["beside"].Shadow);
    }

    [DirectFact]
    public void A_shadow_stays_while_another_space_is_in_force_and_goes_with_a_flush()
    {
        StepReport before = Step("a second later"), there = Step("switches to another"), back = Step("switches back"), flush = Step("loads CR3");
        Assert.NotEqual(before.Root, there.Root);
        Assert.All(there.Pages, p => Assert.Equal("none", p.Shadow));
        Assert.Equal(2, back.Spaces);
        Assert.Equal(before.Pages.Select(p => p.Shadow), back.Pages.Select(p => p.Shadow));
        Assert.Equal(1, flush.Spaces);
        Assert.All(flush.Pages, p => Assert.Equal("none", p.Shadow));
    }

    [DirectFact]
    public void The_table_names_each_step_and_fits_80_columns()
    {
        string[] lines = NarrowConsole.Lines(console => ShadowTables.Write(Report, console));
        for (int n = 0; n < Report.Steps.Count; n++) Assert.Single(lines, l => l.StartsWith($"{n}. ", StringComparison.Ordinal));
        Assert.Contains("   401000 data     PWUADNX 101000   rw   101000", lines);
    }

    [DirectFact]
    public void JSON_and_picture_have_every_step_and_page()
    {
        using JsonDocument document = JsonDocument.Parse(Report.ToJson());
        JsonElement[] steps = [.. document.RootElement.GetProperty("steps").EnumerateArray()];
        Assert.Equal(Report.Steps.Select(s => s.What), steps.Select(s => s.GetProperty("what").GetString()));
        Assert.Equal("PWUADNX", steps[3].GetProperty("pages")[1].GetProperty("flags").GetString());
        XElement picture = XElement.Parse(ShadowPicture.Draw(Report));
        string[] texts = [.. picture.Descendants().Where(e => e.Name.LocalName == "text").Select(e => e.Value)];
        Assert.All(Report.Steps, s => Assert.Contains(texts, t => t.EndsWith(s.What, StringComparison.Ordinal)));
        Assert.All(Report.Steps[0].Pages, p => Assert.Equal(2, texts.Count(t => t == $"{p.Linear:X}")));
    }

    /// <summary>An engine without shadows, and one that does not run programs directly.</summary>
    [Fact]
    public void Without_direct_execution_there_is_one_line()
    {
        foreach (IX86Engine engine in (IX86Engine[])[new InterpreterEngine(), new TranslatorEngine()])
        {
            var e = Assert.Throws<InvalidOperationException>(() => ShadowExperiment.Run(engine, CpuModels.Parse("max")));
            Assert.Equal($"engine '{engine.Name}' has no shadow tables", e.Message);
        }
    }

    [Fact]
    public void Where_programs_cannot_run_directly_the_command_says_why()
    {
        const string reason = "RDTSC cannot be made to trap";
        var e = Assert.Throws<CannotStartException>(() => ShadowCommand.Run(new ShadowOptions(null, null), () => reason, TextWriter.Null));
        Assert.Equal("programs cannot run directly on this host: " + reason, e.Message);
    }

    [Fact]
    public void Options_are_read_and_files_made_before_anything_runs()
    {
        ShadowOptions options = Assert.IsType<Request.Shadow>(CommandLineParser.Parse(["lab", "shadow", "--json", "a", "--picture", "b"])).Options;
        Assert.Equal(("a", "b"), (options.Json, options.Picture));
        var e = Assert.Throws<CannotStartException>(() => ShadowCommand.Run(new ShadowOptions(null, "/nonexistent/x.svg"), TextWriter.Null));
        Assert.StartsWith("--picture: cannot write /nonexistent/x.svg", e.Message);
    }
}
