using System.Text;
using System.Text.Json;
using Bunraku.Cli.CommandLine;
using Bunraku.Cli.Terminals;
using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Processor.X86;
using Bunraku.Sessions.Monitoring;

namespace Bunraku.Cli.Tests;

/// <summary>VMs on an engine that plays back exits: everything but the processor is real.</summary>
public class VmTests
{
    private sealed class Recorder : IGuestConsole
    {
        private readonly MemoryStream _bytes = new();

        public string Text => Encoding.Latin1.GetString(_bytes.ToArray());

        public void Write(ReadOnlySpan<byte> bytes) => _bytes.Write(bytes);

        public bool Throttle(int milliseconds) => true;

        public void Release()
        {
        }
    }

    private static readonly byte[] Kernel = TestKernel.Assemble(a => { a.nop(); a.hlt(); });

    private static (VmResult Result, string Output, Vm Session) Run(VmOptions options, params Action<X86Exit>[] script)
    {
        using var kernel = new TemporaryFile(Kernel);
        var console = new Recorder();
        Vm vm = new VmBuilder([new ScriptedEngine(script)], options) { Kernel = kernel.Path, Console = console }.Build();
        vm.Start();
        VmResult result = vm.Wait();
        return (result, console.Text, vm);
    }

    [Fact]
    public void SerialOutputReachesTheConsole()
    {
        (VmResult result, string output, Vm vm) = Run(
            new VmOptions { DebugExit = true }, ScriptedEngine.Out(0x3FB, 3 /* 8 bits */), ScriptedEngine.Out(0x3F8, (byte)'H'),
                ScriptedEngine.Out(0x3F8, (byte)'i'), ScriptedEngine.Out(0xF4, 3));
        vm.Dispose();
        Assert.Equal("Hi", output);
        Assert.Equal(StopReason.DebugExit, result.Cause.Reason);
        Assert.Equal(7, result.ExitStatus);
    }

    [Fact]
    public void WithoutTheOptionThereIsNoDebugExit()
    {
        (VmResult result, _, Vm vm) = Run(new VmOptions(), ScriptedEngine.Out(0xF4, 3), ScriptedEngine.Exit(ExitReason.TripleFault));
        vm.Dispose();
        Assert.Equal(3, result.ExitStatus);
    }

    [Fact]
    public void ACrashIsReportedWithStateCodeAndExits()
    {
        (VmResult result, _, Vm vm) = Run(new VmOptions(), ScriptedEngine.Out(0x80, 0x42), ScriptedEngine.Exit(ExitReason.TripleFault));
        Assert.Equal(StopReason.Shutdown, result.Cause.Reason);
        string report = vm.CrashReport(0);
        vm.Dispose();
        Assert.Contains("RIP=0000000000100020", report);
        Assert.Contains("CR0=", report);
        Assert.Contains("=> 0000000000100020  90                     nop", report);
        Assert.Contains("Io out port 0080 size 1 value 42", report);
        Assert.Contains("TripleFault", report);
    }

    [Fact]
    public void TimeoutEndsAGuestThatLoops()
    {
        (VmResult result, _, Vm vm) = Run(new VmOptions { Timeout = TimeSpan.FromMilliseconds(20) });
        vm.Dispose();
        Assert.Equal(124, result.ExitStatus);
    }

    [Fact]
    public void AnEngineThatGivesUpIsAnInternalError()
    {
        (VmResult result, _, Vm vm) = Run(new VmOptions(), e => (e.Reason, e.Message) = (ExitReason.InternalError, "lost"));
        vm.Dispose();
        Assert.Equal((125, "lost"), (result.ExitStatus, result.Cause.Message));
    }

    [Fact]
    public void AnEngineThatHasNoVirtualizationForTheGuestSaysSo()
    {
        using var kernel = new TemporaryFile(Kernel);
        var builder = new VmBuilder([new ScriptedEngine { Lacks = [CpuFeature.Vmx, CpuFeature.Svm] }]) { Kernel = kernel.Path };
        builder.Build().Dispose();
        foreach (NestedVirtualization nested in (NestedVirtualization[])[NestedVirtualization.Vmx, NestedVirtualization.Svm])
        {
            var e = Assert.Throws<CannotStartException>(() => (builder with { Nested = nested }).Build());
            Assert.StartsWith($"the engine 'scripted' cannot give the guest {nested.ToString().ToUpperInvariant()}: ", e.Message);
        }
    }

