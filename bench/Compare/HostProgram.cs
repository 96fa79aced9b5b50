using System.ComponentModel;
using System.Diagnostics;

namespace Bunraku.Compare;

/// <summary>Programs of this host that run to their end.</summary>
internal static class HostProgram
{
    /// <summary>Path of an executable in PATH, or null.</summary>
    public static string? Find(string name) =>
        (Environment.GetEnvironmentVariable("PATH") ?? "/usr/bin:/bin").Split(':', StringSplitOptions.RemoveEmptyEntries)
            .Select(folder => Path.Combine(folder, name)).FirstOrDefault(File.Exists);

    /// <summary>Standard output of a program.</summary>
    /// <exception cref="BenchException">It can't be started or ends with another status than 0.</exception>
    public static string Run(string program, IEnumerable<string> arguments, CancellationToken cancel)
    {
        using Process process = Start(new ProcessStartInfo(program, arguments));
        using CancellationTokenRegistration kill = cancel.Register(() => Kill(process));
        Task<string> error = process.StandardError.ReadToEndAsync(CancellationToken.None);
        string output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        cancel.ThrowIfCancellationRequested();
        if (process.ExitCode != 0) throw new BenchException($"{Path.GetFileName(program)} failed with status {process.ExitCode}: {LastLine(error.Result)}");
        return output;
    }

    /// <summary>Starts a program without standard input; its outputs are pipes.</summary>
    public static Process Start(ProcessStartInfo info)
    {
        info.RedirectStandardInput = info.RedirectStandardOutput = info.RedirectStandardError = true;
        try
        {
            Process process = Process.Start(info)!;
            process.StandardInput.Close();
            return process;
        }
        catch (Win32Exception e)
        {
            throw new BenchException($"{info.FileName} cannot be run: {e.Message}");
        }
    }

    /// <summary>Ends a process and all that it started; none of them is left when this returns.</summary>
    public static void Kill(Process process)
    {
        try
        {
            process.Kill(entireProcessTree: true);
        }
        catch (Exception e) when (e is InvalidOperationException or Win32Exception or AggregateException)
        {
            // It has ended by itself.
        }
    }

    /// <summary>The line of a tool's complaints that says most: the first error, else the last line.</summary>
    public static string LastLine(string text)
    {
        string[] lines = text.Split('\n', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);
        return lines.FirstOrDefault(l => l.Contains("error", StringComparison.Ordinal)) ?? lines.LastOrDefault() ?? "it said nothing";
    }
}
