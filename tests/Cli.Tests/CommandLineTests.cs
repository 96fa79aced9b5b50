using System.Collections;
using System.Reflection;
using Bunraku.Cli.CommandLine;
using Bunraku.Engine.Check;
using Bunraku.Hypervisor.Scheduling;
using Bunraku.Processor.X86;
using Bunraku.Sessions.Debugging;

namespace Bunraku.Cli.Tests;

public class CommandLineTests
{
    private static RunOptions Run(params string[] args) => Assert.IsType<Request.Run>(CommandLineParser.Parse(["run", .. args])).Options;

    [Fact]
    public void WarmingUpComesToItsEnd()
    {
        if (Vm.ChosenEngine(KnownEngines.All) is Processor.X86.TranslatorEngine) Assert.True(WarmUp.Execute());
    }

    /// <summary>A command alone does not go through the parser.</summary>
    [Fact]
    public void ACommandAloneHasTheDefaultsOfAllOptions()
    {
        RunOptions alone = Run("--", "true", "x"), parsed = Run("linux", "--", "true", "x");
        foreach (PropertyInfo property in typeof(RunOptions).GetProperties(BindingFlags.Instance | BindingFlags.Public | BindingFlags.NonPublic))
        {
            object? a = property.GetValue(alone), b = property.GetValue(parsed);
            if (a is CpuTimeOptions x && b is CpuTimeOptions y) (a, b) = (x.IsDefault, y.IsDefault);
            if (a is IEnumerable p && b is IEnumerable q) Assert.Equal(p.Cast<object>(), q.Cast<object>());
            else Assert.Equal(a, b);
        }
    }

    [Fact]
    public void DefaultsAreThoseOfTheReadme()
    {
        RunOptions o = Run();
        Assert.Equal(new RunOptions { KeepBooted = true }, o);
        Assert.Equal(("linux", 512ul << 20, 1, "auto"), (o.Guest, o.Memory, o.Cpus, o.Engine));
        Assert.Null(o.Command);
    }

    [Fact]
    public void EveryOptionArrives()
    {
        RunOptions o =
            Run("--kernel", "k", "--initrd", "i", "--append", "a=b c", "--memory", "2G", "--cpus", "1", "--engine", "interp", "--local-apic", "board", "--cpu",
            "v1,-sse3",
            "--serial", "file:out:1", "--debug-exit", "--timeout", "2m", "--stats", "--stats-json", "s", "--trace", "exits:t", "--perf-map");
        var expected = new RunOptions
        {
            Kernel = "k",
            Initrd = "i",
            Append = "a=b c",
            Memory = 2ul << 30,
            Engine = "interp",
            EngineApics = false,
            Cpu = "v1,-sse3",
            Serial = new SerialTarget(SerialKind.File, "out:1"),
            DebugExit = true,
            Timeout = TimeSpan.FromMinutes(2),
            Stats = true,
            SampleWork = true,
            PerfMap = true,
            StatsJson = "s",
            Trace = new TraceTarget(TraceKind.Exits, "t"),
            KeepBooted = true,
        };
        Assert.Equal(expected, o);
    }

    [Fact]
    public void AGuestWithACommandIsKeptUnlessAFreshOneIsWanted()
    {
        Assert.True(Run("--", "true").KeepBooted);
        Assert.False(Run("--fresh", "--", "true").KeepBooted);
        Assert.False(Run("--engine", "check", "--", "true").KeepBooted);
        Assert.Equal("f", Run("--save-to", "f").SaveTo);
    }

    [Theory]
    [InlineData("name the snapshot's file", "restore")]
    [InlineData("snapshot /nowhere/f: no such file", "restore", "/nowhere/f")]
    [InlineData("memory backing 'x'", "restore", "f", "--memory-backing", "x")]
    [InlineData("command 'clear'", "cache", "clear")]
    public void WhatIsWrongWithSnapshotsIsSaid(string says, params string[] arguments) =>
        Assert.Contains(says, Assert.ThrowsAny<SessionException>(() => CommandLineParser.Parse(arguments)).Message);

