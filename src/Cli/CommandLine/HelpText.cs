using System.CommandLine;
using System.CommandLine.Help;
using System.Text;
using Bunraku.Sessions.Monitoring;

namespace Bunraku.Cli.CommandLine;

/// <summary>Writes what <c>--help</c> and <c>help</c> show. The library's own help breaks lines of pipes nowhere and what is added to it anywhere.</summary>
internal static class HelpText
{
    /// <summary>Of 'run'.</summary>
    public static IReadOnlyCollection<(string Status, string Meaning)> ExitStatuses { get; } =
    [
        ("0", "the guest powered off or the user quit; behind -- the command's own status"),
        ("1", "the machine could not be made (a file, package, memory or the cache), or something asked for could not be written"),
        ("2", "wrong usage"),
        ("3", "the guest crashed the processor (triple fault)"),
        ("4", "the guest reset the machine, behind -- or with --no-reboot"),
        ("124", "the time given with --timeout ran out"),
        ("125", "internal error"),
        ("128+n", "ended by signal n (130: Ctrl-C)"),
        ("value*2+1", "with --debug-exit: what the guest wrote to port 0xf4"),
    ];

    /// <param name="path">The command's name behind the program's, empty for the program itself.</param>
    public static string For(Command command, string path, int width)
    {
        var text = new StringBuilder();
        text.Append(TextLayout.Paragraph(command.Description ?? "", width)).Append('\n');
        foreach (string usage in Usage(command, path)) text.Append(TextLayout.Paragraph(usage, width));
        Section(text, "Commands", [.. command.Subcommands.Where(c => !c.Hidden).Select(c => (c.Name, c.Description ?? ""))], width);
        Section(text, "Arguments", [.. command.Arguments.Where(a => !a.Hidden).Select(a => (a.Name, a.Description ?? ""))], width);
        Section(text, "Options",
            [.. command.Options.Where(o => !o.Hidden && o is not HelpOption).Select(o => (Term(o), o.Description ?? "")), ("-h, --help", "this text")], width);
        if (command is RunCommand or RootCommand) Section(text, "Exit status of 'run'", ExitStatuses, width);
        if (command.Subcommands.Any(c => !c.Hidden))
            text.Append('\n').Append(TextLayout.Paragraph($"'bunraku help{(path.Length > 0 ? " " + path : "")} COMMAND' says more about one of them.", width));
        return text.ToString();
    }

    /// <summary>How a command is called.</summary>
    /// <param name="path">As for <see cref="For"/>.</param>
    public static IEnumerable<string> Usage(Command command, string path)
    {
        if (command is RunCommand)
        {
            yield return "bunraku run [GUEST] [OPTION]...";
            yield return "bunraku run [GUEST] [OPTION]... -- COMMAND [ARGUMENT]...";
            yield break;
        }
        string usage = path.Length > 0 ? "bunraku " + path : "bunraku";
        if (command.Subcommands.Any(c => !c.Hidden)) usage += " COMMAND";
        foreach (Argument argument in command.Arguments) usage += $" [{argument.Name}]{(argument.Arity.MaximumNumberOfValues > 1 ? "..." : "")}";
        if (command is not RootCommand && command.Options.Any(o => !o.Hidden)) usage += " [OPTION]...";
        yield return usage;
    }

    private static void Section(StringBuilder text, string heading, IReadOnlyCollection<(string, string)> items, int width)
    {
        if (items.Count > 0) text.Append('\n').Append(heading).Append(":\n").Append(TextLayout.Definitions(items, width));
    }

    /// <summary>An option with what stands for its value.</summary>
    public static string Term(Option option)
    {
        string names = string.Join(", ", option.Aliases.Where(a => a.StartsWith('-') && a != "-?").Append(option.Name).Distinct().OrderBy(n => n.Length));
        return option.HelpName is { } value ? $"{names} {value}" : names;
    }
}