    [Fact]
    public void QuitAndSignalsEndALoop()
    {
        foreach ((HostEnd end, int signal, int status) in ((HostEnd, int, int)[])[(HostEnd.Quit, 0, 0), (HostEnd.Signal, 15, 143),
            (HostEnd.OutputClosed, 0, 141)])
        {
            using var kernel = new TemporaryFile(Kernel);
            using Vm vm = new VmBuilder([new ScriptedEngine()]) { Kernel = kernel.Path }.Build();
            vm.Start();
            vm.End(end, signal);
            vm.End(HostEnd.TimedOut);
            Assert.Equal(status, vm.Wait().ExitStatus);
        }
    }

    [Fact]
    public void TheMonitorStopsShowsAndContinues()
    {
        using var kernel = new TemporaryFile(Kernel);
        using Vm vm = new VmBuilder([new ScriptedEngine(ScriptedEngine.Out(0x80, 1))]) { Kernel = kernel.Path }.Build();
        vm.Start();
        var monitor = new MonitorShell(vm, () => 80);
        Assert.Contains("RIP=0000000000100020", monitor.Execute("info registers"));
        Assert.False(vm.Paused);
        Assert.StartsWith("running\n", monitor.Execute("info status"));
        Assert.DoesNotContain("stopped", monitor.Prompt);
        Assert.Contains("stopped", monitor.Execute(" stop "));
        Assert.True(vm.Paused);
        Assert.StartsWith("stopped", monitor.Execute("info status"));
        Assert.Contains("stopped", monitor.Prompt);
        long stood = vm.Machine.Clock.Nanoseconds;
        Assert.Contains("RIP=", monitor.Execute("info  registers"));
        Assert.True(vm.Paused);
        Assert.Equal(stood, vm.Machine.Clock.Nanoseconds);
        Assert.Equal("", monitor.Execute("cont"));
        Assert.False(vm.Paused);
        Assert.Contains("instructions", monitor.Execute("info stats"));
        Assert.Contains("RIP=0000000000100020", monitor.Execute("info registers 0"));
        Assert.Equal("there is no processor '1'; the only one is 0\n", monitor.Execute("info registers 1"));
        Assert.StartsWith("cpu0  active", monitor.Execute("info cpus"));
        Assert.Equal("", monitor.Execute("nmi"));
        Assert.True(vm.Machine.Cpus[0].Interrupts!.NmiPending);
        Assert.Contains("RIP=", monitor.Execute("i r 0"));
        Assert.Contains("did you mean 'info registers'?", monitor.Execute("info regsters"));
        Assert.Contains("did you mean 'quit'?", monitor.Execute("qiut"));
        Assert.Contains("cont", monitor.Execute("help"));
        Assert.Equal(monitor.Execute("help"), monitor.Execute("?"));
        Assert.Equal("", monitor.Execute(""));
        monitor.Execute("quit");
        Assert.Equal(HostEnd.Quit, vm.Wait().HostEnd);
    }

    [Fact]
    public void StatisticsCountExitsAndAreJson()
    {
        (_, _, Vm vm) = Run(new VmOptions(), ScriptedEngine.Out(0x80, 1), ScriptedEngine.In(0x3FD), ScriptedEngine.Exit(ExitReason.TripleFault));
        VmStatistics statistics = vm.Statistics;
        vm.Dispose();
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
        using var kernel = new TemporaryFile(Kernel);
        using var trace = new ExitTrace(new TraceTarget(TraceKind.Exits, file.Path));
        var engine = new ScriptedEngine(ScriptedEngine.Out(0x80, 0x42), ScriptedEngine.In(0x3FD), ScriptedEngine.Exit(ExitReason.TripleFault));
        using Vm vm = new VmBuilder([engine]) { Kernel = kernel.Path, Observers = { trace } }.Build();
        vm.Start();
        vm.Wait();
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
        var builder = new VmBuilder([new ScriptedEngine()]) { Kernel = file.Path, Cpus = 2 };
        var e = Assert.Throws<VmOptionException>(() => builder.Build());
        Assert.Equal(("Cpus", "Cpus 2: the engine 'scripted' has at most 1 virtual processor"), (e.Option, e.Message));
        e = Assert.Throws<VmOptionException>(() => (builder with { Words = OptionWords.CommandLine }).Build());
        Assert.Equal("--cpus 2: the engine 'scripted' has at most 1 virtual processor", e.Message);
    }

