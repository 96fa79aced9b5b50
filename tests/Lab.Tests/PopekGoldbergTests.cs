using System.Text.Json;
using Bunraku.Cli;
using Bunraku.Cli.CommandLine;
using Bunraku.Engines;
using Bunraku.Lab.PopekGoldberg;
using Bunraku.Processor.X86;
using Iced.Intel;
using Spectre.Console;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Lab.Tests;

/// <summary>One run of the experiment, which the tests look at.</summary>
public sealed class ExperimentFixture
{
    public static CpuModel Model => CpuModels.Parse("max,+hypervisor,+monitor");

    public ExperimentReport Report { get; } = Experiment.Run([new InterpreterEngine()], new InterpreterEngine(), Model);
}

/// <summary>Experiments on the host's processor and on the reference engine, against the manuals and the literature.</summary>
public sealed class PopekGoldbergTests(ExperimentFixture fixture) : IClassFixture<ExperimentFixture>
{
    private ExperimentReport Report => fixture.Report;
    private ProcessorReport Processor(bool umip) => Report.Processors.First(p => p.Engine == "interp" && p.Umip == umip);
    private ProcessorReport Host => Report.Processors.First(p => p.Engine == null);
    private static InstructionReport Find(ProcessorReport p, string name) => p.Instructions.First(i => i.Name == name);

    /// <summary>Instructions that this host cannot try: see <see cref="HostBench.Has32BitCode"/>.</summary>
    private static IReadOnlyList<string> WithoutSegment()
    {
        using var bench = new HostBench();
        return bench.Has32BitCode ? [] : [.. ProbeCatalog.All.Where(p => p.Bitness == 32).Select(p => p.Name)];
    }

    /// <summary>Intel SDM vol. 3A, "Control Registers", CR4.UMIP: "SGDT, SIDT, SLDT, SMSW, and STR".</summary>
    private static readonly string[] s_umip = ["SGDT", "SIDT", "SLDT", "SMSW", "STR"];

    [Fact]
    public void Every_instruction_was_observed_on_the_reference_engine()
    {
        Assert.All(Report.Processors, p => Assert.Empty(p.NotObserved));
        Assert.All(Report.Processors, p => Assert.Equal(ProbeCatalog.All.Count, p.Instructions.Count));
    }

    [Fact]
    public void UMIP_makes_just_its_five_instructions_privileged()
    {
        Assert.Equal(s_umip, Processor(umip: false).Escaping.Except(Processor(umip: true).Escaping).Order());
        Assert.Empty(Processor(umip: true).Escaping.Except(Processor(umip: false).Escaping));
        Assert.All(s_umip, n => Assert.Equal((false, true), (Find(Processor(false), n).Privileged, Find(Processor(true), n).Privileged)));
        Assert.Equal(s_umip, Processor(umip: false).DeprivilegedEscaping!.Except(Processor(umip: true).DeprivilegedEscaping!).Order());
    }

    [Fact]
    public void UMIP_changes_the_verdict_lines()
    {
        string[] lines = [.. Print(Report, 500).Split('\n').Where(l => l.StartsWith("interp", StringComparison.Ordinal) && l.Contains("virtualizable"))];
        Assert.Equal(2, lines.Length);
        Assert.All(s_umip, n => Assert.Contains($" {n},", lines[0]));
        Assert.All(s_umip, n => Assert.DoesNotContain($" {n},", lines[1]));
        Assert.StartsWith("interp with UMIP:", lines[1]);
    }

    /// <summary>
    /// J. S. Robin, C. E. Irvine, "Analysis of the Intel Pentium's Ability to Support a Secure Virtual Machine Monitor", USENIX Security 2000, section 3 (INT n
    /// always traps here: its gates belong to level 0).
    /// </summary>
    [Theory]
    [InlineData("SGDT"), InlineData("SIDT"), InlineData("SLDT"), InlineData("SMSW"), InlineData("PUSHF"), InlineData("POPF")]
    [InlineData("LAR"), InlineData("LSL"), InlineData("VERR"), InlineData("VERW"), InlineData("POP GS"), InlineData("PUSH CS"), InlineData("CALL far"),
        InlineData("JMP far"), InlineData("RET far"), InlineData("STR"), InlineData("MOV r,CS")]
    public void Sensitive_and_not_privileged_as_known_since_Robin_and_Irvine(string name)
    {
        InstructionReport i = Find(Processor(umip: false), name);
        Assert.True(i.IsSensitive);
        Assert.False(i.Privileged);
    }

