using System.Diagnostics;
using Bunraku.Testing;

namespace Bunraku.Cli.Tests;

/// <summary>
/// Linux kernel documentation, "The kernel's command-line parameters", reboot=: every way of restarting a PC resets the machine, which is status 4.
/// </summary>
public sealed class RestartTests(LinuxGuestFiles files) : IClassFixture<LinuxGuestFiles>
{
    [Theory]
    [InlineData("acpi")]
    [InlineData("bios")]
    [InlineData("kbd")]
    [InlineData("pci")]
    [InlineData("triple")]
    public void EveryWayToRestartResetsTheMachine(string way)
    {
        Assert.NotNull(files.Kernel);
        var start = new ProcessStartInfo("dotnet",
            [Path.Combine(AppContext.BaseDirectory, "bunraku.dll"), "run", "--engine", "bt", "--timeout", "5m", "--append", $"reboot={way}", "--", "reboot",
                "-f"])
        { RedirectStandardInput = true, RedirectStandardError = true };
        using var process = new TestProcess(start);
        process.StandardInput.Close();
        string error = process.StandardError.ReadToEnd();
        process.WaitForExit();
        Assert.True(process.ExitCode == 4, $"status {process.ExitCode}: {error}");
        Assert.Contains("reboot: Restarting system", error);
        Assert.Contains("bunraku: the guest reset the machine", error);
    }
}
