using Bunraku.Cli.CommandLine;
using Bunraku.Cli.Running;
using Bunraku.Engine.Check;

namespace Bunraku.Cli.Tests;

public class CommandLineTests
{
    private static RunOptions Run(params string[] args) => Assert.IsType<Request.Run>(CommandLineParser.Parse(["run", .. args])).Options;

    [Fact]
    public void DefaultsAreThoseOfTheReadme()
    {
        RunOptions o = Run();
        Assert.Equal(new RunOptions(), o);
        Assert.Equal(("linux", 512ul << 20, 1, "auto"), (o.Guest, o.Memory, o.Cpus, o.Engine));
        Assert.Null(o.Command);
    }

    [Fact]
    public void EveryOptionArrives()
    {
        RunOptions o = Run("--kernel", "k", "--initrd", "i", "--append", "a=b c", "--memory", "2G", "--cpus", "1", "--engine", "interp", "--local-apic", "board", "--cpu", "v1,-sse3",
            "--serial", "file:out:1", "--debug-exit", "--timeout", "2m", "--stats", "--stats-json", "s", "--trace", "exits:t");
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
            StatsJson = "s",
            Trace = new TraceTarget("t"),
        };
        Assert.Equal(expected, o);
    }

    [Fact]
    public void TraceWithoutFileGoesToStderr() => Assert.Equal(new TraceTarget(null), Run("--trace", "exits").Trace);

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
    [InlineData("--memory", "run", "--memory", "1G", "--memory", "2G")]
    public void WrongUsageIsOneLine(string expected, params string[] args)
    {
        var e = Assert.Throws<UsageException>(() => CommandLineParser.Parse(args));
        Assert.Contains(expected, e.Message);
        Assert.DoesNotContain('\n', e.Message);
    }

    [Fact]
    public void NothingAtAllIsWrongUsage() => Assert.Throws<UsageException>(() => CommandLineParser.Parse([]));

    [Theory]
    [InlineData("--help")]
    [InlineData("run", "--help")]
    [InlineData("engines", "-h")]
    [InlineData("--version")]
    public void InformationIsNoError(params string[] args) => Assert.IsType<Request.Information>(CommandLineParser.Parse(args));
}