    /// <summary>Intel SDM vol. 3A, "Privileged Instructions"; the ports and interrupt flag by I/O privilege level ("I/O Privilege Level" in vol. 1).</summary>
    [Theory]
    [InlineData("LGDT"), InlineData("LIDT"), InlineData("LLDT"), InlineData("LTR"), InlineData("LMSW"), InlineData("CLTS"), InlineData("INVD"),
        InlineData("WBINVD"), InlineData("INVLPG"), InlineData("HLT"), InlineData("RDMSR"), InlineData("WRMSR"), InlineData("RDPMC")]
    [InlineData("MOV CR0,r"), InlineData("MOV r,CR0"), InlineData("MOV CR3,r"), InlineData("MOV r,CR3"), InlineData("MOV CR4,r"), InlineData("MOV r,CR8"),
        InlineData("MOV DR7,r"), InlineData("MOV r,DR0"), InlineData("XSETBV"), InlineData("SWAPGS"), InlineData("SYSRET"), InlineData("INVPCID")]
    [InlineData("CLI"), InlineData("STI"), InlineData("IN"), InlineData("OUT")]
    public void Privileged_as_the_manual_lists_it(string name) => Assert.True(Find(Processor(umip: false), name).Privileged);

    [Theory]
    [InlineData("SIDT", "IDTR.base"), InlineData("SIDT", "IDTR.limit"), InlineData("SGDT", "GDTR.base"), InlineData("SLDT", "LDTR"), InlineData("STR", "TR"),
        InlineData("SMSW", "CR0"), InlineData("PUSHF", "RFLAGS"), InlineData("MOV r,CS", "CS"), InlineData("RDTSC", "time")]
    public void The_leaked_state_is_found_by_its_value(string name, string what) =>
        Assert.Contains(Find(Processor(umip: false), name).At(Analysis.User)!.Leaks, l => l.What == what);

    [Fact]
    public void POPF_ignores_the_interrupt_flag_at_user_level_on_silicon_too()
    {
        Assert.Equal(["IF"], Find(Processor(umip: false), "POPF").At(Analysis.User)!.Ignored);
        Assert.Equal(["IF"], Find(Host, "POPF").At(Analysis.User)!.Ignored);
    }

    /// <summary>
    /// Except where the host's system decides (CR4.UMIP, PCE, TSD, OSXSAVE; the hypervisor below) the silicon traps as the software processor does, with the
    /// same error code.
    /// </summary>
    [Fact]
    public void The_silicon_traps_where_the_software_processor_does()
    {
        string[] decided = [.. s_umip, "RDPMC", "RDTSC", "RDTSCP", "RDPID", "CPUID", "XGETBV", "VMCALL", "VMMCALL", "MONITOR", "MWAIT", "INVPCID"];
        foreach (InstructionReport i in Host.Instructions.Where(i => !decided.Concat(WithoutSegment()).Contains(i.Name)))
            Assert.Equal((i.Name, Find(Processor(umip: false), i.Name).At(Analysis.User)!.Executions[0].Trap),
                (i.Name, i.At(Analysis.User)!.Executions[0].Trap));
    }

    /// <summary>
    /// Linux enables UMIP where the processor has it and answers for it (arch/x86/kernel/umip.c); nothing else is answered by the system, but for CPUID, where
    /// a hypervisor below can.
    /// </summary>
    [Fact]
    public void What_the_hosts_system_answers_is_told_from_what_the_silicon_executes()
    {
        bool umip = File.ReadLines("/proc/cpuinfo").First(l => l.StartsWith("flags", StringComparison.Ordinal)).Split(' ').Contains("umip");
        Assert.All(Host.Instructions.Where(i => i.Name != "CPUID" && !s_umip.Contains(i.Name)),
            i => Assert.NotEqual(Analysis.Emulated, i.At(Analysis.User)!.Summary));
        Assert.All(s_umip, n => Assert.Equal(umip, Find(Host, n).Privileged));
        string[] decided = ["RDTSC", "RDTSCP", "RDPID", "CPUID", "XGETBV", "RDPMC", .. WithoutSegment()];
        Assert.Equal(Processor(umip).Escaping.Except(decided), Host.Escaping.Except(decided));
    }

