using System.Diagnostics;
using Bunraku.Testing;

namespace Bunraku.Cli.Tests;

/// <summary>What a test starts ends with it.</summary>
public sealed class TestProcessTests
{
    private static TestProcess Sleeper() => new(new ProcessStartInfo("sh", ["-c", "sleep 1000 & echo $!; sleep 1000"]) { RedirectStandardOutput = true });

    private static bool Runs(string id) => File.Exists($"/proc/{id}/stat") && !File.ReadAllText($"/proc/{id}/stat").Contains(") Z ", StringComparison.Ordinal);

    [Fact]
    public void DisposalEndsTheWholeGroup()
    {
        string child;
        using (TestProcess process = Sleeper())
        {
            child = process.StandardOutput.ReadLine()!;
            Assert.True(Runs(child));
        }
        AwaitEnd(child);
    }

    [Fact]
    public void TheEndOfTheTestHostEndsWhatWasNotDisposed()
    {
        using TestProcess left = Sleeper(), disposed = Sleeper();
        string child = left.StandardOutput.ReadLine()!;
        using Process warden = ProcessWarden.StartShell();
        warden.StandardInput.WriteLine($"watch {left.Id}\nwatch {disposed.Id}\nforget {disposed.Id}");
        warden.StandardInput.Close(); // as the host's end does
        left.WaitForExit();
        Assert.Equal(137, left.ExitCode);
        AwaitEnd(child);
        warden.WaitForExit();
        Assert.False(disposed.HasExited);
    }

    /// <summary>SIGKILL was sent; it is up to the host's scheduler when the process is gone.</summary>
    private static void AwaitEnd(string id)
    {
        while (Runs(id)) Thread.Sleep(1);
    }
}
