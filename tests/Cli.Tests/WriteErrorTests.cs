using System.Diagnostics;
using Bunraku.Hypervisor;
using Bunraku.Testing;

namespace Bunraku.Cli.Tests;

/// <summary>What cannot be written is said in one line with the system's words, as other programs do (/dev/full, full(4)), and is in the status.</summary>
public sealed class WriteErrorTests : IClassFixture<LinuxGuestFiles>
{
    private const string NoSpace = "No space left on device"; // ENOSPC, errno(3)
    private static readonly string Program = Path.Combine(AppContext.BaseDirectory, "bunraku.dll");

    /// <param name="output">File for standard output.</param>
    private static (int Status, string Error) Run(string output, params string[] arguments)
    {
        string command = string.Join(' ', arguments.Prepend(Program).Prepend("dotnet").Select(a => $"'{a}'"));
        // Where the program is over first, echo complains.
        string line = $"echo line 2>/dev/null | exec {command} >{output}";
        using var process = new TestProcess(new ProcessStartInfo("sh", ["-c", line]) { RedirectStandardError = true });
        string error = process.StandardError.ReadToEnd();
        process.WaitForExit();
        return (process.ExitCode, error);
    }

    [Theory]
    [InlineData("/dev/full", "/dev/null", "run", "hello", "--stats-json", "/dev/full")]
    [InlineData("/dev/full", "/dev/null", "run", "hello", "--trace", "exits:/dev/full")]
    [InlineData("/dev/full", "/dev/null", "run", "hello", "--serial", "file:/dev/full")]
    [InlineData("standard output", "/dev/full", "run", "hello")]
    [InlineData("standard output", "/dev/full", "--help")]
    [InlineData("standard output", "/dev/full", "--version")]
    [InlineData("standard output", "/dev/full", "engines")]
    [InlineData("standard output", "/dev/full", "run", "--cpu", "help")]
    [InlineData("standard output", "/dev/full", "[suggest]", "run --")]
    [InlineData("standard output", "/dev/full", "lab", "popek-goldberg", "--engine", "interp")]
    [InlineData("/dev/full", "/dev/null", "lab", "popek-goldberg", "--engine", "interp", "--json", "/dev/full")]
    public void AFullDiskIsOneLineAndStatus1(string what, string output, params string[] arguments) =>
        Assert.Equal((1, $"bunraku: cannot write {what}: {NoSpace}\n"), Run(output, arguments));

    [Theory]
    [InlineData(0)]
    [InlineData(3)]
    public void TheCommandsOwnStatusStaysWhereAReportIsLost(int status) =>
        Assert.Equal((status, $"bunraku: cannot write /dev/full: {NoSpace}\n"),
            Run("/dev/null", "run", "--stats-json", "/dev/full", "--", "sh", "-c", $"exit {status}"));

    [Fact]
    public void AClosedStandardOutputIsOneLineToo() => Assert.Equal((1, "bunraku: cannot write standard output: Bad file descriptor\n"), Run("&-", "--help"));

    [Fact]
    public void AFullStandardErrorIsAStatusToo() => Assert.Equal((1, ""), Run("/dev/null 2>/dev/full", "run", "hello", "--stats"));

    [Theory]
    [InlineData("--stats-json", "/nonexistent/file", "No such file or directory")]
    [InlineData("--trace", "exits:/nonexistent/file", "No such file or directory")]
    [InlineData("--serial", "file:/nonexistent/file", "No such file or directory")]
    [InlineData("--stats-json", "/", "Permission denied|Is a directory")]
    public void AFileThatCannotBeCreatedIsToldBeforeTheGuestRuns(string option, string value, string reason)
    {
        (int status, string error) = Run("/dev/null", "run", "hello", option, value);
        Assert.Equal(1, status);
        Assert.Matches($"^bunraku: {option}: cannot write {value.Split(':')[^1]}: ({reason})\n$", error);
    }

    [Fact]
    public void AMapForPerfThatCannotBeMadeIsToldBeforeTheGuestRuns()
    {
        // Its name has the number of the process, which stays the shell's.
        string script = $"mkdir /tmp/perf-$$.map /tmp/perf-$$.map/x && exec dotnet '{Program}' run hello --engine bt --perf-map 2>&1 >/dev/null";
        using var process = new TestProcess(new ProcessStartInfo("sh", ["-c", script]) { RedirectStandardOutput = true });
        string map = $"/tmp/perf-{process.Id}.map";
        try
        {
            string error = process.StandardOutput.ReadToEnd();
            process.WaitForExit();
            Assert.Equal(1, process.ExitCode);
            Assert.Matches($"^bunraku: --perf-map: cannot write {map}: [^\n]+\n$", error);
        }
        finally
        {
            Directory.Delete(map, recursive: true);
        }
        Assert.Empty(Directory.GetFiles("/tmp", $"perf-{process.Id}.map*"));
    }

    [Theory]
    [InlineData(null, 0, false, 0)]
    [InlineData(null, 1, false, 1)]
    [InlineData(null, 0, true, 1)]
    [InlineData(0, 0, true, 0)]
    [InlineData(0, 141, false, 141)] // a command whose output nobody took has not succeeded
    [InlineData(0, 1, true, 1)]
    [InlineData(7, 1, true, 7)]
    public void StatusOfWhatCouldNotBeWritten(int? command, int outputStatus, bool reportLost, int expected) =>
        Assert.Equal(expected,
            RunGuest.Status(new VmResult(new StopCause(StopReason.PowerOff), HostEnd.None, 0, command, command is not null), outputStatus, reportLost));
}
