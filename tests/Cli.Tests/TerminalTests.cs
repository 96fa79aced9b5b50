using System.IO.Pipes;
using Bunraku.Platform;

namespace Bunraku.Cli.Tests;

public class TerminalTests
{
    private static OutputPump PumpTo(PipeStream pipe, Action<int> closed) =>
        new(bytes => DescriptorWriter.WriteAll((int)pipe.SafePipeHandle.DangerousGetHandle(), bytes.Span), closed);

    [Fact]
    public void RawModePassesKeysAndKeepsLineEndsOfOutput()
    {
        using var pty = new Pty();
        using Terminal terminal = Terminal.Open(pty.Slave)!;
        terminal.EnterRaw();
        string[] modes = pty.AllModes.Split([' ', ';', '\n'], StringSplitOptions.RemoveEmptyEntries);
        Assert.Contains("-icanon", modes);
        Assert.Contains("-echo", modes);
        Assert.Contains("-isig", modes);
        Assert.Contains("-icrnl", modes);
        Assert.Contains("-ixon", modes);
        Assert.Contains("-iexten", modes);
        Assert.Contains("opost", modes);
        Assert.Contains("cs8", modes);
    }

    [Fact]
    public void RestoreBringsBackExactlyWhatWasFound()
    {
        using var pty = new Pty();
        string before = pty.Modes;
        using Terminal terminal = Terminal.Open(pty.Slave)!;
        terminal.EnterRaw();
        Assert.NotEqual(before, pty.Modes);
        terminal.Restore();
        Assert.Equal(before, pty.Modes);
        terminal.EnterRaw();
        terminal.Dispose();
        Assert.Equal(before, pty.Modes);
        terminal.EnterRaw();
        Assert.Equal(before, pty.Modes);
    }

    [Fact]
    public void APipeIsNoTerminal()
    {
        using var pipe = new AnonymousPipeServerStream(PipeDirection.In);
        int fd = (int)pipe.SafePipeHandle.DangerousGetHandle();
        Assert.Null(Terminal.Open(fd));
        Assert.False(Terminal.Is(fd));
    }

    [Fact]
    public void AReaderCanBeStoppedWhileItWaits()
    {
        using var pty = new Pty();
        using var reader = new DescriptorReader(pty.Slave);
        int got = -1;
        var thread = new Thread(() => got = reader.Read(new byte[1]));
        thread.Start();
        reader.Stop();
        thread.Join();
        Assert.Equal(0, got);
    }

    [Fact]
    public void AReaderSeesTheEndOfAPipe()
    {
        var server = new AnonymousPipeServerStream(PipeDirection.Out);
        using var client = new AnonymousPipeClientStream(PipeDirection.In, server.ClientSafePipeHandle);
        using var reader = new DescriptorReader((int)client.SafePipeHandle.DangerousGetHandle());
        server.Write("ab"u8);
        byte[] buffer = new byte[8];
        Assert.Equal(2, reader.Read(buffer));
        server.Dispose();
        Assert.Equal(0, reader.Read(buffer));
    }

    [Fact]
    public void OutputKeepsItsOrderAndNoneIsLost()
    {
        using var server = new AnonymousPipeServerStream(PipeDirection.In);
        var client = new AnonymousPipeClientStream(PipeDirection.Out, server.ClientSafePipeHandle);
        var pump = PumpTo(client, _ => Assert.Fail("nobody closed it"));
        byte[] expected = new byte[3 << 20];
        new Random(1).NextBytes(expected);
        var writer = new Thread(() =>
        {
            for (int n = 0; n < expected.Length;)
            {
                int length = Math.Min(1 + n % 977, expected.Length - n);
                pump.Write(expected.AsSpan(n, length));
                pump.Throttle();
                n += length;
            }
            pump.Dispose();
            client.Dispose();
        });
        writer.Start();
        var all = new MemoryStream();
        server.CopyTo(all);
        writer.Join();
        Assert.Equal(expected, all.ToArray());
    }

    [Fact]
    public void AClosedPipeIsToldOnceAndNothingHangs()
    {
        var server = new AnonymousPipeServerStream(PipeDirection.In);
        using var client = new AnonymousPipeClientStream(PipeDirection.Out, server.ClientSafePipeHandle);
        server.Dispose();
        using var closed = new SemaphoreSlim(0);
        using var pump = PumpTo(client, _ => closed.Release());
        pump.Write("x"u8);
        closed.Wait();
        pump.Write(new byte[4 << 20]);
        pump.Throttle();
        pump.Flush();
        Assert.Equal(0, closed.CurrentCount);
    }

    [Fact]
    public void ReleaseEndsAWaitForASlowReader()
    {
        using var server = new AnonymousPipeServerStream(PipeDirection.In);
        using var client = new AnonymousPipeClientStream(PipeDirection.Out, server.ClientSafePipeHandle);
        var pump = PumpTo(client, _ => { });
        pump.Write(new byte[1 << 20]);
        pump.Write(new byte[1 << 20]); // the reader takes nothing: the queue is full
        var thread = new Thread(() => pump.Throttle());
        thread.Start();
        pump.Release();
        thread.Join();
        server.Dispose();
        pump.Dispose(); // before the descriptor is free for somebody else
    }
}
