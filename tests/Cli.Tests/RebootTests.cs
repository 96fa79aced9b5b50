using System.Diagnostics;
using Bunraku.Testing;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Cli.Tests;

/// <summary>A guest that resets the machine boots again, unless somebody waits for its end. With a command: <see cref="RestartTests"/>.</summary>
public class RebootTests
{
    private static readonly string Program = Path.Combine(AppContext.BaseDirectory, "bunraku.dll");

    /// <summary>Prints "up", waits for a byte, and ends with status 1 when it is 'q'; else it resets the machine as the keyboard controller does.</summary>
    private static readonly byte[] Resets = TestKernel.Assemble(a =>
    {
        TestKernel.Print(a, "up\n");
        TestKernel.Out(a, 0x3FC, 3); // DTR and RTS
        TestKernel.Receive(a);
        Label quit = a.CreateLabel();
        a.cmp(al, (sbyte)'q');
        a.je(quit);
        TestKernel.Out(a, 0x64, 0xFE);
        TestKernel.Loop(a);
        a.Label(ref quit);
        TestKernel.Out(a, 0xF4, 0);
        TestKernel.Loop(a);
    });

    private static void OnTerminal(string[] options, Action<Pty, TestProcess> act)
    {
        using var pty = new Pty();
        string before = pty.Modes;
        using var kernel = new TemporaryFile(Resets);
        string command = $"exec dotnet '{Program}' run --kernel '{kernel.Path}' --debug-exit {string.Join(' ', options)} <{pty.Name} >{pty.Name} 2>&1";
        using var process = new TestProcess(new ProcessStartInfo("sh", ["-c", command]));
        pty.ReadUntil("up");
        act(pty, process);
        Assert.Equal(before, pty.Modes);
    }

    [Fact]
    public void OnATerminalItBootsAgainEachTime() => OnTerminal([], (pty, process) =>
    {
        pty.Type("r");
        pty.ReadUntil("up");
        pty.Type("r");
        pty.ReadUntil("up");
        pty.Type("q");
        process.WaitForExit();
        Assert.Equal(1, process.ExitCode);
    });

    [Fact]
    public void WithNoRebootItIsTheEnd() => OnTerminal(["--no-reboot"], (pty, process) =>
    {
        pty.Type("r");
        Assert.DoesNotContain("up", pty.ReadUntil("bunraku: the guest reset the machine"));
        process.WaitForExit();
        Assert.Equal(4, process.ExitCode);
    });
}
