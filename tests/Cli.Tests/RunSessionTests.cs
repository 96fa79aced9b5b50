using System.Text;
using System.Text.Json;
using Bunraku.Cli.CommandLine;
using Bunraku.Cli.Terminals;
using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Sessions.Monitoring;

namespace Bunraku.Cli.Tests;

/// <summary>Sessions on an engine that plays back exits: everything but the processor is real.</summary>
public class RunSessionTests
{
    private sealed class Recorder : IGuestConsole
    {
        private readonly MemoryStream _bytes = new();

        public string Text => Encoding.Latin1.GetString(_bytes.ToArray());

        public void Write(ReadOnlySpan<byte> bytes) => _bytes.Write(bytes);

        public void Throttle()
        {
        }

        public void Release()
        {
        }
    }

    private static readonly byte[] Kernel = TestKernel.Assemble(a => { a.nop(); a.hlt(); });

    private static (RunResult Result, string Output, RunSession Session) Run(RunOptions options, params Action<X86Exit>[] script)
    {
        using var kernel = new TemporaryFile(Kernel);
        var console = new Recorder();
        var session = new RunSession(options with { Kernel = kernel.Path }, [new ScriptedEngine(script)], _ => ScriptedEngine.Model, console);
        session.Start();
        RunResult result = session.Wait();
        return (result, console.Text, session);
    }

    [Fact]
    public void SerialOutputReachesTheConsole()
    {
        (RunResult result, string output, RunSession session) = Run(
            new RunOptions { DebugExit = true }, ScriptedEngine.Out(0x3FB, 3 /* 8 bits */), ScriptedEngine.Out(0x3F8, (byte)'H'), ScriptedEngine.Out(0x3F8, (byte)'i'), ScriptedEngine.Out(0xF4, 3));
        session.Dispose();
        Assert.Equal("Hi", output);
        Assert.Equal(StopReason.DebugExit, result.Cause.Reason);
        Assert.Equal(7, result.ExitStatus);
    }

    [Fact]
    public void WithoutTheOptionThereIsNoDebugExit()
    {
        (RunResult result, _, RunSession session) = Run(new RunOptions(), ScriptedEngine.Out(0xF4, 3), ScriptedEngine.Exit(ExitReason.TripleFault));
        session.Dispose();
        Assert.Equal(3, result.ExitStatus);
    }

    [Fact]
    public void ACrashIsReportedWithStateCodeAndExits()
    {
        (RunResult result, _, RunSession session) = Run(new RunOptions(), ScriptedEngine.Out(0x80, 0x42), ScriptedEngine.Exit(ExitReason.TripleFault));
        Assert.Equal(StopReason.Shutdown, result.Cause.Reason);
        string report = session.CrashReport(0);
        session.Dispose();
        Assert.Contains("RIP=0000000000100020", report);
        Assert.Contains("CR0=", report);
        Assert.Contains("=> 0000000000100020  90                     nop", report);
        Assert.Contains("Io out port 0080 size 1 value 42", report);
        Assert.Contains("TripleFault", report);
    }

    [Fact]
    public void TimeoutEndsAGuestThatLoops()
    {
        (RunResult result, _, RunSession session) = Run(new RunOptions { Timeout = TimeSpan.FromMilliseconds(20) });
        session.Dispose();
        Assert.Equal(124, result.ExitStatus);
    }

    [Fact]
    public void AnEngineThatGivesUpIsAnInternalError()
    {
        (RunResult result, _, RunSession session) = Run(new RunOptions(), e => (e.Reason, e.Message) = (ExitReason.InternalError, "lost"));
        session.Dispose();
        Assert.Equal((125, "lost"), (result.ExitStatus, result.Cause.Message));
    }

    [Fact]
    public void QuitAndSignalsEndALoop()
    {
        foreach ((HostEnd end, int signal, int status) in ((HostEnd, int, int)[])[(HostEnd.Quit, 0, 0), (HostEnd.Signal, 15, 143), (HostEnd.OutputClosed, 0, 141)])
        {
            using var kernel = new TemporaryFile(Kernel);
            using var session = new RunSession(new RunOptions { Kernel = kernel.Path }, [new ScriptedEngine()], _ => ScriptedEngine.Model, new Recorder());
            session.Start();
            session.End(end, signal);
            session.End(HostEnd.TimedOut);
            Assert.Equal(status, session.Wait().ExitStatus);
        }
    }