    public static TheoryData<string, byte[]?, VmOptions> BadInput => new()
    {
        { "no such file", null, new VmOptions() },
        { "empty", [], new VmOptions() },
        { "text", Encoding.ASCII.GetBytes("This is a letter, not a kernel.\n"), new VmOptions() },
        { "zeros", new byte[4096], new VmOptions() },
        { "truncated", [0x7F, (byte)'E', (byte)'L', (byte)'F', 2, 1, 1], new VmOptions() },
        { "gzip", [0x1F, 0x8B, 8, 0, 0, 0, 0, 0], new VmOptions() },
        { "initrd", Kernel, new VmOptions { Initrd = "/nonexistent/initrd" } },
        { "this host has only", Kernel, new VmOptions { Memory = 1ul << 44 } },
    };

    [Theory]
    [MemberData(nameof(BadInput))]
    public void BadInputIsOneClearLine(string expected, byte[]? kernel, VmOptions options)
    {
        using var file = new TemporaryFile(kernel);
        var e = Assert.Throws<CannotStartException>(() => new VmBuilder([new ScriptedEngine()], options) { Kernel = file.Path }.Build());
        Assert.Contains(expected, e.Message);
        Assert.DoesNotContain('\n', e.Message);
    }

    [Fact]
    public void AnInitrdThatDoesNotFitNamesTheMemory()
    {
        using var kernel = new TemporaryFile(Kernel);
        using var initrd = new TemporaryFile(new byte[8 << 20]);
        var builder = new VmBuilder([new ScriptedEngine()]) { Kernel = kernel.Path, Initrd = initrd.Path, Memory = 4ul << 20, Words = OptionWords.CommandLine };
        var e = Assert.Throws<CannotStartException>(() => builder.Build());
        Assert.Matches(@"\(--memory [0-9]+M or more\)$", e.Message);
        Assert.DoesNotContain('\n', e.Message);
    }

    [Fact]
    public void MemoryTooSmallForTheKernelSaysSo()
    {
        using var kernel = new TemporaryFile(Kernel);
        var e = Assert.Throws<CannotStartException>(() => new VmBuilder([new ScriptedEngine()]) { Kernel = kernel.Path, Memory = 1ul << 20 }.Build());
        Assert.Matches(@"\(Memory [0-9]+M or more\)$", e.Message);
    }

    [Fact]
    public void EnginesAreChosenByNameOrByWhatCanRun()
    {
        var broken = new ScriptedEngine { Name = "broken", Answer = new EngineProbe(false, "no hardware") };
        var works = new ScriptedEngine { Name = "works" };
        Assert.Same(works, Choose("auto", broken, works));
        Assert.Same(works, Choose("works", broken, works));
        Assert.Contains("no hardware", Assert.Throws<CannotStartException>(() => Choose("broken", broken, works)).Message);
        Assert.Contains("did you mean 'works'?", Assert.Throws<VmOptionException>(() => Choose("wroks", broken, works)).Message);
        Assert.Throws<CannotStartException>(() => Choose("auto", broken));
        var text = new StringWriter();
        Assert.Equal(0, EnginesCommand.Print([broken, works], text));
        Assert.Matches("broken +no +no hardware", text.ToString());
        Assert.Matches("works +yes", text.ToString());
        string direct = TranslatorEngine.WhyNotDirect() is { } reason ? $"not here: {reason}" : "works here";
        Assert.Contains($"--direct: {direct})", string.Join(' ', text.ToString().Split((char[])[' ', '\n'], StringSplitOptions.RemoveEmptyEntries)));
        Assert.All(text.ToString().Split('\n'), line => Assert.Equal(line.TrimEnd(), line));

        static IX86Engine Choose(string name, params IX86Engine[] engines) => Vm.ChooseEngine(name, engines, new VmWords());
    }

