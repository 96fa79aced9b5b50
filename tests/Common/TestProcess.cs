using System.Diagnostics;
using System.Runtime.InteropServices;

namespace Bunraku.Testing;

/// <summary>
/// A program that a test starts, in a session and process group of its own, and that does not outlive the test. Disposal ends all that is left of the group.
/// When the test host is ended from outside, after a hang or by Ctrl-C, nobody disposes: then <see cref="ProcessWarden"/> does it.
/// </summary>
internal sealed partial class TestProcess : IDisposable
{
    private const int SigKill = 9;
    private readonly Process _process;

    /// <param name="start">The program itself. What it starts belongs to the group too, unless it leaves it on purpose.</param>
    public TestProcess(ProcessStartInfo start)
    {
        // A child of the runtime leads no group yet, so that setsid becomes the program instead of starting it: the process is the group's leader.
        start.ArgumentList.Insert(0, start.FileName);
        start.FileName = "setsid";
        _process = Process.Start(start)!;
        Id = _process.Id;
        ProcessWarden.Watch(Id);
    }

    /// <summary>The number of the process and of its group.</summary>
    public int Id { get; }

    public StreamWriter StandardInput => _process.StandardInput;
    public StreamReader StandardOutput => _process.StandardOutput;
    public StreamReader StandardError => _process.StandardError;
    public bool HasExited => _process.HasExited;

    /// <summary>After <see cref="WaitForExit"/>.</summary>
    public int ExitCode => _process.ExitCode;

    public void WaitForExit() => _process.WaitForExit();

    /// <summary>Sends a signal to the program alone.</summary>
    public void Signal(PosixSignal signal) => Assert.Equal(0, Kill(Id, Number(signal)));

    /// <summary>Numbers as in signal(7), x86.</summary>
    private static int Number(PosixSignal signal) => signal switch
    {
        PosixSignal.SIGHUP => 1,
        PosixSignal.SIGINT => 2,
        PosixSignal.SIGQUIT => 3,
        PosixSignal.SIGTERM => 15,
        _ => throw new ArgumentOutOfRangeException(nameof(signal), signal, null),
    };

    /// <summary>Ends what is left of the group.</summary>
    public void Kill() => _ = Kill(-Id, SigKill); // fails where nobody is left

    public void Dispose()
    {
        Kill();
        _process.WaitForExit();
        ProcessWarden.Forget(Id);
        _process.Dispose();
    }

    [LibraryImport("libc", EntryPoint = "kill")]
    private static partial int Kill(int id, int signal);
}

/// <summary>
/// Ends the process groups that are left when the test host ends, however that comes about: a shell reads the numbers of the groups from a pipe whose other end
/// only the host has. The end of the pipe is the host's end.
/// </summary>
internal static class ProcessWarden
{
    private const string Script = """
        exec >/dev/null 2>&1
        groups=
        while read -r change group; do
            left=
            for g in $groups; do [ "$g" = "$group" ] || left="$left $g"; done
            groups=$left
            [ "$change" = forget ] || groups="$groups $group"
        done
        for g in $groups; do kill -9 "-$g"; done
        """;

    // In a session of its own: Ctrl-C of the terminal would end it together with the host.
    internal static Process StartShell() => Process.Start(new ProcessStartInfo("setsid", ["sh", "-c", Script]) { RedirectStandardInput = true })!;

    private static readonly Lazy<Process> s_shell = new(StartShell);

    public static void Watch(int group) => Tell("watch", group);

    public static void Forget(int group) => Tell("forget", group);

    private static void Tell(string change, int group)
    {
        lock (s_shell)
        {
            s_shell.Value.StandardInput.WriteLine($"{change} {group}");
            s_shell.Value.StandardInput.Flush();
        }
    }
}