    [Fact]
    public void TheMonitorStopsShowsAndContinues()
    {
        using var kernel = new TemporaryFile(Kernel);
        using var session = new RunSession(new RunOptions { Kernel = kernel.Path }, [new ScriptedEngine(ScriptedEngine.Out(0x80, 1))], _ => ScriptedEngine.Model, new Recorder());
        session.Start();
        var monitor = new MonitorShell(session, () => 80);
        Assert.Contains("RIP=0000000000100020", monitor.Execute("info registers"));
        Assert.False(session.Paused);
        Assert.StartsWith("running\n", monitor.Execute("info status"));
        Assert.DoesNotContain("stopped", monitor.Prompt);
        Assert.Contains("stopped", monitor.Execute(" stop "));
        Assert.True(session.Paused);
        Assert.StartsWith("stopped", monitor.Execute("info status"));
        Assert.Contains("stopped", monitor.Prompt);
        long stood = session.Machine.Clock.Nanoseconds;
        Assert.Contains("RIP=", monitor.Execute("info  registers"));
        Assert.True(session.Paused);
        Assert.Equal(stood, session.Machine.Clock.Nanoseconds);
        Assert.Equal("", monitor.Execute("cont"));
        Assert.False(session.Paused);
        Assert.Contains("instructions", monitor.Execute("info stats"));
        Assert.Contains("RIP=0000000000100020", monitor.Execute("info registers 0"));
        Assert.Equal("there is no processor '1'; the only one is 0\n", monitor.Execute("info registers 1"));
        Assert.StartsWith("cpu0  active", monitor.Execute("info cpus"));
        Assert.Equal("", monitor.Execute("nmi"));
        Assert.True(session.Machine.Cpus[0].Interrupts!.NmiPending);
        Assert.Contains("RIP=", monitor.Execute("i r 0"));
        Assert.Contains("did you mean 'info registers'?", monitor.Execute("info regsters"));
        Assert.Contains("did you mean 'quit'?", monitor.Execute("qiut"));
        Assert.Contains("cont", monitor.Execute("help"));
        Assert.Equal(monitor.Execute("help"), monitor.Execute("?"));
        Assert.Equal("", monitor.Execute(""));
        monitor.Execute("quit");
        Assert.Equal(HostEnd.Quit, session.Wait().HostEnd);
    }

    [Fact]
    public void StatisticsCountExitsAndAreJson()
    {
        (_, _, RunSession session) = Run(new RunOptions(), ScriptedEngine.Out(0x80, 1), ScriptedEngine.In(0x3FD), ScriptedEngine.Exit(ExitReason.TripleFault));
        RunStatistics statistics = session.Statistics;
        session.Dispose();
        Assert.Equal(2ul, statistics.Exits.Single(e => e.Key == ExitReason.Io).Value);
        Assert.Equal(512ul << 20, statistics.GuestBytes);
        Assert.InRange(statistics.GuestTouchedBytes, 4096ul, 64ul << 20);
        Assert.True(statistics.VmCreatedMs <= statistics.KernelEntryMs && statistics.KernelEntryMs <= statistics.EndMs);
        JsonElement json = JsonDocument.Parse(statistics.ToJson()).RootElement;
        Assert.Equal(2, json.GetProperty("exits").GetProperty("io").GetInt32());
        Assert.Equal(1, json.GetProperty("exits").GetProperty("tripleFault").GetInt32());
        Assert.Equal(3, json.GetProperty("instructions").GetInt32());
        Assert.Equal(512L << 20, json.GetProperty("memory").GetProperty("guest").GetInt64());
        Assert.Equal(JsonValueKind.Null, json.GetProperty("milliseconds").GetProperty("firstUserProcess").ValueKind);
    }