    [Fact]
    public void The_control_is_innocuous()
    {
        foreach (ProcessorReport p in Report.Processors)
        {
            InstructionReport i = Find(p, ProbeCatalog.Control.Name);
            Assert.False(i.IsSensitive);
            Assert.False(i.Privileged);
        }
    }

    [Fact]
    public void A_name_decides_nothing()
    {
        Probe[] probes = [new("SIDT", a => a.add(ecx, edx)), new("ADD", a => a.pushfq()), new("SHL", a => a.hlt())];
        using var bench = new GuestBench(new InterpreterEngine(), ExperimentFixture.Model);
        ProcessorReport p = Analysis.Engine(bench, "interp", umip: false, probes);
        Assert.Equal(["ADD"], p.Escaping);
        Assert.False(Find(p, "SIDT").IsSensitive);
        Assert.True(Find(p, "SHL") is { IsSensitive: true, Privileged: true });
        using var host = new HostBench();
        Assert.Equal(["ADD"], Analysis.Host(host, "host", p, probes).Escaping);
    }

    [Fact]
    public void Without_its_unprivileged_instructions_the_processor_would_be_virtualizable()
    {
        Probe[] probes = [.. ProbeCatalog.All.Where(x => !Processor(umip: true).Escaping.Contains(x.Name))];
        using var bench = new GuestBench(new InterpreterEngine(), ExperimentFixture.Model);
        Assert.True(Analysis.Engine(bench, "interp", umip: true, probes).ClassicallyVirtualizable);
        Assert.False(Analysis.Engine(bench, "interp", umip: false, probes).ClassicallyVirtualizable);
    }

    [Fact]
    public async Task Faults_of_the_runtime_stay_its_own_during_and_after_the_native_part()
    {
        using var stop = new CancellationTokenSource();
        Task<int> other = Task.Run(() =>
        {
            int caught = 0;
            while (!stop.IsCancellationRequested || caught == 0)
            {
                caught += Caught();
                if (caught % 64 == 0) GC.Collect(0);
            }
            return caught;
        });
        using (var host = new HostBench())
        {
            for (int round = 0; round < 20; round++)
            {
                foreach (Probe probe in ProbeCatalog.All) Assert.NotEqual(Outcome.Failed, host.Run(probe).Outcome);
            }
        }
        await stop.CancelAsync();
        Assert.NotEqual(0, await other);
        Assert.Equal(1, Caught());

        static int Caught()
        {
            try
            {
                return Length(null);
            }
            catch (NullReferenceException)
            {
                return 1;
            }
        }

        [System.Runtime.CompilerServices.MethodImpl(System.Runtime.CompilerServices.MethodImplOptions.NoInlining)]
        static int Length(int[]? of) => of!.Length;
    }

    [Fact]
    public void In_80_columns_every_instruction_has_one_row_and_no_line_is_longer()
    {
        var twice = new ExperimentReport(Report.Date, Report.HostProcessor, Report.Model,
            [.. Report.Processors, .. Report.Processors.Skip(1).Select(p => p with { Name = "other", Engine = "other" })]);
        string[] narrow = Print(twice, 80).Split('\n'), wide = Print(twice, 500).Split('\n');
        Assert.All(narrow, l => Assert.True(l.TrimEnd().Length <= 80, l));
        foreach (Probe probe in ProbeCatalog.All)
        {
            Assert.Equal(2, Rows(narrow, probe.Name)); // a table for each engine
            Assert.Equal(1, Rows(wide, probe.Name)); // beside each other
        }

        static int Rows(string[] lines, string name) =>
            lines.TakeWhile(l => !l.StartsWith("NOT PRIVILEGED", StringComparison.Ordinal))
                .Count(l => l.StartsWith(name.PadRight(11) + " ", StringComparison.Ordinal));
    }

