using System.Text;
using Bunraku.Sessions.Monitoring;

namespace Bunraku.Cli.Qemu;

/// <summary><c>bunraku qemu</c>, which is also what a link named <c>qemu-system-x86_64</c> starts: a command line of QEMU's is read, and run.</summary>
internal static class QemuCommand
{
    /// <summary>The command's own name.</summary>
    public const string Word = "qemu";

    /// <summary>The version of QEMU whose words these are.</summary>
    public const int Major = 7, Minor = 2, Micro = 0;

    /// <summary>The same as a text.</summary>
    public static string Version { get; } = $"{Major}.{Minor}.{Micro}";

    /// <summary>What it is in truth.</summary>
    public static string Package { get; } = $"Bunraku {typeof(QemuCommand).Assembly.GetName().Version?.ToString(3)}";

    private const int Wrong = 1; // QEMU's status for whatever keeps a machine from running

    /// <summary>The program was started by a name of QEMU's.</summary>
    /// <param name="name">As the shell gave it.</param>
    public static bool IsName(string name) => Path.GetFileName(name) is "qemu-system-x86_64" or "qemu-kvm" or "kvm";

    /// <param name="arguments">Behind the command.</param>
    /// <param name="lost">What could not be written; more is added here.</param>
    /// <returns>The process's status.</returns>
    public static int Run(IReadOnlyList<string> arguments, List<CannotWriteException> lost)
    {
        try
        {
            (QemuMachine machine, QemuQuestion question) = QemuReader.Read(arguments);
            if (question != QemuQuestion.None)
            {
                Console.Out.Write(Answer(question));
                return ExitStatus.Success;
            }
            return machine.Daemonize && !Background.IsIt ? Background.Start([Word, .. arguments]) : QemuRun.Run(machine, lost);
        }
        catch (SessionException e)
        {
            return Fail(e.Message);
        }
        catch (Storage.DiskException e)
        {
            return Fail(e.Message);
        }
    }

    private static int Fail(string message)
    {
        Console.Error.WriteLine("bunraku: " + message);
        return Wrong;
    }

    private static string Answer(QemuQuestion question) => question switch
    {
        QemuQuestion.Version => $"QEMU emulator version {Version} ({Package}, which takes QEMU's command line)\n",
        QemuQuestion.Machines => "Supported machines are:\npc                   Bunraku's PC (default)\nq35                  Bunraku's PC\n"
            + "microvm              the same without PCI\n",
        QemuQuestion.Cpus => "Available CPUs:\n" + string.Concat(QemuCpu.Names.Select(n => $"x86 {n}\n")),
        QemuQuestion.Accelerators => "Accelerators supported in QEMU binary:\ntcg\nkvm\n",
        QemuQuestion.Devices => TextLayout.Definitions([.. QemuDevices.Explain().Select(d => (d.Names, d.What))], Consoles.Width(Console.Out)),
        _ => Help(Consoles.Width(Console.Out)),
    };

    private static string Help(int width)
    {
        var text = new StringBuilder();
        text.Append(Answer(QemuQuestion.Version)).Append("usage: bunraku qemu [options] [disk_image]\n\n");
        foreach ((Likeness likeness, string heading) in ((Likeness, string)[])[(Likeness.Same, "As with QEMU"), (Likeness.Different, "With a difference"),
            (Likeness.Ignored, "Passed over"), (Likeness.Absent, "Not had")])
        {
            text.Append(heading).Append(":\n");
            text.Append(TextLayout.Definitions([.. QemuOptions.All.Where(o => o.Likeness == likeness)
                .Select(o => ($"-{o.Name}{(o.Argument is null ? "" : " " + o.Argument)}", o.Note))], width)).Append('\n');
        }
        return text.ToString();
    }
}
