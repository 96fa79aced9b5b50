using System.Globalization;
using Bunraku.Cli.CommandLine;
using Bunraku.Platform;
using Bunraku.Sessions.Control;

namespace Bunraku.Cli;

/// <summary>Commands for VMs that run in other processes, by their control sockets.</summary>
internal static class ControlClients
{
    /// <summary>For what a VM does at once.</summary>
    private static readonly TimeSpan s_limit = TimeSpan.FromSeconds(10);
    /// <summary>For what may take long, and is bounded at the other end.</summary>
    internal static readonly TimeSpan s_longLimit = TimeSpan.FromHours(1);

    /// <summary>Where this user's control sockets are.</summary>
    public static ControlFolder Folder => new(
        Environment.GetEnvironmentVariable("XDG_RUNTIME_DIR") is { Length: > 0 } runTime ? Path.Combine(runTime, "bunraku")
            : $"/tmp/bunraku-{HostProcess.UserId}");

    /// <exception cref="ControlException">What went wrong, in one line.</exception>
    public static int Run(ControlRequests request, TextWriter output)
    {
        switch (request)
        {
            case ControlRequests.List:
                List(output);
                break;
            case ControlRequests.Stop stop:
                Stop(stop);
                break;
            case ControlRequests.Attach attach:
                return DetachedTerminal.Attach(Folder, attach.Name);
            case ControlRequests.Logs logs:
                DetachedTerminal.PrintLog(Folder, logs.Name, logs.Follow);
                break;
            case ControlRequests.Kill kill:
                using (ControlClient client = ControlClient.Connect(Folder, kill.Name)) Quit(client, kill.Name);
                break;
            case ControlRequests.Monitor monitor:
                using (ControlClient client = ControlClient.Connect(Folder, monitor.Name))
                    output.Write(client.Ask(new ControlRequest("monitor", monitor.Line, Consoles.Width(output)), s_longLimit).Text);
                break;
            case ControlRequests.Migrate migrate:
                using (ControlClient client = ControlClient.Connect(Folder, migrate.Name))
                    output.Write(client.Ask(new ControlRequest("migrate", To: migrate.To.Absolute.ToString()), s_longLimit).Text);
                break;
            case ControlRequests.Fork fork:
                Copies.Start(fork, output);
                break;
            default:
                return ExitStatus.InternalError;
        }
        return ExitStatus.Success;
    }

    private static void Stop(ControlRequests.Stop stop)
    {
        using (ControlClient client = ControlClient.Connect(Folder, stop.Name))
        {
            client.Ask(new ControlRequest("power"), s_limit);
            if (client.AwaitEnd(stop.Wait)) return;
        }
        Console.Error.WriteLine($"bunraku: the guest did not shut down within {stop.Wait.TotalSeconds:0.#} s and is ended");
        using ControlClient again = ControlClient.Connect(Folder, stop.Name);
        Quit(again, stop.Name);
    }

    private static void Quit(ControlClient client, string name)
    {
        int pid = client.Ask(new ControlRequest("status"), s_limit).Status?.Pid ?? 0;
        client.Ask(new ControlRequest("quit"), s_limit);
        if (!client.AwaitEnd(s_limit))
            throw new ControlException($"the VM '{name}' was ended, and its process {pid} still writes what nobody reads; 'kill {pid}' ends that, too");
    }

    private static void List(TextWriter output)
    {
        List<string[]> rows = [["NAME", "PID", "ENGINE", "MEMORY", "CPUS", "STATE", "UPTIME"]];
        foreach (string name in Folder.Names())
        {
            try
            {
                using ControlClient client = ControlClient.Connect(Folder, name);
                if (client.Ask(new ControlRequest("status"), s_limit).Status is not { } s) continue;
                rows.Add([s.Name, Number(s.Pid), s.Engine, s.Memory > 0 ? ByteSize.Format(s.Memory) : "", s.Cpus > 0 ? Number(s.Cpus) : "", s.State,
                    Duration(TimeSpan.FromSeconds(s.Uptime))]);
            }
            catch (ControlException e) when (e.InnerException is System.Net.Sockets.SocketException)
            {
                // Its process is no more.
            }
            catch (ControlException e)
            {
                Console.Error.WriteLine("bunraku: " + e.Message);
            }
        }
        int[] widths = [.. rows[0].Select((_, n) => rows.Max(r => r[n].Length))];
        foreach (string[] row in rows) output.WriteLine(string.Join("  ", row.Select((cell, n) => cell.PadRight(widths[n]))).TrimEnd());
    }

    private static string Number(int n) => n.ToString(CultureInfo.InvariantCulture);

    private static string Duration(TimeSpan time) => string.Create(CultureInfo.InvariantCulture,
        $"{(time.Days > 0 ? $"{time.Days}d " : "")}{time.Hours:00}:{time.Minutes:00}:{time.Seconds:00}");
}
