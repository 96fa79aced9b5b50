using System.Globalization;
using Bunraku.Cli.CommandLine;
using Bunraku.Engines;
using Bunraku.Hypervisor;

namespace Bunraku.Cli.Running;

/// <summary>The small monitor behind Ctrl-A C: a line in, a text out. For one thread.</summary>
public sealed class MonitorShell(RunSession session)
{
    public const string Prompt = "(bunraku) ";

    private static readonly string[] Commands = ["info registers", "info cpus", "info stats", "info exits", "nmi", "sysrq", "stop", "cont", "quit", "help"];

    private const string Help =
        """
        info registers [CPU]  registers, segments, control registers, code at RIP; of CPU 0 if none is given
        info cpus             what each processor does
        info stats            times, instructions, exits, memory
        info exits            the last exits
        nmi                   send an NMI: with unknown_nmi_panic the guest's kernel panics
        sysrq                 send a break on the console: the next key typed is a SysRq command
        stop                  stop the guest and its clock
        cont                  let it go on
        quit                  end the guest
        help                  this list
        Ctrl-A C              back to the guest

        """;

    /// <summary>Carries one command out; the answer ends with a line end or is empty.</summary>
    public string Execute(string line)
    {
        string[] words = line.Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries);
        if (words is ["info", "registers", var number]) return Registers(number);
        string command = string.Join(' ', words);
        switch (command)
        {
            case "":
                return "";
            case "info registers":
                return Registers("0");
            case "info cpus":
                IReadOnlyList<CpuState> states = session.ReadStates();
                return string.Concat(session.Machine.Cpus.Select((cpu, n) => Describe(cpu, states[n])));
            case "info stats":
                return session.Statistics.ToString();
            case "info exits":
                return string.Concat(session.LastExits.Select(e => e + "\n"));
            case "info":
                return "info what? info registers, info cpus, info stats or info exits\n";
            case "nmi":
                session.PulseNmi();
                return "";
            case "sysrq":
                session.SendBreak();
                return "";
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

    private string Registers(string number)
    {
        int count = session.Machine.Cpus.Count;
        if (!int.TryParse(number, NumberStyles.None, CultureInfo.InvariantCulture, out int cpu) || cpu >= count)
            return $"there is no processor '{number}'; they are 0 to {count - 1}\n";
        CpuState state = session.ReadState(cpu);
        return StateReport.Registers(state) + StateReport.Disassembly(session.Machine.Memory, state);
    }

    private static string Describe(CpuThread cpu, CpuState state)
    {
        string activity = cpu.Activity switch { CpuActivity.Halted => "halted", CpuActivity.WaitForStartUp => "waits for its start", _ => "active" };
        return string.Create(CultureInfo.InvariantCulture,
            $"cpu{cpu.Cpu.Index}  {activity,-20} RIP {state.Rip:x16}  CPL {(state.Ss.Attributes >> 5) & 3}  {cpu.Cpu.Counters.InstructionsRetired:#,0} instructions, {cpu.Exits.Total:#,0} exits\n");
    }
}