    [Fact]
    public void ModulesKeepTheirOrderAndTheirCommandLines()
    {
        Assert.Equal(["a console=x --opt", "-b"], Run("--kernel", "k", "--module", "a console=x --opt", "--module", "-b").Modules);
        Assert.Contains("--initrd or with --module", Assert.Throws<UsageException>(() => Run("--kernel", "k", "--initrd", "i", "--module", "m")).Message);
    }

    [Fact]
    public void ADebuggerIsListenedForAtALoopbackAddressOrASocket()
    {
        RunOptions o = Run("--gdb", "127.0.0.1:1234", "--stopped");
        Assert.Equal((DebugEndpoint.Loopback(1234), true), (o.Debugger, o.StartsStopped));
        Assert.Equal(DebugEndpoint.Unix("a b"), Run("--gdb", "unix:a b").Debugger);
        Assert.Contains("is no loopback address", Assert.Throws<UsageException>(() => Run("--gdb", "0.0.0.0:1")).Message);
        Assert.Equal("--stopped goes with --gdb: nobody else lets the guest run", Assert.Throws<UsageException>(() => Run("--stopped")).Message);
    }

    [Fact]
    public void TraceWithoutFileGoesToStderr() => Assert.Equal(new TraceTarget(TraceKind.Exits, null), Run("--trace", "exits").Trace);

    [Fact]
    public void TheIntervalOfTheCheckEngineIsATimeOrANumberOfInstructions()
    {
        Assert.Equal(CheckInterval.Every(TimeSpan.FromMicroseconds(20)), Run("--engine", "check", "--check-interval", "20us").CheckInterval);
        Assert.Equal(CheckInterval.Every(TimeSpan.FromMilliseconds(3)), Run("--engine", "check", "--check-interval", "3ms").CheckInterval);
        Assert.Equal(CheckInterval.Every(5000), Run("--engine", "check", "--check-interval", "5000").CheckInterval);
    }

    [Fact]
    public void ValuesMayLookLikeOptions() => Assert.Equal("--quiet -s", Run("--kernel", "k", "--append", "--quiet -s").Append);

    [Fact]
    public void FilesMayBeginWithAnAt() => Assert.Equal("@k", Run("--kernel", "@k").Kernel);

    [Fact]
    public void AllBehindTheDashesIsTheGuestsCommand()
    {
        RunOptions o = Run("hello", "--stats", "--", "sh", "-c", "--memory", "--", "");
        Assert.Equal("hello", o.Guest);
        Assert.Equal(["sh", "-c", "--memory", "--", ""], o.Command!);
        Assert.Equal("linux", Run("--", "uname").Guest);
    }

    [Theory]
    [InlineData("did you mean '--kernel'?", "run", "--krnel", "x")]
    [InlineData("did you mean '--kernel'?", "run", "-kernel", "x")]
    [InlineData("did you mean '--memory'?", "run", "linux", "--memry=2G")]
    [InlineData("did you mean '--stats-json'?", "run", "--kernel", "k", "--stats-jsn", "x")]
    [InlineData("did you mean 'run'?", "rnu")]
    [InlineData("did you mean 'engines'?", "engine")]
    [InlineData("unknown option", "--zzzzzzzzzzzz")]
    [InlineData("did you mean 'board'?", "run", "--local-apic", "bord")]
    [InlineData("unexpected 'foo'", "run", "linux", "foo")]
    [InlineData("--kernel", "run", "--kernel")]
    [InlineData("not both", "run", "linux", "--kernel", "k")]
    [InlineData("'12Q' is not a size", "run", "--memory", "12Q")]
    [InlineData("too small", "run", "--memory", "4K")]
    [InlineData("'0' is not a number of processors", "run", "--cpus", "0")]
    [InlineData("'x' is not a number of processors", "run", "--cpus", "x")]
    [InlineData("'soon' is not a duration", "run", "--timeout", "soon")]
    [InlineData("'5s' is no interval", "run", "--engine", "check", "--check-interval", "5s")]
    [InlineData("'0' is no interval", "run", "--engine", "check", "--check-interval", "0")]
    [InlineData("for --engine check", "run", "--check-interval", "5000")]
    [InlineData("unknown direct execution 'of'; did you mean 'on'?", "run", "--direct", "of")]
    [InlineData("--direct on is for --engine bt, not for interp", "run", "--direct", "on", "--engine", "interp")]
    [InlineData("did you mean 'stdio'?", "run", "--serial", "stdoi")]
    [InlineData("did you mean 'file'?", "run", "--serial", "fil:x")]
    [InlineData("needs a path", "run", "--serial", "file:")]
    [InlineData("did you mean 'exits'?", "run", "--trace", "exit")]
    [InlineData("needs a file", "run", "--trace", "exits:")]
    [InlineData("a command is missing behind --", "run", "--")]
    [InlineData("with --kernel, use --append", "run", "--kernel", "k", "--", "ls")]
    [InlineData("goes with 'run'", "engines", "--", "ls")]
    [InlineData("name is empty", "run", "")]
    [InlineData("command", "")]
    [InlineData("'2Q' is not a size", "run", "--memory", "1G", "--memory", "2Q")]
    [InlineData("unknown command 'rnu'; did you mean 'run'?", "help", "rnu")]
    [InlineData("unknown command 'popek'; did you mean 'popek-goldberg'?", "help", "lab", "popek")]
    public void WrongUsageIsOneLine(string expected, params string[] args)
    {
        var e = Assert.Throws<UsageException>(() => CommandLineParser.Parse(args));
        Assert.Contains(expected, e.Message);
        Assert.DoesNotContain('\n', e.Message);
    }

