using Bunraku.Cli.CommandLine;
using Bunraku.Engines;

namespace Bunraku.Cli.Running;

/// <summary>The small monitor behind Ctrl-A C: a line in, a text out. For one thread.</summary>
public sealed class MonitorShell(RunSession session)
{
    public const string Prompt = "(bunraku) ";

    private static readonly string[] Commands = ["info registers", "info stats", "info exits", "stop", "cont", "quit", "help"];

    private const string Help =
        """
        info registers  registers, segments, control registers, code at RIP
        info stats      times, instructions, exits, memory
        info exits      the last exits
        stop            stop the guest and its clock
        cont            let it go on
        quit            end the guest
        help            this list
        Ctrl-A C        back to the guest

        """;

    /// <summary>Carries one command out; the answer ends with a line end or is empty.</summary>
    public string Execute(string line)
    {
        string command = string.Join(' ', line.Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries));
        switch (command)
        {
            case "":
                return "";
            case "info registers":
                var state = session.ReadState();
                return StateReport.Registers(state) + StateReport.Disassembly(session.Machine.Memory, state);
            case "info stats":
                return session.Statistics.ToString();
            case "info exits":
                return string.Concat(session.LastExits.Select(e => e + "\n"));
            case "info":
                return "info what? info registers, info stats or info exits\n";
            case "stop":
                session.Pause();
                return "stopped; 'cont' goes on\n";
            case "cont":
                session.Resume();
                return "";
            case "quit":
                session.End(HostEnd.Quit);
                return "";
            case "help":
                return Help;
            default:
                return Nearest.Message("command", command, Commands) + "\n";
        }
    }
}