    [Fact]
    public void TheTraceHasALineForEachExitWithTheValueRead()
    {
        using var file = new TemporaryFile();
        (_, _, RunSession session) = Run(
            new RunOptions { Trace = new TraceTarget(file.Path) }, ScriptedEngine.Out(0x80, 0x42), ScriptedEngine.In(0x3FD), ScriptedEngine.Exit(ExitReason.TripleFault));
        session.Dispose();
        string[] lines = File.ReadAllLines(file.Path);
        Assert.Equal(3, lines.Length);
        Assert.EndsWith("cpu0 Io out port 0080 size 1 value 42", lines[0]);
        Assert.EndsWith("cpu0 Io in port 03fd size 1 value 60", lines[1]); // PC16550D: THRE and TEMT of an idle transmitter
        Assert.EndsWith("cpu0 TripleFault", lines[2]);
    }

    [Fact]
    public void MoreProcessorsThanTheEngineHasAreWrongUsage()
    {
        using var file = new TemporaryFile(Kernel);
        var e = Assert.Throws<UsageException>(() => new RunSession(new RunOptions { Kernel = file.Path, Cpus = 2 }, [new ScriptedEngine()], _ => ScriptedEngine.Model, new Recorder()));
        Assert.Equal("--cpus 2: the engine 'scripted' has at most 1 virtual processor", e.Message);
    }

    public static TheoryData<string, byte[]?, RunOptions> BadInput => new()
    {
        { "no such file", null, new RunOptions() },
        { "empty", [], new RunOptions() },
        { "text", Encoding.ASCII.GetBytes("This is a letter, not a kernel.\n"), new RunOptions() },
        { "zeros", new byte[4096], new RunOptions() },
        { "truncated", [0x7F, (byte)'E', (byte)'L', (byte)'F', 2, 1, 1], new RunOptions() },
        { "gzip", [0x1F, 0x8B, 8, 0, 0, 0, 0, 0], new RunOptions() },
        { "initrd", Kernel, new RunOptions { Initrd = "/nonexistent/initrd" } },
        { "this host has only", Kernel, new RunOptions { Memory = 1ul << 44 } },
        { "--trace: cannot write", Kernel, new RunOptions { Trace = new TraceTarget("/nonexistent/trace") } },
    };

    [Theory]
    [MemberData(nameof(BadInput))]
    public void BadInputIsOneClearLine(string expected, byte[]? kernel, RunOptions options)
    {
        using var file = new TemporaryFile(kernel);
        var e = Assert.Throws<CannotStartException>(() => new RunSession(options with { Kernel = file.Path }, [new ScriptedEngine()], _ => ScriptedEngine.Model, new Recorder()));
        Assert.Contains(expected, e.Message);
        Assert.DoesNotContain('\n', e.Message);
    }

    [Fact]
    public void AnInitrdThatDoesNotFitNamesTheMemory()
    {
        using var kernel = new TemporaryFile(Kernel);
        using var initrd = new TemporaryFile(new byte[8 << 20]);
        var options = new RunOptions { Kernel = kernel.Path, Initrd = initrd.Path, Memory = 4ul << 20 };
        var e = Assert.Throws<CannotStartException>(() => new RunSession(options, [new ScriptedEngine()], _ => ScriptedEngine.Model, new Recorder()));
        Assert.Contains("--memory", e.Message);
        Assert.DoesNotContain('\n', e.Message);
    }

    [Fact]
    public void MemoryTooSmallForTheKernelSaysSo()
    {
        using var kernel = new TemporaryFile(Kernel);
        var options = new RunOptions { Kernel = kernel.Path, Memory = 1ul << 20 };
        var e = Assert.Throws<CannotStartException>(() => new RunSession(options, [new ScriptedEngine()], _ => ScriptedEngine.Model, new Recorder()));
        Assert.Contains("--memory", e.Message);
    }

