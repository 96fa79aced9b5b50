using System.Diagnostics;
using Bunraku.Testing;

namespace Bunraku.Cli.Tests;

/// <summary>The stress of several processors, for a few seconds on each software engine; tests/smp-stress runs it for longer.</summary>
public sealed class SmpStressTests(LinuxGuestFiles guest) : IClassFixture<LinuxGuestFiles>
{
    private static string Script([System.Runtime.CompilerServices.CallerFilePath] string here = "") =>
        Path.Combine(Path.GetDirectoryName(here)!, "..", "smp-stress");

    [Theory]
    [InlineData("interp", 2), InlineData("bt", 2), InlineData("bt", 4)]
    public void NoWrongResultNoHangNoWarning(string engine, int cpus)
    {
        // Both streams in one: nothing has to be read beside something else.
        string command = $"exec '{Script()}' --seconds 5 --engine {engine} --cpus {cpus} --kernel '{guest.Kernel}' 2>&1 </dev/null";
        using var process = new TestProcess(new ProcessStartInfo("bash", ["-c", command]) { RedirectStandardOutput = true });
        string output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        Assert.True(process.ExitCode == 0, $"status {process.ExitCode}: {output}");
        Assert.Contains("PASS", output);
    }
}
