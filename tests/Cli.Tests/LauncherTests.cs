using System.Diagnostics;
using System.Runtime.InteropServices;
using Bunraku.Testing;

namespace Bunraku.Cli.Tests;

/// <summary>The script ./bunraku in a checkout of its own, with a <c>dotnet</c> that notes how it was called.</summary>
public sealed class LauncherTests : IDisposable
{
    private const int Nobody = 65534;

    private readonly string _root = Directory.CreateTempSubdirectory("bunraku-launcher-").FullName;

    private string Checkout => Path.Combine(_root, "checkout");
    private string Artifacts => Path.Combine(Checkout, "artifacts", "bunraku");
    private string Cache => Path.Combine(_root, "cache");
    private string Tools => Path.Combine(_root, "tools");
    private string[] Calls => File.Exists(Path.Combine(_root, "calls")) ? File.ReadAllLines(Path.Combine(_root, "calls")) : [];

    private static string Script([System.Runtime.CompilerServices.CallerFilePath] string here = "") =>
        Path.Combine(Path.GetDirectoryName(here)!, "..", "..", "bunraku");

    public LauncherTests()
    {
        Directory.CreateDirectory(Path.Combine(Checkout, "src", "Cli"));
        Directory.CreateDirectory(Tools);
        Directory.CreateDirectory(Cache);
        File.Copy(Script(), Path.Combine(Checkout, "bunraku"));
        foreach (string file in (string[])["Directory.Build.props", "Directory.Packages.props", "global.json", ".editorconfig"])
            File.WriteAllText(Path.Combine(Checkout, file), "");
        Dotnet("""
            printf '#!/bin/sh\necho "program: $*"\n' >"$out/bunraku"
            chmod +x "$out/bunraku"
            """);
        // Everybody may use the folder, as /tmp: the script may run as somebody else.
        Sh($"chmod -R a+rwX '{_root}'");
    }

    private void Dotnet(string body)
    {
        string path = Path.Combine(Tools, "dotnet");
        File.WriteAllText(path, $"""
            #!/bin/sh
            echo "$*" >>'{_root}/calls'
            while [ $# -gt 0 ]; do
                [ "$1" = -o ] && out=$2
                shift
            done
            {body}
            """);
        Sh($"chmod 755 '{path}'");
    }

    private static void Sh(string command)
    {
        using Process process = Process.Start("sh", ["-c", command]);
        process.WaitForExit();
        Assert.Equal(0, process.ExitCode);
    }

    /// <summary>Starts the script, as a user without privileges.</summary>
    private TestProcess Start(params string[] arguments)
    {
        // Whoever may write everywhere sees no folder that cannot be written.
        string[] user = Environment.IsPrivilegedProcess ? ["setpriv", $"--reuid={Nobody}", $"--regid={Nobody}", "--clear-groups"] : ["env"];
        var start =
            new ProcessStartInfo(user[0], [.. user[1..], "bash", Path.Combine(Checkout, "bunraku"), .. arguments])
            {
                RedirectStandardOutput = true,
                RedirectStandardError = true
            };
        start.Environment["PATH"] = $"{Tools}:{Environment.GetEnvironmentVariable("PATH")}";
        start.Environment["XDG_CACHE_HOME"] = Cache;
        return new TestProcess(start);
    }

    private (int Status, string Output, string Error) Run(params string[] arguments)
    {
        using TestProcess process = Start(arguments);
        Task<string> error = process.StandardError.ReadToEndAsync();
        string output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        return (process.ExitCode, output, error.Result);
    }

    [Fact]
    public void BuildsInTheCheckoutOnceWithoutACompilerServer()
    {
        Assert.Equal((0, "program: run a b\n", ""), Run("run", "a b"));
        Assert.Equal((0, "program: --version\n", ""), Run("--version"));
        string call = Assert.Single(Calls);
        Assert.Contains("-p:UseSharedCompilation=false", call);
        Assert.Contains("-nodeReuse:false", call);
        Assert.Single(Directory.GetDirectories(Artifacts, "build-*"));
        Assert.Empty(Directory.GetFileSystemEntries(Cache));
        File.WriteAllText(Path.Combine(Checkout, "src", "Cli", "New.cs"), "");
        Assert.Equal(0, Run().Status);
        Assert.Equal(2, Calls.Length);
    }

    /// <summary>What a program of machine code alone needs may be missing: it runs on the runtime then.</summary>
    [Fact]
    public void WhereItCannotBeLinkedItIsBuiltForTheRuntime()
    {
        Dotnet($"""
            case $(tail -n 1 '{_root}/calls') in *NativeLinker*) touch "$out/half"; exit 1 ;; esac
            [ ! -e "$out/half" ] || exit 1
            printf '#!/bin/sh\necho "program: $*"\n' >"$out/bunraku"
            chmod +x "$out/bunraku"
            """);
        Assert.Equal((0, "program: x\n", ""), Run("x"));
        Assert.Equal(2, Calls.Length);
        Assert.Contains("-p:NativeLinker=", Calls[0]);
        Assert.DoesNotContain("-p:NativeLinker=", Calls[1]);
        Assert.Contains("-p:HostFramework=", Calls[1]);
    }