    [Fact]
    public void EnginesAreChosenByNameOrByWhatCanRun()
    {
        var broken = new ScriptedEngine { Name = "broken", Answer = new EngineProbe(false, "no hardware") };
        var works = new ScriptedEngine { Name = "works" };
        Assert.Same(works, RunSession.ChooseEngine("auto", [broken, works]));
        Assert.Same(works, RunSession.ChooseEngine("works", [broken, works]));
        Assert.Contains("no hardware", Assert.Throws<CannotStartException>(() => RunSession.ChooseEngine("broken", [broken, works])).Message);
        Assert.Contains("did you mean 'works'?", Assert.Throws<UsageException>(() => RunSession.ChooseEngine("wroks", [broken, works])).Message);
        Assert.Throws<CannotStartException>(() => RunSession.ChooseEngine("auto", [broken]));
        var text = new StringWriter();
        Assert.Equal(0, EnginesCommand.Print([broken, works], text));
        Assert.Matches("broken +no +no hardware", text.ToString());
        Assert.Matches("works +yes", text.ToString());
        Assert.All(text.ToString().Split('\n'), line => Assert.Equal(line.TrimEnd(), line));
    }

    [Fact]
    public void AnEngineThatIsNamedThoughItIsSlowSaysSo()
    {
        using var kernel = new TemporaryFile(Kernel);
        var said = new List<string>();
        var slow = new ScriptedEngine { Name = "slow", Answer = new EngineProbe(true, "it works", Chosen: false, Warning: "it takes minutes") };
        using var session = new RunSession(new RunOptions { Kernel = kernel.Path, Engine = "slow" }, [slow], _ => ScriptedEngine.Model, new Recorder(), said.Add);
        Assert.Equal(["engine 'slow': it takes minutes"], said);
    }

    [Fact]
    public void AWrongCpuIsWrongUsage()
    {
        var e = Assert.Throws<UsageException>(() => new RunSession(new RunOptions { Cpu = "i9" }, [new ScriptedEngine()], t => throw new FormatException($"unknown CPU model '{t}'"), new Recorder()));
        Assert.Equal("--cpu: unknown CPU model 'i9'", e.Message);
    }

    [Theory]
    [InlineData("lnux", "did you mean 'linux'?")]
    [InlineData("windows", "known: linux, linux-generic, hello")]
    public void UnknownGuestsAreNamed(string guest, string expected)
    {
        var e = Assert.Throws<UsageException>(() => new RunSession(new RunOptions { Guest = guest }, [new ScriptedEngine()], _ => ScriptedEngine.Model, new Recorder()));
        Assert.Contains(expected, e.Message);
    }

    /// <summary>A console whose terminal shows the monitor's prompt behind each line of the guest, just when another thread pauses the VM.</summary>
    private sealed class PausedWhilePrinting : IGuestConsole
    {
        public RunSession? Session { get; set; }

        /// <summary>The prompt was drawn.</summary>
        public TaskCompletionSource Drawn { get; } = new();

        public Thread? Pausing { get; private set; }

        public void Write(ReadOnlySpan<byte> bytes)
        {
            var terminal = new SharedTerminal(Session!, (_) => { }, () => 80);
            terminal.Feed([0x01, (byte)'c']);
            Pausing = new Thread(Session!.Pause);
            Pausing.Start();
            SpinWait.SpinUntil(() => (Pausing.ThreadState & ThreadState.WaitSleepJoin) != 0);
            terminal.GuestWrote(bytes);
            Drawn.SetResult();
        }

        public void Throttle()
        {
        }

        public void Release()
        {
        }
    }

    [Fact]
    public async Task ThePromptDoesNotWaitForWhoPausesTheGuest()
    {
        using var kernel = new TemporaryFile(Kernel);
        var console = new PausedWhilePrinting();
        var session = new RunSession(new RunOptions { Kernel = kernel.Path }, [new ScriptedEngine(ScriptedEngine.Out(0x3FB, 3), ScriptedEngine.Out(0x3F8, (byte)'\n'))],
            _ => ScriptedEngine.Model, console);
        console.Session = session;
        session.Start();
        await console.Drawn.Task.WaitAsync(TimeSpan.FromSeconds(30));
        console.Pausing!.Join();
        Assert.True(session.Paused);
        session.Dispose();
    }
}
