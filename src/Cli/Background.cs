using System.Diagnostics;
using Bunraku.Platform;

namespace Bunraku.Cli;

/// <summary>
/// Runs the program in the background: another process with the same arguments, in a session of its own, without a terminal. Who starts it waits until its
/// machine is made: what goes wrong before that is told here, and is this process's status.
/// </summary>
internal static class Background
{
    /// <summary>Tells the new process what it is, and is not handed on.</summary>
    private const string Variable = "BUNRAKU_BACKGROUND";

    private const string ReadyWord = "ready";

    /// <summary>This process is the one in the background.</summary>
    public static bool IsIt { get; } = Take();

    private static bool Take()
    {
        bool isIt = Environment.GetEnvironmentVariable(Variable) is not null;
        Environment.SetEnvironmentVariable(Variable, null);
        return isIt;
    }

    /// <summary>Starts it; the status that this process ends with.</summary>
    /// <param name="arguments">Of the program.</param>
    /// <exception cref="CannotStartException">It cannot be started.</exception>
    public static int Start(IReadOnlyList<string> arguments) => Start(arguments, Console.Error.WriteLine);

    /// <summary>The same, with what it says before it is ready.</summary>
    /// <param name="arguments">Of the program.</param>
    /// <param name="said">Gets each line, on any thread, one at a time.</param>
    /// <exception cref="CannotStartException">It cannot be started.</exception>
    public static int Start(IReadOnlyList<string> arguments, Action<string> said)
    {
        string program = Environment.ProcessPath ?? throw new CannotStartException("this process does not know its program");
        // Under 'dotnet bunraku.dll' the program is the runtime's.
        string[] before = Path.GetFileNameWithoutExtension(program) == "dotnet" ? [typeof(Background).Assembly.Location] : [];
        using var process = new Process
        {
            StartInfo = new ProcessStartInfo(program, [.. before, .. arguments])
            {
                RedirectStandardInput = true,
                RedirectStandardOutput = true,
                RedirectStandardError = true, // else it would hold ours open, for which who started us may wait
                Environment = { [Variable] = "1" },
            },
        };
        try
        {
            process.Start();
        }
        catch (System.ComponentModel.Win32Exception e)
        {
            throw new CannotStartException($"the process in the background cannot be started: {e.Message}", e);
        }
        process.StandardInput.Close();
        process.ErrorDataReceived += (_, e) =>
        {
            if (e.Data is { Length: > 0 } line) Say(line);
        };
        process.BeginErrorReadLine();
        while (process.StandardOutput.ReadLine() is { } line)
        {
            if (line == ReadyWord) return ExitStatus.Success;
            Say(line);
        }
        process.WaitForExit();
        return process.ExitCode;

        void Say(string line)
        {
            lock (process) said(line);
        }
    }

    /// <summary>In the background: leaves the terminal's session, and tells errors to who started it. Before the console is used.</summary>
    public static void Enter()
    {
        if (!IsIt) return;
        HostProcess.BeginSession();
        HostProcess.ErrorsToOutput();
    }

    /// <summary>In the background: who started this process may go, and has its streams for itself. Else nothing.</summary>
    /// <param name="messages">Where this process's messages go on; null: to standard error.</param>
    /// <param name="errors">The descriptor that is standard error from now on; null: nobody reads it.</param>
    public static void Ready(TextWriter? messages = null, int? errors = null)
    {
        if (!IsIt) return;
        Console.Out.WriteLine(ReadyWord);
        HostProcess.LeaveStreams(errors);
        if (messages is not null) Console.SetError(messages);
    }
}
