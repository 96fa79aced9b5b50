using System.Diagnostics;
using Bunraku.Testing;

namespace Bunraku.Cli.Tests;

/// <summary>The command line in processes of their own, which have names and sockets in a folder of their own.</summary>
internal static class BunrakuProgram
{
    /// <param name="folder">XDG_RUNTIME_DIR.</param>
    public static ProcessStartInfo Prepare(string folder, string[] arguments)
    {
        var start = new ProcessStartInfo("dotnet", [Path.Combine(AppContext.BaseDirectory, "bunraku.dll"), .. arguments])
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        start.Environment["XDG_RUNTIME_DIR"] = folder;
        return start;
    }

    /// <summary>What a command prints, errors included.</summary>
    public static string Run(string folder, int status, string[] arguments)
    {
        using var process = new TestProcess(Prepare(folder, arguments));
        process.StandardInput.Close();
        Task<string> errors = process.StandardError.ReadToEndAsync();
        string text = process.StandardOutput.ReadToEnd() + errors.GetAwaiter().GetResult();
        process.WaitForExit();
        Assert.True(process.ExitCode == status, $"status {process.ExitCode}: {text}");
        return text;
    }
}
