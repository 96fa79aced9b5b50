using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using Bunraku.Testing;

namespace Bunraku.Cli.Tests;

/// <summary><c>--pidfile</c>, which is QEMU's: qemu-system(1), "-pidfile"; its lock is one of fcntl(2) on the whole file.</summary>
public sealed class PidFileTests : IDisposable
{
    private static readonly byte[] s_waits = TestKernel.Assemble(a =>
    {
        TestKernel.Print(a, "waiting\n");
        TestKernel.Loop(a);
    });

    private readonly string _folder = Directory.CreateTempSubdirectory("bunraku-pid-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private string In(string name) => Path.Combine(_folder, name);

    [Fact]
    public void It_has_one_owner_and_is_gone_with_it()
    {
        File.WriteAllText(In("pid"), "999999999999 of a process that was killed");
        using (new PidFile(In("pid")))
        {
            string ours = $"{Environment.ProcessId}\n";
            Assert.Equal(ours, File.ReadAllText(In("pid")));
            string message = Assert.Throws<CannotStartException>(() => new PidFile(In("pid"))).Message;
            Assert.Contains(In("pid"), message, StringComparison.Ordinal);
            Assert.DoesNotContain('\n', message);
            Assert.Equal(ours, File.ReadAllText(In("pid")));
        }
        Assert.False(File.Exists(In("pid")));
        new PidFile(In("pid")).Dispose();
        Assert.Throws<CannotStartException>(() => new PidFile(In("none/pid")));
        Assert.Throws<CannotStartException>(() => new PidFile("/dev/null"));
    }

    [Fact]
    public void What_another_one_put_in_its_place_stays()
    {
        using (new PidFile(In("pid")))
        {
            File.Delete(In("pid"));
            File.WriteAllText(In("pid"), "1\n");
        }
        Assert.Equal("1\n", File.ReadAllText(In("pid")));
    }

    [Fact]
    public void A_second_process_is_refused_and_the_first_one_keeps_it()
    {
        File.WriteAllBytes(In("kernel"), s_waits);
        using TestProcess first = Start("run", "--engine", "interp", "--memory", "16M", "--kernel", In("kernel"), "--pidfile", In("pid"));
        Assert.Equal("waiting", first.StandardOutput.ReadLine());
        string number = first.Id.ToString(CultureInfo.InvariantCulture) + "\n";
        foreach (string[] words in (string[][])[["run", "--timeout", "20s", "--kernel", In("kernel"), "--pidfile", In("pid")],
            ["qemu", "-display", "none", "-kernel", In("kernel"), "-pidfile", In("pid")]])
        {
            using TestProcess second = Start(words);
            string errors = second.StandardError.ReadToEnd();
            second.WaitForExit();
            Assert.Equal(1, second.ExitCode);
            Assert.Matches($"^bunraku: [^\n]*{In("pid")}[^\n]*\n$", errors);
            Assert.Equal(number, File.ReadAllText(In("pid")));
        }
        first.Signal(PosixSignal.SIGTERM);
        first.WaitForExit();
        Assert.False(File.Exists(In("pid")));
    }

    private static TestProcess Start(params string[] arguments) =>
        new(new ProcessStartInfo("env", ["--default-signal", "dotnet", Path.Combine(AppContext.BaseDirectory, "bunraku.dll"), .. arguments])
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        });
}
