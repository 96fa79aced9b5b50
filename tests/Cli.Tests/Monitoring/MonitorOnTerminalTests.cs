using System.Diagnostics;
using System.Text.RegularExpressions;
using Bunraku.Testing;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Cli.Tests.Monitoring;

/// <summary>Guest and monitor on one terminal.</summary>
public sealed class MonitorOnTerminalTests
{
    private static readonly string Program = Path.Combine(AppContext.BaseDirectory, "bunraku.dll");

    /// <summary>Prints "ready", then the hexadecimal digits of every byte that comes on COM1, and a line end behind each 'R'.</summary>
    private static readonly byte[] ShowsBytes = TestKernel.Assemble(a =>
    {
        TestKernel.Print(a, "ready\n");
        TestKernel.Out(a, 0x3FC, 3); // DTR and RTS
        Label next = a.CreateLabel();
        a.Label(ref next);
        TestKernel.Receive(a);
        a.mov(bl, al);
        a.shr(al, 4);
        Digit();
        a.mov(al, bl);
        a.and(al, 15);
        Digit();
        a.cmp(bl, (sbyte)'R');
        a.jne(next);
        TestKernel.Out(a, 0x3F8, (byte)'\n');
        a.jmp(next);

        void Digit()
        {
            Label digit = a.CreateLabel();
            a.add(al, (sbyte)'0');
            a.cmp(al, (sbyte)'9');
            a.jbe(digit);
            a.add(al, (sbyte)('a' - '9' - 1));
            a.Label(ref digit);
            a.@out(dx, al);
        }
    });

    private const string Answer = "\x1B[24;18R", AnswerShown = "1b5b32343b313852";

    private static void With(int columns, int rows, Action<Pty> act)
    {
        using var pty = new Pty();
        using (var stty = Process.Start("stty", ["-F", pty.Name, "rows", $"{rows}", "cols", $"{columns}"])) stty.WaitForExit();
        using var kernel = new TemporaryFile(ShowsBytes);
        using var process =
            new TestProcess(new ProcessStartInfo("sh", ["-c", $"exec dotnet '{Program}' run --kernel '{kernel.Path}' <{pty.Name} >{pty.Name} 2>&1"]));
        pty.ReadUntil("ready");
        act(pty);
        pty.Type("\x01x");
        process.WaitForExit();
        Assert.Equal(0, process.ExitCode);
    }

    [Fact]
    public void TheTerminalsAnswerIsTheGuestsWhileTheMonitorIsOpen() => With(80, 24, pty =>
    {
        pty.Type("\x01" + "c");
        pty.ReadUntil("(bunraku) ");
        pty.Type("info st" + Answer + "atus");
        pty.ReadUntil(AnswerShown);
        pty.Type("\r");
        Assert.Contains("running", pty.ReadUntil("engine "));
    });

    [Fact]
    public void TheTerminalsAnswerIsTheGuestsBehindTheEscapeKey() => With(80, 24, pty =>
    {
        pty.Type("\x01" + Answer);
        pty.ReadUntil(AnswerShown);
        pty.Type("c"); // still the command
        pty.ReadUntil("(bunraku) ");
    });

    [Fact]
    public void AnArrowBehindTheEscapeKeyIsNothing() => With(80, 24, pty =>
    {
        pty.Type("\x01\x1B[AxR");
        Assert.Matches("^\\s*7852", pty.ReadUntil("7852"));
    });

    [Fact]
    public void AnEscapeKeyGoesToTheGuestAtOnce() => With(80, 24, pty =>
    {
        pty.Type("\x1B");
        pty.ReadUntil("1b");
    });

    [Fact]
    public void ThePromptAndTheWayBackSayThatTheGuestStands() => With(80, 24, pty =>
    {
        pty.Type("\x01" + "c");
        pty.ReadUntil("(bunraku) ");
        pty.Type("st\r");
        pty.ReadUntil("(bunraku, stopped) ");
        pty.Type("i status\r");
        Assert.Contains("stopped; 'cont' lets it go on", pty.ReadUntil("engine "));
        pty.Type("\x01" + "c");
        pty.ReadUntil("the guest is stopped");
        pty.Type("\x01" + "c");
        pty.ReadUntil("(bunraku, stopped) ");
        pty.Type("c\r");
        pty.ReadUntil("(bunraku) ");
        pty.Type("\x04"); // as a shell ends
        pty.Type("R");
        pty.ReadUntil("52");
    });

    [Fact]
    public void LinesComeBackAndWordsAreCompleted() => With(80, 24, pty =>
    {
        pty.Type("\x01" + "c");
        pty.ReadUntil("(bunraku) ");
        pty.Type("inf\tsta\t\t"); // the second Tab lists
        pty.ReadUntil("stats status");
        pty.Type("us\r");
        pty.ReadUntil("engine ");
        pty.Type("\x1B[A\r");
        pty.ReadUntil("running");
    });

    [Fact]
    public void InASmallTerminalNoWordIsCut() => With(40, 10, pty =>
    {
        pty.Type("\x01h");
        string help = pty.ReadUntil("this help");
        pty.Type("\x01" + "c");
        help += pty.ReadUntil("(bunraku) ");
        pty.Type("s\r");
        help += pty.ReadUntil("or save\r\n\r(bunraku) ");
        pty.Type("help\r");
        help += pty.ReadUntil("lines back.\r\n\r(bunraku) ");
        foreach (string line in help.Split('\n')) Assert.True(line.TrimEnd('\r').Split('\r')[^1].TrimEnd().Length <= 40, line);
        // A line longer than the terminal scrolls in its row: nothing of it is in a second one.
        string text = string.Concat(Enumerable.Range(0, 30).Select(n => $"{n:00}"));
        pty.Type(text + "\x05");
        string typed = pty.ReadUntil("2829");
        Assert.DoesNotContain('\n', typed);
        Assert.All(Regex.Split(typed, "\r"), row => Assert.InRange(row.TrimEnd('\b').Length, 0, 39));
    });
}
