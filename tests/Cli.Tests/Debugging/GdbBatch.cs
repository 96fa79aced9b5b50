using System.Diagnostics;
using System.Text.RegularExpressions;
using Bunraku.Testing;

namespace Bunraku.Cli.Tests;

/// <summary>GDB in batch mode.</summary>
internal static class GdbBatch
{
    /// <summary>Runs commands in a GDB that is connected, and returns what it prints.</summary>
    /// <param name="socket">Where the VM listens.</param>
    public static string Run(string socket, params string[] commands)
    {
        string script = socket + ".script";
        File.WriteAllLines(script, ["set pagination off", "set confirm off", "set width 0", "set remotetimeout 60", $"target remote {socket}", .. commands]);
        using var gdb = new TestProcess(new ProcessStartInfo("gdb", ["-nx", "-batch", "-x", script])
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        });
        Task<string> errors = gdb.StandardError.ReadToEndAsync();
        string output = gdb.StandardOutput.ReadToEnd();
        gdb.WaitForExit();
        Assert.True(gdb.ExitCode == 0 && !errors.Result.Contains("Error in sourced command file", StringComparison.Ordinal), output + errors.Result);
        return output;
    }

    /// <summary>Some line is like that.</summary>
    public static void Prints(string output, string pattern) =>
        Assert.True(Regex.IsMatch(output, pattern, RegexOptions.Multiline), $"no {pattern} in:\n{output}");
}
