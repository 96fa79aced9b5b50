using System.Diagnostics;
using System.Runtime.InteropServices;
using Bunraku.Testing;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Cli.Tests;

/// <summary>A terminal that is attached to a VM in the background: docs/control.md, "In the background".</summary>
public sealed class AttachTests : IDisposable
{
    /// <summary>Sends back what it receives.</summary>
    private static readonly byte[] s_echoes = TestKernel.Assemble(a =>
    {
        TestKernel.Print(a, "ready\n");
        TestKernel.Out(a, 0x3FC, 3); // DTR and RTS
        Label next = a.CreateLabel();
        a.Label(ref next);
        TestKernel.Receive(a);
        a.@out(dx, al);
        a.jmp(next);
    });

    private readonly string _folder = Directory.CreateTempSubdirectory("bunraku-attach-").FullName;
    private readonly TemporaryFile _kernel = new(s_echoes);

    public void Dispose()
    {
        _kernel.Dispose();
        Directory.Delete(_folder, recursive: true);
    }

    private TestProcess Start(string words, string streams)
    {
        string program = Path.Combine(AppContext.BaseDirectory, "bunraku.dll");
        return new TestProcess(new ProcessStartInfo("sh", ["-c", $"exec env --default-signal dotnet '{program}' {words} {streams}"])
        {
            Environment = { ["XDG_RUNTIME_DIR"] = _folder },
        });
    }

    private int Run(string words)
    {
        using TestProcess process = Start(words, "</dev/null >/dev/null 2>&1");
        process.WaitForExit();
        return process.ExitCode;
    }

    private void WithVm(string escape, Action<Pty> test)
    {
        Assert.Equal(0, Run($"run --detach --name v --escape {escape} --engine interp --memory 16M --kernel '{_kernel.Path}'"));
        try
        {
            using var pty = new Pty();
            test(pty);
        }
        finally
        {
            Assert.Equal(0, Run("kill v"));
        }
    }

    private TestProcess Attach(Pty pty) => Start("attach v", $"<{pty.Name} >{pty.Name} 2>&1");

    [Fact]
    public void The_terminal_comes_back_after_a_signal() => WithVm("none", pty =>
    {
        string before = pty.Modes;
        foreach ((PosixSignal signal, int status) in ((PosixSignal, int)[])[(PosixSignal.SIGTERM, 143), (PosixSignal.SIGHUP, 129), (PosixSignal.SIGINT, 130),
            (PosixSignal.SIGQUIT, 131)])
        {
            using TestProcess process = Attach(pty);
            pty.ReadUntil("ready");
            Assert.NotEqual(before, pty.Modes);
            pty.Type("\x01\x64z"); // no key is one for commands here
            pty.ReadUntil("\x01\x64z");
            process.Signal(signal);
            pty.ReadUntil("no longer attached");
            process.WaitForExit();
            Assert.Equal((status, before), (process.ExitCode, pty.Modes));
        }
    });

    [Fact]
    public void The_escape_key_is_that_of_the_VM() => WithVm("^B", pty =>
    {
        string before = pty.Modes;
        using TestProcess process = Attach(pty);
        Assert.Contains("Ctrl-B D", pty.ReadUntil("ready"), StringComparison.Ordinal);
        pty.Type("1\x01\x01\x01\x64z");
        pty.ReadUntil("1\x01\x01\x01\x64z");
        pty.Type("2\x02\x02z"); // once for the guest
        pty.ReadUntil("2\x02z");
        pty.Type("\x02h");
        pty.ReadUntil("Ctrl-B D");
        pty.Type("\x02");
        pty.Type("d");
        pty.ReadUntil("no longer attached");
        process.WaitForExit();
        Assert.Equal((0, before), (process.ExitCode, pty.Modes));
    });
}
