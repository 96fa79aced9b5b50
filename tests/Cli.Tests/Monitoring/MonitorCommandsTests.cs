using Bunraku.Cli.Terminals;
using Bunraku.Sessions.Monitoring;

namespace Bunraku.Cli.Tests.Monitoring;

public class MonitorCommandsTests
{
    private static readonly MonitorCommands Commands = new(StandardCommands.All);
    private static readonly MonitorContext Context = new(null!, Commands, 80, "Ctrl-A C");

    [Theory]
    [InlineData("info registers", "info registers")]
    [InlineData("i r", "info registers")]
    [InlineData("inf reg 3", "info registers", "3")]
    [InlineData("i stat", null, "'info stat' may be info status or info stats")]
    [InlineData("i stats", "info stats")]
    [InlineData("i e", "info exits")]
    [InlineData("c", "cont")]
    [InlineData("q", "quit")]
    [InlineData("?", "help")]
    [InlineData("h i", "help", "i")]
    [InlineData("st", "stop")]
    [InlineData("s", null, "'s' may be screenshot or sysrq or stop or save")]
    [InlineData("info", null,
        "info what? info status, info registers, info vmx, info svm, info paging, info tlb, info cpus, info stats, info translator, "
        + "info exits, info screen, info balloon")]
    [InlineData("info regsters", null, "unknown command 'info regsters'; did you mean 'info registers'?")]
    [InlineData("qiut", null, "unknown command 'qiut'; did you mean 'quit'?")]
    [InlineData("frobnicate", null, "unknown command 'frobnicate'; 'help' lists the commands")]
    [InlineData("stop now", null, "unexpected 'now'; usage: stop")]
    [InlineData("i r 1 2", null, "unexpected '2'; usage: info registers [CPU]")]
    public void WordsMayBeShortenedWhileTheyMeanOneThing(string line, string? name, params string[] rest)
    {
        string[] words = line.Split(' ');
        if (name is null)
        {
            Assert.Equal(rest[0], Assert.Throws<MonitorException>(() => Commands.Resolve(words)).Message);
            return;
        }
        (MonitorCommand command, IReadOnlyList<string> arguments) = Commands.Resolve(words);
        Assert.Equal(name, command.Name);
        Assert.Equal(rest, arguments);
    }

    [Theory]
    [InlineData("", "balloon", "cont", "grow", "help", "info", "link", "nmi", "quit", "save", "screenshot", "stop", "sysrq")]
    [InlineData("s", "save", "screenshot", "stop", "sysrq")]
    [InlineData("info ", "balloon", "cpus", "exits", "paging", "registers", "screen", "stats", "status", "svm", "tlb", "translator", "vmx")]
    [InlineData("i st", "stats", "status")]
    [InlineData("help n", "nmi")]
    [InlineData("nmi ")]
    [InlineData("x ")]
    public void WordsAreCompleted(string line, params string[] expected) => Assert.Equal(expected, Commands.Complete(Context, line.Split(' ')));

    [Fact]
    public void EveryCommandIsInTheHelp()
    {
        string help = Commands.Resolve(["help"]).Command.Run(Context, []);
        foreach (MonitorCommand command in Commands.All) Assert.Matches($"(?m)^  {System.Text.RegularExpressions.Regex.Escape(command.Usage)}  ", help);
        Assert.All(help.Split('\n'), line => Assert.InRange(line.Length, 0, 80));
    }
}
