using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Text;
using Bunraku.Testing;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Cli.Tests;

/// <summary>The program as a person or a script starts it: processes, pipes, terminals, signals.</summary>
public class ProgramTests
{
    private static readonly string Program = Path.Combine(AppContext.BaseDirectory, "bunraku.dll");

    private static readonly byte[] Greets = TestKernel.Assemble(a =>
    {
        TestKernel.Print(a, "hello from the guest\n");
        TestKernel.Out(a, 0xF4, 0x10);
        TestKernel.Loop(a);
    });

    private static readonly byte[] Waits = TestKernel.Assemble(a =>
    {
        TestKernel.Print(a, "waiting\n");
        TestKernel.Loop(a);
    });

    /// <summary>Sends back what it receives until a 'q' comes.</summary>
    private static readonly byte[] Echoes = TestKernel.Assemble(a =>
    {
        TestKernel.Print(a, "ready\n");
        TestKernel.Out(a, 0x3FC, 3); // DTR and RTS
        Label next = a.CreateLabel();
        a.Label(ref next);
        TestKernel.Receive(a);
        a.@out(dx, al);
        a.cmp(al, (sbyte)'q');
        a.jne(next);
        TestKernel.Out(a, 0xF4, 0);
        TestKernel.Loop(a);
    });

    /// <summary>An interrupt through an empty IDT.</summary>
    private static readonly byte[] Crashes = TestKernel.Assemble(a =>
    {
        a.push(0);
        a.push(0);
        a.lidt(__[esp]);
        a.ud2();
    });

    private static readonly byte[] Floods = TestKernel.Assemble(a =>
    {
        TestKernel.Out(a, 0x3FB, 3);
        a.mov(dx, (ushort)0x3F8);
        a.mov(al, (sbyte)'y');
        Label again = a.CreateLabel();
        a.Label(ref again);
        a.@out(dx, al);
        a.jmp(again);
    });

    private static TestProcess Start(byte[] kernel, string[] arguments, out TemporaryFile file, bool input = false)
    {
        file = new TemporaryFile(kernel);
        var start = new ProcessStartInfo("env", ["--default-signal", "dotnet", Program, "run", "--kernel", file.Path, .. arguments])
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        var process = new TestProcess(start);
        if (!input) process.StandardInput.Close();
        return process;
    }

    private static (int Status, string Output, string Error) Run(byte[] kernel, params string[] arguments)
    {
        using TestProcess process = Start(kernel, arguments, out TemporaryFile file);
        using (file)
        {
            Task<string> error = process.StandardError.ReadToEndAsync();
            string output = process.StandardOutput.ReadToEnd();
            process.WaitForExit();
            return (process.ExitCode, output, error.Result);
        }
    }

    [Fact]
    public void OutputAndDebugExit() => Assert.Equal((0x21, "hello from the guest\n", ""), Run(Greets, "--debug-exit"));

    [Fact]
    public void TimeoutIs124()
    {
        (int status, string output, string error) = Run(Waits, "--timeout", "1s");
        Assert.Equal(124, status);
        Assert.StartsWith(output, "waiting\n"); // a busy host gives the guest less than a second of processor time in a second
        Assert.Contains("--timeout", error);
    }

    [Fact]
    public void ATripleFaultIs3AndShowsTheCode()
    {
        (int status, _, string error) = Run(Crashes);
        Assert.Equal(3, status);
        Assert.Contains("triple fault", error);
        Assert.Matches("=> [0-9a-f]{16}  0f0b +ud2", error);
        Assert.Contains("CR0=", error);
        Assert.Contains("TripleFault", error);
    }

    [Fact]
    public void InputFromAPipeReachesTheGuestAndItsEndIsCtrlD()
    {
        using TestProcess process = Start(Echoes, ["--debug-exit"], out TemporaryFile file, input: true);
        using (file)
        {
            process.StandardInput.Write("abc\x01xq"); // no escape keys without a terminal
            process.StandardInput.Close();
            Assert.Equal("ready\nabc\x01xq", process.StandardOutput.ReadToEnd());
            process.WaitForExit();
            Assert.Equal(1, process.ExitCode);
        }
    }

    [Theory]
    [InlineData(PosixSignal.SIGINT, 130)]
    [InlineData(PosixSignal.SIGTERM, 143)]
    [InlineData(PosixSignal.SIGHUP, 129)]
    [InlineData(PosixSignal.SIGQUIT, 131)]
    public void SignalsEndTheGuest(PosixSignal signal, int expected)
    {
        using TestProcess process = Start(Waits, [], out TemporaryFile file);
        using (file)
        {
            Assert.Equal("waiting", process.StandardOutput.ReadLine());
            process.Signal(signal);
            process.WaitForExit();
            Assert.Equal(expected, process.ExitCode);
        }
    }

    [Fact]
    public void ABrokenPipeEndsQuietly()
    {
        using TestProcess process = Start(Floods, [], out TemporaryFile file);
        using (file)
        {
            Assert.Equal('y', process.StandardOutput.Read());
            process.StandardOutput.Close();
            string error = process.StandardError.ReadToEnd();
            process.WaitForExit();
            Assert.Equal((141, ""), (process.ExitCode, error));
        }
    }

