using System.Diagnostics;

namespace Bunraku.Cli.Tests;

/// <summary>The stress of several processors, for a few seconds on each software engine; tests/smp-stress runs it for longer.</summary>
public sealed class SmpStressTests
{
    private static string Script([System.Runtime.CompilerServices.CallerFilePath] string here = "") => Path.Combine(Path.GetDirectoryName(here)!, "..", "smp-stress");

    [Theory]
    [InlineData("interp", 2), InlineData("bt", 2), InlineData("bt", 4)]
    public void NoWrongResultNoHangNoWarning(string engine, int cpus)
    {
        // Both streams in one: nothing has to be read beside something else.
        using Process process = Process.Start(new ProcessStartInfo("bash", ["-c", $"exec '{Script()}' --seconds 5 --engine {engine} --cpus {cpus} 2>&1 </dev/null"]) { RedirectStandardOutput = true })!;
        string output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        Assert.True(process.ExitCode == 0, output);
        Assert.Contains("PASS", output);
    }
}