    [Theory]
    [InlineData(40), InlineData(80), InlineData(300)]
    public void A_pipe_gets_lines_of_its_width_without_blanks_at_their_ends(int width)
    {
        foreach (string line in Print(Report, width).Split('\n'))
        {
            Assert.Equal(line.TrimEnd(), line);
            Assert.InRange(line.Length, 0, width);
        }
        string narrow = Print(Report, width).Split("NOT PRIVILEGED")[0];
        foreach (string column in (string[])["HOST", "PRIV", "interp", "+UMIP", "CPL 1", "CPL 0", "EXIT"]) Assert.Contains(column, narrow);
    }

    private static string Print(ExperimentReport report, int width)
    {
        var text = new StringWriter { NewLine = "\n" };
        IAnsiConsole console = Consoles.For(text);
        console.Profile.Width = width;
        ReportTable.Write(report, console);
        return text.ToString();
    }

    [Fact]
    public void JSON_has_every_processor_and_instruction()
    {
        using JsonDocument document = JsonDocument.Parse(Report.ToJson());
        JsonElement processors = document.RootElement.GetProperty("processors");
        Assert.Equal(["host", "interp", "interp with UMIP"], processors.EnumerateArray().Select(p => p.GetProperty("name").GetString()));
        foreach (JsonElement p in processors.EnumerateArray())
        {
            Assert.False(p.GetProperty("classicallyVirtualizable").GetBoolean());
            Assert.Equal(ProbeCatalog.All.Select(x => x.Name), p.GetProperty("instructions").EnumerateArray().Select(i => i.GetProperty("name").GetString()!));
        }
        JsonElement popf = processors[1].GetProperty("instructions").EnumerateArray().First(i => i.GetProperty("name").GetString() == "POPF");
        Assert.Equal("ignored", popf.GetProperty("levels")[0].GetProperty("summary").GetString());
    }

    [Fact]
    public void An_engine_that_gives_up_yields_one_line_and_no_verdict()
    {
        var model = ExperimentFixture.Model;
        ExperimentReport report = Experiment.Run([new BrokenEngine()], new BrokenEngine(), model);
        Assert.All(report.Processors, p => Assert.Null(p.ClassicallyVirtualizable));
        string[] lines = [.. Print(report, 10_000).Split('\n').Where(l => l.StartsWith("broken", StringComparison.Ordinal))];
        Assert.Contains("broken: no verdict: not enough was observed", lines.Select(l => l.TrimEnd()));
        Assert.Single(lines, l => l.StartsWith("broken: not observed: SGDT, ", StringComparison.Ordinal)
            && l.TrimEnd().EndsWith("NOP: no such thing here", StringComparison.Ordinal));
    }

    private sealed class BrokenEngine : IX86Engine
    {
        public string Name => "broken";
        public EngineProbe Probe() => new(true, "");
        public IX86Vm CreateVm(GuestMemory memory, CpuModel model, VirtualClock clock) => throw new NotSupportedException("no such thing here");
    }

    [Theory]
    [InlineData("unknown engine 'interpp'; did you mean 'interp'?", "popek-goldberg", "--engine", "interpp")]
    [InlineData("unknown experiment 'popek'; did you mean 'popek-goldberg'?", "popek")]
    [InlineData("unknown option '--jsn'; did you mean '--json'?", "popek-goldberg", "--jsn", "x")]
    [InlineData("unknown CPU model 'nonsense'", "popek-goldberg", "--cpu", "nonsense")]
    [InlineData("unexpected 'more'", "popek-goldberg", "more")]
    public void Wrong_usage_is_one_line(string message, params string[] args)
    {
        var e = Assert.Throws<UsageException>(() =>
        {
            var request = (Request.PopekGoldberg)CommandLineParser.Parse(["lab", .. args]);
            PopekGoldbergCommand.Run(request.Options, KnownEngines.All, TextWriter.Null);
        });
        Assert.Contains(message, e.Message);
        Assert.DoesNotContain('\n', e.Message);
    }

    [Fact]
    public void A_JSON_file_that_cannot_be_written_is_said_before_anything_runs()
    {
        var e = Assert.Throws<CannotStartException>(() =>
            PopekGoldbergCommand.Run(new LabOptions("/nonexistent/x.json", ["interp"], null), KnownEngines.All, TextWriter.Null));
        Assert.StartsWith("--json: cannot write /nonexistent/x.json", e.Message);
    }
}
