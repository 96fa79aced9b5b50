using System.Diagnostics;
using Bunraku.Testing;

namespace Bunraku.Cli.Tests;

/// <summary>
/// Every byte of a command's standard input and output comes through, whoever is slow and however many processors take part. Compared are the bytes
/// themselves. tests/guest-streams moves more.
/// </summary>
public sealed class GuestStreamTests : IClassFixture<LinuxGuestFiles>
{
    /// <summary>What program and guest hold back together is less than this: with more, each end has to wait for the other.</summary>
    private const int MoreThanIsHeld = 3 << 20;

    private static readonly string Program = Path.Combine(AppContext.BaseDirectory, "bunraku.dll");

    private static byte[] RandomBytes(int size)
    {
        byte[] bytes = new byte[size];
        new Random(size).NextBytes(bytes);
        return bytes;
    }

    /// <param name="write">Writes the input; the stream is closed behind it.</param>
    /// <param name="read">Reads the output to its end.</param>
    private static void Check(byte[] input, Action<Stream> write, Action<Stream, Stream> read, params string[] arguments)
    {
        using var process = new TestProcess(new ProcessStartInfo("dotnet", [Program, "run", "--timeout", "10m", .. arguments])
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        });
        Task<string> error = process.StandardError.ReadToEndAsync();
        Task typing = Task.Run(() =>
        {
            write(process.StandardInput.BaseStream);
            process.StandardInput.Close();
        });
        var output = new MemoryStream();
        read(process.StandardOutput.BaseStream, output);
        process.WaitForExit();
        Same(input, output.ToArray());
        Assert.Equal((42, ""), (process.ExitCode, error.Result));
        typing.Wait();
    }

    private static void Same(byte[] expected, byte[] actual)
    {
        int first = expected.AsSpan().CommonPrefixLength(actual);
        Assert.True(first == expected.Length && first == actual.Length, $"{actual.Length} of {expected.Length} bytes came, equal up to {first}");
    }

    private static void ReadAll(Stream from, Stream to) => from.CopyTo(to);

    [Theory]
    [InlineData("bt", 1, 2 * MoreThanIsHeld), InlineData("bt", 2, 2 * MoreThanIsHeld), InlineData("bt", 4, MoreThanIsHeld),
        InlineData("interp", 2, MoreThanIsHeld / 3)]
    public void ThroughPipes(string engine, int cpus, int size)
    {
        byte[] input = RandomBytes(size);
        Check(input, s => s.Write(input), ReadAll, "--engine", engine, "--cpus", $"{cpus}", "--", "sh", "-c", "cat; exit 42");
    }

    /// <summary>Standard output and error come apart, and one of them ends where the other goes on.</summary>
    [Fact]
    public async Task StandardErrorComesApart()
    {
        byte[] input = RandomBytes(MoreThanIsHeld / 3);
        using var process = new TestProcess(new ProcessStartInfo("dotnet",
            [Program, "run", "--timeout", "10m", "--", "sh", "-c", "tee /tmp/f; exec >&-; cat /tmp/f >&2; echo end >/dev/stderr; exit 42"])
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        });
        var errors = new MemoryStream();
        Task reading = process.StandardError.BaseStream.CopyToAsync(errors);
        Task typing = Task.Run(() =>
        {
            process.StandardInput.BaseStream.Write(input);
            process.StandardInput.Close();
        });
        var output = new MemoryStream();
        await process.StandardOutput.BaseStream.CopyToAsync(output);
        process.WaitForExit();
        await reading;
        await typing;
        Same(input, output.ToArray());
        Same([.. input, .. "end\n"u8], errors.ToArray());
        Assert.Equal(42, process.ExitCode);
    }

    [Fact]
    public async Task OverSerialPortsWhereThereIsNoDriver()
    {
        byte[] input = RandomBytes(300_000);
        var output = new MemoryStream();
        await using Vm vm = new VmBuilder(KnownEngines.All)
        {
            Command = ["sh", "-c", "cat; echo end >&2; ls /dev/vport* 2>/dev/null; exit 42"],
            Input = new MemoryStream(input),
            Output = output,
            SerialStreams = true,
            Timeout = TimeSpan.FromMinutes(10),
        }.Build();
        VmResult result = await vm.RunAsync();
        Same([.. input, .. "end\n"u8], output.ToArray());
        Assert.Equal(42, result.ExitStatus);
    }

    [Fact]
    public void FromAFileToAFile()
    {
        byte[] input = RandomBytes(MoreThanIsHeld);
        string folder = Directory.CreateTempSubdirectory("bunraku-streams").FullName;
        try
        {
            string from = Path.Combine(folder, "in"), to = Path.Combine(folder, "out");
            File.WriteAllBytes(from, input);
            using var process = new TestProcess(new ProcessStartInfo("sh",
                ["-c", $"exec dotnet '{Program}' run --timeout 10m --cpus 2 -- sh -c 'cat; exit 42' <'{from}' >'{to}'"])
            { RedirectStandardError = true });
            string error = process.StandardError.ReadToEnd();
            process.WaitForExit();
            Same(input, File.ReadAllBytes(to));
            // The end of it says why.
            Assert.True(process.ExitCode == 42 && error.Length == 0, $"status {process.ExitCode}: …{error[^Math.Min(error.Length, 2000)..]}");
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    [Fact]
    public void ToAReaderThatWaits()
    {
        // All that is between the two ends is full before the first byte is read.
        byte[] input = RandomBytes(MoreThanIsHeld);
        Check(input, s => s.Write(input), (from, to) =>
        {
            Thread.Sleep(8000);
            from.CopyTo(to);
        }, "--cpus", "2", "--", "sh", "-c", "cat; exit 42");
    }

    [Fact]
    public void FromAWriterInSmallPieces()
    {
        byte[] input = RandomBytes(200_000);
        var random = new Random(2);
        Check(input, s =>
        {
            for (int done = 0; done < input.Length;)
            {
                int piece = Math.Min(random.Next(1, 2000), input.Length - done);
                s.Write(input, done, piece);
                s.Flush();
                done += piece;
                if (random.Next(4) == 0) Thread.Sleep(random.Next(30));
            }
        }, ReadAll, "--cpus", "2", "--", "sh", "-c", "cat; exit 42");
    }

    [Fact]
    public void ThroughACommandThatWaitsAndReadsInSmallPieces()
    {
        byte[] input = RandomBytes(MoreThanIsHeld / 2);
        Check(input, s => s.Write(input), ReadAll, "--cpus", "2", "--", "sh", "-c", "(sleep 2; dd bs=777 | (sleep 2; dd bs=333)) 2>/dev/null; exit 42");
    }

    [Theory]
    [InlineData("exec <&-; sleep 1; echo done; exit 42")]
    [InlineData("head -c 100000 >/dev/null; sleep 1; echo done; exit 42")]
    public void ACommandNeedNotReadItsInput(string command)
    {
        byte[] input = RandomBytes(MoreThanIsHeld);
        Check("done\n"u8.ToArray(), s =>
        {
            try
            {
                s.Write(input);
            }
            catch (IOException)
            {
                // Nobody reads any more.
            }
        }, ReadAll, "--", "sh", "-c", command);
    }

    [Theory]
    // The line that Linux would print is given by the test. A sleeping command stands for one that waits for ever for what was lost.
    [InlineData("true", "tx:0 rx:9 bo:7", "the guest's kernel lost 7 bytes of the command's input")]
    [InlineData("sleep 100000", "tx:0 rx:9 bo:7", "the guest's kernel lost 7 bytes of the command's input")]
    [InlineData("true", "tx:9 rx:9", "the guest sent 9 bytes of the command's output and 0 came")]
    // The line was told "1 0\n": there is no input.
    [InlineData("sleep 100000", "tx:0 rx:1", "3 bytes of the command's input were lost on the line to the guest")]
    public Task WhatLinuxMissesIsAnError(string command, string counted, string expected) =>
        CheckError([], expected, $"echo '1: uart:16550A port:000002F8 irq:3 {counted}' >/tmp/line; mount --bind /tmp/line /proc/tty/driver/serial; {command}");

    [Fact]
    public Task InputWithAHoleIsAnError() =>
        CheckError(RandomBytes(MoreThanIsHeld / 6), "bytes of the command's input were lost on their way through the guest",
            "head -c 3 </dev/ttyS1 >/dev/null & cat >/dev/null; wait");

    /// <summary>Bytes can be lost on serial ports alone.</summary>
    private static async Task CheckError(byte[] input, string expected, string command)
    {
        await using Vm vm = new VmBuilder(KnownEngines.All)
        {
            Command = ["sh", "-c", command],
            Input = new MemoryStream(input),
            SerialStreams = true,
            Timeout = TimeSpan.FromMinutes(5),
        }.Build();
        VmResult result = await vm.RunAsync();
        Assert.Equal(expected, result.StreamDamage);
        Assert.Equal(125, result.ExitStatus);
        // Whether the command came to its end before the loss was seen is a race.
        Assert.Matches($"^{expected}(; its status was 0)?$", string.Join('\n', RunGuest.Reasons(result)));
    }
}