    /// <summary>By name it runs directly or says in one line why not; where it pays, silently.</summary>
    [Fact]
    public void WhereDirectExecutionDoesNotWorkItSaysWhyIfAskedForByName()
    {
        Assert.Equal(DirectUse.WherePays, Run("--direct", "auto").Direct);
        string[] byName = ["run", "--direct", "on"];
        if (TranslatorEngine.WhyNotDirect() is not { } reason)
        {
            Assert.Equal(DirectUse.WherePays, Run(byName[1..]).Direct);
            return;
        }
        Assert.DoesNotContain('\n', reason);
        Assert.Equal($"--direct on does not work here: {reason}", Assert.Throws<UsageException>(() => CommandLineParser.Parse(byName)).Message);
    }

    [Fact]
    public void NothingAtAllIsWrongUsageAndNamesTheCommands() =>
        Assert.Equal("a command is missing: run, restore, qemu, engines, image, cache, ps, attach, logs, stop, kill, monitor, migrate, receive, fork, lab, "
            + "completion, man, help; 'bunraku help' explains them",
            Assert.Throws<UsageException>(() => CommandLineParser.Parse([])).Message);

    [Fact]
    public void OfARepeatedOptionTheLastOneWins()
    {
        RunOptions o =
            Run("--memory", "1G", "--kernel", "a", "--cpu", "max", "--stats", "--memory=2G", "--kernel", "b", "--timeout", "soon", "--timeout", "2s", "--stats",
            "--cpu", "x86-64-v2");
        Assert.Equal(2ul << 30, o.Memory);
        Assert.Equal(("b", "x86-64-v2", TimeSpan.FromSeconds(2), true), (o.Kernel, o.Cpu, o.Timeout, o.Stats));
        LabOptions lab =
            Assert.IsType<Request.PopekGoldberg>(CommandLineParser.Parse(["lab", "popek-goldberg", "--json", "a", "--engine", "interp", "--json", "b",
            "--engine", "bt"])).Options;
        Assert.Equal("b", lab.Json);
        Assert.Equal(["interp", "bt"], lab.Engines); // this one is meant to be given several times
    }

    [Theory]
    [InlineData("", "--help")]
    [InlineData("", "help")]
    [InlineData("run", "run", "--help")]
    [InlineData("run", "help", "run")]
    [InlineData("run", "run", "--memory", "nonsense", "-h")]
    [InlineData("engines", "engines", "-h")]
    [InlineData("lab", "lab")]
    [InlineData("lab", "help", "lab")]
    [InlineData("lab popek-goldberg", "help", "lab", "popek-goldberg")]
    [InlineData("lab popek-goldberg", "lab", "popek-goldberg", "--help")]
    [InlineData("lab shadow", "lab", "shadow", "--help")]
    [InlineData("lab nested", "lab", "nested", "--help")]
    [InlineData("lab paging", "lab", "paging", "--help")]
    [InlineData("help", "help", "help")]
    public void HelpIsNoError(string path, params string[] args) => Assert.Equal(path, Assert.IsType<Request.Help>(CommandLineParser.Parse(args)).Path);