    [Fact]
    public void AReaderThatStallsDoesNotKeepASignalFromWorking()
    {
        using TestProcess process = Start(Floods, [], out TemporaryFile file);
        using (file)
        {
            Assert.Equal('y', process.StandardOutput.Read());
            process.Signal(PosixSignal.SIGTERM);
            // What was printed before still comes; the reader takes it now.
            process.StandardOutput.ReadToEnd();
            process.WaitForExit();
            Assert.Equal(143, process.ExitCode);
        }
    }

    [Fact]
    public void SerialToAFileAndStatistics()
    {
        using var serial = new TemporaryFile();
        using var json = new TemporaryFile();
        (int status, string output, string error) = Run(Greets, "--debug-exit", "--serial", "file:" + serial.Path, "--stats", "--stats-json", json.Path);
        Assert.Equal((0x21, ""), (status, output));
        Assert.Equal("hello from the guest\n", File.ReadAllText(serial.Path));
        Assert.Contains("instructions", error);
        using var parsed = System.Text.Json.JsonDocument.Parse(File.ReadAllText(json.Path));
        Assert.True(parsed.RootElement.GetProperty("exits").GetProperty("io").GetInt32() >= 23);
    }

    [Fact]
    public void WrongUsageIs2AndFilesAre1()
    {
        Assert.Equal(2, Run(Greets, "--memry", "1G").Status);
        (int status, string output, string error) = Run(Encoding.ASCII.GetBytes("no kernel\n"));
        Assert.Equal((1, ""), (status, output));
        Assert.Single(error.TrimEnd('\n').Split('\n'));
        Assert.Equal(1, Run(Greets, "--stats-json", "/nonexistent/file").Status);
        Assert.Equal(1, Run(Greets, "--serial", "file:/nonexistent/file").Status);
    }

    /// <summary>
    /// Starts the program in a session of its own with the terminal as its controlling one, as a shell does, with no signal ignored whoever started the tests.
    /// </summary>
    private static TestProcess OnTerminal(Pty pty, byte[] kernel, out TemporaryFile file, params string[] arguments)
    {
        file = new TemporaryFile(kernel);
        string command =
            string.Join(' ', ((string[])["env", "--default-signal", "dotnet", Program, "run", "--kernel", file.Path, .. arguments]).Select(a => $"'{a}'"));
        return new TestProcess(new ProcessStartInfo("sh", ["-c", $"exec {command} <{pty.Name} >{pty.Name} 2>&1"]));
    }

    [Fact]
    public void TheTerminalIsRawForTheGuestAndComesBack()
    {
        using var pty = new Pty();
        string before = pty.Modes;
        using TestProcess process = OnTerminal(pty, Echoes, out TemporaryFile file, "--debug-exit");
        using (file)
        {
            pty.ReadUntil("ready");
            Assert.Contains("-icanon", pty.AllModes);
            pty.Type("\x03z"); // Ctrl-C is the guest's
            pty.ReadUntil("\x03z");
            pty.Type("q");
            process.WaitForExit();
            Assert.Equal(1, process.ExitCode);
            Assert.Equal(before, pty.Modes);
        }
    }

    [Theory]
    [InlineData(PosixSignal.SIGTERM, 143)]
    [InlineData(PosixSignal.SIGHUP, 129)]
    [InlineData(PosixSignal.SIGINT, 130)]
    [InlineData(PosixSignal.SIGQUIT, 131)]
    public void TheTerminalComesBackAfterASignal(PosixSignal signal, int status)
    {
        using var pty = new Pty();
        string before = pty.Modes;
        using TestProcess process = OnTerminal(pty, Waits, out TemporaryFile file);
        using (file)
        {
            pty.ReadUntil("waiting");
            Assert.NotEqual(before, pty.Modes);
            process.Signal(signal);
            process.WaitForExit();
            Assert.Equal(status, process.ExitCode);
            Assert.Equal(before, pty.Modes);
        }
    }

    [Fact]
    public void CtrlAXQuitsAndTheMonitorAnswers()
    {
        using var pty = new Pty();
        string before = pty.Modes;
        using TestProcess process = OnTerminal(pty, Waits, out TemporaryFile file);
        using (file)
        {
            pty.ReadUntil("waiting");
            pty.Type("\x01" + "c");
            pty.ReadUntil("(bunraku) ");
            pty.Type("info registert\bs\r");
            Assert.Contains("RIP=", pty.ReadUntil("(bunraku) "));
            pty.Type("info stats\r");
            Assert.Contains("instructions", pty.ReadUntil("(bunraku) "));
            pty.Type("\x01h");
            pty.ReadUntil("Ctrl-A X");
            pty.Type("\x01x");
            process.WaitForExit();
            Assert.Equal(0, process.ExitCode);
            Assert.Equal(before, pty.Modes);
        }
    }
}