    [Fact]
    public void ACheckoutThatCannotBeWrittenIsBuiltInTheCache()
    {
        Sh($"chmod -R a-w '{Checkout}'");
        Assert.Equal((0, "program: x\n", ""), Run("x"));
        Assert.Equal((0, "program: y\n", ""), Run("y"));
        Assert.Contains($"--artifacts-path {Cache}/bunraku/build/", Assert.Single(Calls));
        Assert.False(Directory.Exists(Artifacts));
    }

    [Fact]
    public void AStartThatWaitsForAnothersBuildSaysSo()
    {
        Directory.CreateDirectory(Artifacts);
        Sh($"touch '{Artifacts}/lock'; chmod -R a+rwX '{Checkout}'");
        using var other = new TestProcess(new ProcessStartInfo("flock", [Path.Combine(Artifacts, "lock"), "sh", "-c", "echo held; read line"])
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
        });
        Assert.Equal("held", other.StandardOutput.ReadLine());
        using TestProcess process = Start("x");
        Assert.Equal($"bunraku: waiting for another start, which builds in {Artifacts}", process.StandardError.ReadLine());
        Assert.Empty(Calls);
        other.StandardInput.Close();
        Assert.Equal("program: x\n", process.StandardOutput.ReadToEnd());
    }

    [Theory]
    [InlineData("log"), InlineData("lock")]
    public void SomebodyElsesFilesInTheCheckoutAreLeftAlone(string name)
    {
        Directory.CreateDirectory(Artifacts);
        string path = Path.Combine(Artifacts, name);
        File.WriteAllText(path, "theirs");
        Sh($"chmod -R a+rwX '{Checkout}'; chmod 444 '{path}'");
        Assert.Equal((0, "program: x\n", ""), Run("x"));
        Assert.Equal("theirs", File.ReadAllText(path));
        Assert.Single(Directory.GetDirectories(Path.Combine(Cache, "bunraku", "build")));
    }

    [Fact]
    public void WhereNothingCanBeWrittenOneLineSaysSo()
    {
        Sh($"chmod -R a-w '{Checkout}' '{Cache}'");
        (int status, string output, string error) = Run();
        Assert.Equal((125, ""), (status, output));
        Assert.Matches("^bunraku: neither .* nor .* can be written; set XDG_CACHE_HOME to a folder that can\n$", error);
    }

    [Fact]
    public void AFailedBuildShowsItsErrorsWithoutThePath()
    {
        Dotnet($"echo '{Checkout}/src/Cli/A.cs(1,1): error CS1: no' ; exit 1");
        (int status, string output, string error) = Run();
        Assert.Equal((125, ""), (status, output));
        Assert.Equal($"src/Cli/A.cs(1,1): error CS1: no\nbunraku: the build failed; the whole log is {Artifacts}/log\n", error);
        Assert.Empty(Directory.GetDirectories(Artifacts));
    }

    [Fact]
    public void WithoutANetworkOneLineSaysWhatCannotBeFetched()
    {
        const string error = "error NU1301:";
        Dotnet($"""
            for project in A B; do
                echo "{Checkout}/src/$project.csproj : {error}   Name or service not known (api.nuget.org:443) [{Checkout}/src/C.csproj]"
                echo "{Checkout}/src/$project.csproj : {error} Unable to load the service index for source https://api.nuget.org/v3/index.json."
            done
            exit 1
            """);
        Assert.Equal((125, "", $"bunraku: the packages that the build needs cannot be fetched: Name or service not known (api.nuget.org:443)\n"
            + $"bunraku: the build failed; the whole log is {Artifacts}/log\n"), Run());
    }

    [Theory]
    [InlineData("sleep 1000 & echo $! >'ROOT/helper'; wait")]
    [InlineData("trap '' TERM; sleep 1000 & echo $! >'ROOT/helper'; while :; do wait; done")] // one that does not go when asked
    public void AnInterruptedBuildLeavesNothingBehind(string build)
    {
        Dotnet(build.Replace("ROOT", _root, StringComparison.Ordinal));
        string helper = Path.Combine(_root, "helper");
        using TestProcess process = Start();
        while (!File.Exists(helper) || File.ReadAllText(helper).Length == 0) Thread.Sleep(10);
        process.Signal(PosixSignal.SIGTERM);
        process.WaitForExit();
        Assert.Equal(130, process.ExitCode);
        string status = $"/proc/{File.ReadAllText(helper).Trim()}/status";
        // It may still be on its way out, or wait for its parent of last resort to take notice.
        while (File.Exists(status) && !Ended(status)) Thread.Sleep(10);
        Assert.Empty(Directory.GetDirectories(Artifacts));
    }

    private static bool Ended(string status)
    {
        try
        {
            return File.ReadLines(status).Any(l => l.StartsWith("State:\tZ", StringComparison.Ordinal));
        }
        catch (IOException)
        {
            return true; // it went while we looked
        }
    }

    public void Dispose()
    {
        Sh($"chmod -R u+rwX '{_root}'");
        Directory.Delete(_root, recursive: true);
    }
}
