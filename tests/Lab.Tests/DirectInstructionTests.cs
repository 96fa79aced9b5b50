using System.Text.Json;
using Bunraku.Cli;
using Bunraku.Lab.PopekGoldberg;
using Bunraku.Processor.X86;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Lab.Tests;

/// <summary>Sensitive instructions in programs that run directly: docs/direct.md, "What must be equal".</summary>
public sealed class DirectInstructionTests(ExperimentFixture fixture) : IClassFixture<ExperimentFixture>
{
    private static DirectSubject Subject => new(new TranslatorEngine(threshold: 1) { Direct = DirectUse.Always }, null);

    private DirectReport Run(params Probe[] probes) => DirectAnalysis.Run(Subject, new InterpreterEngine(), ExperimentFixture.Model,
        probes.Length > 0 ? probes : [.. ProbeCatalog.All.Where(p => fixture.Report.Processors[1].Escaping.Contains(p.Name))]);

    [DirectFact]
    public void No_instruction_shows_the_host_where_it_stands_as_code()
    {
        DirectReport report = Run();
        Assert.Null(report.WhyNot);
        Assert.All(fixture.Report.Processors[1].Escaping, n => Assert.Contains(report.Instructions, i => i.Name == n));
        DirectInstruction[] usual = [.. report.Instructions.Where(i => ProbeCatalog.DirectLeaks.All(p => p.Name != i.Name))];
        Assert.All(usual, i => Assert.Equal((i.Name, null), (i.Name, i.Difference)));
        Assert.All(usual, i => Assert.NotEqual((i.Name, DirectWay.Leak), (i.Name, i.Way)));
    }

    [DirectFact]
    public void Each_instruction_goes_the_way_that_the_document_says()
    {
        Dictionary<string, DirectWay> ways = Run().Instructions.ToDictionary(i => i.Name, i => i.Way);
        Assert.All((string[])["SGDT", "SIDT", "SLDT", "STR", "SMSW", "LAR", "LSL", "VERR", "VERW", "INT 80h"],
            n => Assert.Contains(ways[n], (DirectWay[])[DirectWay.Guarded, DirectWay.Refused]));
        Assert.All((string[])["RDTSC", "RDTSCP"], n => Assert.Equal((n, DirectWay.Traps), (n, ways[n])));
        Assert.All((string[])["PUSHF", "POPF", "MOV r,CS", "MOV DS,r", "POP GS", "RET far", "IRET", "NOP"],
            n => Assert.Equal((n, DirectWay.Same), (n, ways[n])));
        Assert.NotEqual(DirectWay.Same, ways["RDPID"]);
        Assert.Equal(DirectWay.Translated, ways["PUSH CS"]); // of 32-bit programs
    }

    /// <summary>docs/direct.md, "What a program could see". A host that traps, or a way found to guard them, shows nothing.</summary>
    [DirectFact]
    public void What_the_hosts_processor_shows_is_told_as_a_leak()
    {
        DirectInstruction[] leaks = [.. Run().Instructions.Where(i => ProbeCatalog.DirectLeaks.Any(p => p.Name == i.Name))];
        Assert.Equal(ProbeCatalog.DirectLeaks.Count, leaks.Length);
        DirectInstruction sgdt = leaks.First(i => i.Name == "SGDT hidden");
        if (sgdt.Way is DirectWay.Same or DirectWay.Leak)
        {
            Assert.Equal(DirectWay.Leak, sgdt.Way);
            Assert.StartsWith("memory+100 ", sgdt.Difference);
        }
        // INT 80h stops the helper, whatever is lost on the way.
        Assert.Equal(DirectWay.Traps, leaks.First(i => i.Name == "INT80 hidden").Way);
    }

    [DirectFact]
    public void A_privileged_instruction_traps_as_on_the_reference()
    {
        DirectInstruction halt = Run(new Probe("HLT", a => a.hlt()), new Probe("ADD", a => a.add(eax, ecx))).Instructions[0];
        Assert.Equal((DirectWay.Traps, null), (halt.Way, halt.Difference));
    }

    [DirectFact]
    public void The_table_has_a_row_for_each_and_JSON_too()
    {
        ExperimentReport report = fixture.Report with { Direct = Run() };
        string[] lines = Print(report);
        foreach (DirectInstruction i in report.Direct!.Instructions)
            Assert.Contains(lines, l => l.StartsWith(i.Name.PadRight(12) + " " + i.Way.ToString().ToLowerInvariant(), StringComparison.Ordinal));
        using JsonDocument document = JsonDocument.Parse(report.ToJson());
        JsonElement[] instructions = [.. document.RootElement.GetProperty("direct").GetProperty("instructions").EnumerateArray()];
        Assert.Equal(report.Direct.Instructions.Select(i => i.Name), instructions.Select(i => i.GetProperty("name").GetString()));
    }

    [Fact]
    public void Where_programs_cannot_run_directly_one_line_says_why()
    {
        DirectReport none = DirectAnalysis.Run(new DirectSubject(null, "RDTSC cannot be made to trap"), new InterpreterEngine(), ExperimentFixture.Model, []);
        Assert.Contains("direct execution: NOT RUN (RDTSC cannot be made to trap)", Print(fixture.Report with { Direct = none }));
    }

    private static string[] Print(ExperimentReport report) => NarrowConsole.Lines(console => ReportTable.Write(report, console));
}
