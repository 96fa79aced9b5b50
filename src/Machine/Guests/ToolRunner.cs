using System.ComponentModel;
using System.Diagnostics;

namespace Bunraku.Machine;

/// <summary>Runs the host's own tools.</summary>
internal static class ToolRunner
{
    /// <summary>What a tool said; both streams as text.</summary>
    public readonly record struct Result(int Status, string Output, string Error)
    {
        /// <summary>The line that names the cause: apt's first "E:" line, else the last line of the error stream.</summary>
        public string Cause =>
            Error.Split('\n', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries) is { Length: > 0 } lines
                ? lines.FirstOrDefault(l => l.StartsWith("E:", StringComparison.Ordinal))?[2..].Trim() ?? lines[^1]
                : $"exit status {Status}";
    }

    /// <summary>Finds an executable in the given folders, or in PATH; null when there is none.</summary>
    public static string? Find(string name, string? searchPath = null) =>
        (searchPath ?? Environment.GetEnvironmentVariable("PATH") ?? "/usr/bin:/bin").Split(':', StringSplitOptions.RemoveEmptyEntries)
            .Select(folder => Path.Combine(folder, name)).FirstOrDefault(File.Exists);

    /// <summary>Runs a tool to its end with the C locale and no standard input.</summary>
    public static Result Run(string tool, IEnumerable<string> arguments, string? folder, CancellationToken cancel)
    {
        using Process process = Start(tool, arguments, folder);
        using CancellationTokenRegistration kill = cancel.Register(() => Kill(process));
        Task<string> error = process.StandardError.ReadToEndAsync(CancellationToken.None);
        string output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        cancel.ThrowIfCancellationRequested();
        return new(process.ExitCode, output, error.Result);
    }

    /// <summary>Runs a tool and lets <paramref name="read"/> have its standard output as it comes.</summary>
    public static Result Pipe(string tool, IEnumerable<string> arguments, Action<Stream> read, CancellationToken cancel)
    {
        using Process process = Start(tool, arguments, null);
        using CancellationTokenRegistration kill = cancel.Register(() => Kill(process));
        Task<string> error = process.StandardError.ReadToEndAsync(CancellationToken.None);
        read(process.StandardOutput.BaseStream);
        process.StandardOutput.BaseStream.CopyTo(Stream.Null); // a tool that is not listened to would not end
        process.WaitForExit();
        cancel.ThrowIfCancellationRequested();
        return new(process.ExitCode, "", error.Result);
    }

    private static Process Start(string tool, IEnumerable<string> arguments, string? folder)
    {
        var info = new ProcessStartInfo(tool, arguments)
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            WorkingDirectory = folder ?? ""
        };
        info.Environment["LC_ALL"] = "C";
        try
        {
            Process process = Process.Start(info)!;
            process.StandardInput.Close();
            return process;
        }
        catch (Win32Exception e)
        {
            throw new BootException($"{tool} cannot be run: {e.Message}", e);
        }
    }

    private static void Kill(Process process)
    {
        try
        {
            process.Kill(entireProcessTree: true);
        }
        catch (InvalidOperationException)
        {
            // It has ended already.
        }
    }
}
