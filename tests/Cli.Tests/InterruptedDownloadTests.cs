using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Runtime.Versioning;
using Bunraku.Testing;

namespace Bunraku.Cli.Tests;

/// <summary>Ctrl-C while the first start downloads, with a package manager of our own that never comes to an end.</summary>
[SupportedOSPlatform("linux")]
public sealed class InterruptedDownloadTests : IDisposable
{
    private static readonly string Program = Path.Combine(AppContext.BaseDirectory, "bunraku.dll");
    private readonly string _root = Directory.CreateTempSubdirectory("bunraku-download-").FullName;

    private void Tool(string name, string body)
    {
        string path = Path.Combine(_root, name);
        File.WriteAllText(path, $"#!/bin/sh\n{body}\n");
        File.SetUnixFileMode(path, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
    }

    [Theory]
    [InlineData(PosixSignal.SIGINT, 130)]
    [InlineData(PosixSignal.SIGTERM, 143)]
    public void ItEndsAtOnceAndLeavesNothing(PosixSignal signal, int status)
    {
        Tool("apt-get", "echo partial >p.deb.partial; exec sleep 1000");
        Tool("apt-cache", "case \"$*\" in *depends*) echo 'Depends: linux-image-1';; *) echo 'Size: 27000000';; esac");
        Tool("dpkg-deb", "exit 1");
        // A kernel that is installed would do; this file system has none.
        var start = new ProcessStartInfo("env", ["--default-signal", "dotnet", Program, "run", "linux-generic", "--", "true"]) { RedirectStandardError = true };
        start.Environment["PATH"] = $"{_root}:{Environment.GetEnvironmentVariable("PATH")}";
        start.Environment["XDG_CACHE_HOME"] = Path.Combine(_root, "cache");
        using var process = new TestProcess(start);
        Assert.Equal("bunraku: downloading linux-image-1 (27 MB)", process.StandardError.ReadLine());
        process.Signal(signal);
        process.WaitForExit();
        Assert.Equal((status, ""), (process.ExitCode, process.StandardError.ReadToEnd()));
        Assert.Empty(Directory.EnumerateFileSystemEntries(Path.Combine(_root, "cache", "bunraku", "download")));
    }

    public void Dispose() => Directory.Delete(_root, recursive: true);
}