    [Fact]
    public void TheVersionIsNoError() => Assert.IsType<Request.Version>(CommandLineParser.Parse(["--version"]));

    [Theory]
    [InlineData("run", "--cpu", "help")]
    [InlineData("lab", "popek-goldberg", "--cpu", "help")]
    public void CpuHelpListsEveryModelAndFeature(params string[] args)
    {
        Assert.IsType<Request.CpuModels>(CommandLineParser.Parse(args));
        string text = CpuHelp.Text(80);
        foreach (string name in CpuModels.All.Select(m => m.Name).Concat(CpuModels.FeatureNames)) Assert.Matches($@"(?m)(^|\s){name}(\s|,|$)", text);
    }

    [Theory]
    [InlineData("run", "--engine", "help")]
    [InlineData("lab", "popek-goldberg", "--engine", "help")]
    public void EngineHelpIsTheListOfEngines(params string[] args) => Assert.IsType<Request.Engines>(CommandLineParser.Parse(args));

    /// <summary>Every help text at a width; the commands are those that the texts name.</summary>
    private static IEnumerable<string> HelpTexts(int width)
    {
        foreach (string[] path in (string[][])[[], ["run"], ["engines"], ["lab"], ["lab", "popek-goldberg"], ["lab", "shadow"], ["help"],
            ["image"], ["image", "create"], ["image", "snapshot"]])
        {
            var help = Assert.IsType<Request.Help>(CommandLineParser.Parse(["help", .. path]));
            yield return HelpText.For(help.Command, help.Path, width);
        }
        yield return CpuHelp.Text(width);
    }

    [Theory]
    [InlineData(40), InlineData(80), InlineData(200)]
    public void HelpIsBrokenBetweenWordsOnly(int width)
    {
        string[] words = [.. HelpTexts(10_000).SelectMany(t => t.Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries)).Order()];
        string[] texts = [.. HelpTexts(width)];
        Assert.Equal(words, texts.SelectMany(t => t.Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries)).Order());
        foreach (string line in texts.SelectMany(t => t.Split('\n')))
        {
            Assert.Equal(line.TrimEnd(), line);
            Assert.True(line.Length <= width || !line.Trim().Contains(' '), line);
        }
    }

    [Fact]
    public void HelpNamesEveryOption()
    {
        var help = Assert.IsType<Request.Help>(CommandLineParser.Parse(["help", "run"]));
        string text = HelpText.For(help.Command, help.Path, 80);
        foreach (System.CommandLine.Option option in help.Command.Options) Assert.Matches($"(?m)^  {option.Name}( |$)", text);
        Assert.Contains("default 512M", text);
        Assert.Contains("124 ", text);
    }

    [Theory]
    [InlineData("[suggest]", "bunraku run --mem", "--memory")]
    [InlineData("[suggest]", "./bunraku run --mem", "--memory")]
    [InlineData("[suggest]", "run --mem", "--memory")]
    [InlineData("[suggest:17]", "bunraku run --mem --cpus 2", "--memory")]
    [InlineData("[suggest]", "bunraku e", "engines")]
    [InlineData("[suggest]", "bunraku lab p", "paging", "popek-goldberg")]
    [InlineData("[suggest]", "bunraku run --engine in", "interp")]
    [InlineData("[suggest]", "bunraku run --cpu x86-64-v3-", "x86-64-v3-intel")]
    [InlineData("[suggest]", "bunraku run linux-", "linux-generic")]
    [InlineData("[suggest]", "bunraku run -- --mem")]
    public void AShellGetsWhatCompletesTheWord(string directive, string line, params string[] expected) =>
        Assert.Equal(expected, Assert.IsType<Request.Suggestions>(CommandLineParser.Parse([directive, line])).Words);

    [Fact]
    public void AllCommandsAreSuggestedAtTheBeginning() =>
        Assert.Equal(["attach", "cache", "completion", "engines", "fork", "help", "image", "kill", "lab", "logs", "man", "migrate", "monitor", "ps", "qemu",
            "receive", "restore", "run", "stop"],
            Assert.IsType<Request.Suggestions>(CommandLineParser.Parse(["[suggest]", "bunraku "])).Words.Where(w => !w.StartsWith('-')));
}
