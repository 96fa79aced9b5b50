using Bunraku.Cli.CommandLine;
using Bunraku.Sessions.Control;

namespace Bunraku.Cli;

/// <summary><c>bunraku fork</c>: copies of a VM that runs, each in a process that goes on by itself.</summary>
internal static class Copies
{
    /// <exception cref="ControlException">What went wrong, in one line; copies that run go on.</exception>
    public static void Start(ControlRequests.Fork fork, TextWriter output)
    {
        ControlFolder folder = ControlClients.Folder;
        using ControlClient client = ControlClient.Connect(folder, fork.Name);
        if (fork.Copies.FirstOrDefault(folder.IsTaken) is { } taken)
            throw new ControlException($"a VM named '{taken}' runs already; --prefix gives the copies other names");
        ControlAnswer answer = client.Ask(new ControlRequest("fork"), ControlClients.s_longLimit);
        string path = answer.Path ?? throw new ControlException($"the VM '{fork.Name}' does not say where its copies begin");
        output.Write($"{fork.Name} {answer.Text}");
        var failures = new string?[fork.Copies.Count];
        // More at a time would only wait for each other, and for memory.
        Parallel.For(0, failures.Length, new ParallelOptions { MaxDegreeOfParallelism = 2 * Environment.ProcessorCount },
            n => failures[n] = Start(Arguments(fork, fork.Copies[n], path)));
        int failed = failures.Count(f => f is not null), first = Array.FindIndex(failures, f => f is not null);
        if (failed > 0)
            throw new ControlException($"{failures.Length - failed} of {failures.Length} copies run; {fork.Copies[first]}: {failures[first]}");
        output.WriteLine(fork.Copies.Count == 1 ? $"{fork.Copies[0]} runs" : $"{fork.Copies[0]} to {fork.Copies[^1]} run");
    }

    private static string[] Arguments(ControlRequests.Fork fork, string name, string path)
    {
        string[] console = fork.Serial is not { } serial ? ["--detach"]
            : ["--serial", serial.Path is { } file ? "file:" + file.Replace(ControlCommands.NameMark, name, StringComparison.Ordinal) : "none"];
        string backing = fork.Backing == MemoryBacking.Copy ? "copy" : "lazy";
        return [RestoreCommand.Word, path, "--name", name, "--memory-backing", backing, .. console,
            .. fork.Engine is { } engine ? (string[])["--engine", engine] : []];
    }

    /// <summary>Starts this program once more, and waits until its guest runs.</summary>
    /// <returns>Null, or why it does not.</returns>
    private static string? Start(string[] arguments)
    {
        try
        {
            string? last = null;
            int status = Background.Start(arguments, line => last = line);
            if (status == ExitStatus.Success) return null;
            const string prefix = "bunraku: ";
            string reason = last ?? $"its process ended with status {status}";
            return reason.StartsWith(prefix, StringComparison.Ordinal) ? reason[prefix.Length..] : reason;
        }
        catch (CannotStartException e)
        {
            return e.Message;
        }
    }
}