    [Fact]
    public void AnEngineThatIsNamedThoughItIsSlowSaysSo()
    {
        using var kernel = new TemporaryFile(Kernel);
        var said = new List<string>();
        var slow = new ScriptedEngine { Name = "slow", Answer = new EngineProbe(true, "it works", Chosen: false, Warning: "it takes minutes") };
        using Vm vm = new VmBuilder([slow]) { Kernel = kernel.Path, Engine = "slow", Progress = said.Add }.Build();
        Assert.Equal(["engine 'slow': it takes minutes"], said);
    }

    [Fact]
    public void AWrongCpuIsWrongUsage()
    {
        var e = Assert.Throws<VmOptionException>(() => new VmBuilder([new ScriptedEngine()]) { Cpu = "i9", Words = OptionWords.CommandLine }.Build());
        Assert.StartsWith("--cpu: unknown CPU model 'i9'", e.Message);
    }

    [Theory]
    [InlineData("lnux", "did you mean 'linux'?")]
    [InlineData("windows", "known: linux, linux-generic, debian, debian-generic, hello")]
    public void UnknownGuestsAreNamed(string guest, string expected)
    {
        var e = Assert.Throws<VmOptionException>(() => new VmBuilder([new ScriptedEngine()]) { Guest = guest }.Build());
        Assert.Contains(expected, e.Message);
    }

    /// <summary>A console whose terminal shows the monitor's prompt behind each line of the guest, just when another thread pauses the VM.</summary>
    private sealed class PausedWhilePrinting : IGuestConsole
    {
        public Vm? Vm { get; set; }

        /// <summary>The prompt was drawn.</summary>
        public TaskCompletionSource Drawn { get; } = new();

        public Thread? Pausing { get; private set; }

        public void Write(ReadOnlySpan<byte> bytes)
        {
            var terminal = new SharedTerminal(Vm!, (_) => { }, () => 80);
            terminal.Feed([0x01, (byte)'c']);
            Pausing = new Thread(Vm!.Pause);
            Pausing.Start();
            SpinWait.SpinUntil(() => (Pausing.ThreadState & ThreadState.WaitSleepJoin) != 0);
            terminal.GuestWrote(bytes);
            Drawn.SetResult();
        }

        public bool Throttle(int milliseconds) => true;

        public void Release()
        {
        }
    }

    /// <summary>A console that nobody reads: the guest waits, who pauses it does not.</summary>
    private sealed class Unread : IGuestConsole
    {
        public ManualResetEventSlim Waits { get; } = new();

        private readonly ManualResetEventSlim _released = new();

        public void Write(ReadOnlySpan<byte> bytes)
        {
        }

        public bool Throttle(int milliseconds)
        {
            Waits.Set();
            return _released.Wait(milliseconds);
        }

        public void Release() => _released.Set();
    }

    [Fact]
    public async Task AGuestThatNobodyReadsCanBePaused()
    {
        using var kernel = new TemporaryFile(Kernel);
        var console = new Unread();
        Vm vm = new VmBuilder([new ScriptedEngine(ScriptedEngine.Out(0x3F8, (byte)'a'))]) { Kernel = kernel.Path, Console = console }.Build();
        vm.Start();
        console.Waits.Wait();
        await Task.Run(vm.Pause).WaitAsync(TimeSpan.FromMinutes(1));
        vm.Resume();
        vm.Dispose();
    }

    [Fact]
    public async Task ThePromptDoesNotWaitForWhoPausesTheGuest()
    {
        using var kernel = new TemporaryFile(Kernel);
        var console = new PausedWhilePrinting();
        var engine = new ScriptedEngine(ScriptedEngine.Out(0x3FB, 3), ScriptedEngine.Out(0x3F8, (byte)'\n'));
        Vm vm = new VmBuilder([engine]) { Kernel = kernel.Path, Console = console }.Build();
        console.Vm = vm;
        vm.Start();
        await console.Drawn.Task.WaitAsync(TimeSpan.FromSeconds(30));
        console.Pausing!.Join();
        Assert.True(vm.Paused);
        vm.Dispose();
    }
}
