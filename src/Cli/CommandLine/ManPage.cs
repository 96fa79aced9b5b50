using System.CommandLine;
using System.CommandLine.Help;
using System.Text;

namespace Bunraku.Cli.CommandLine;

/// <summary>The manual page, written from the definitions of the commands: groff's man macros, groff_man(7).</summary>
internal static class ManPage
{
    /// <summary>The page.</summary>
    /// <param name="root">All commands.</param>
    /// <param name="version">Of the program.</param>
    public static string For(RootCommand root, string version)
    {
        var page = new StringBuilder();
        page.Append($".TH BUNRAKU 1 \"\" \"Bunraku {version}\" \"User Commands\"\n");
        page.Append(".SH NAME\nbunraku \\- run unmodified operating systems in virtual machines\n.SH SYNOPSIS\n");
        foreach (Command command in root.Subcommands.Where(c => !c.Hidden))
        {
            foreach (string usage in HelpText.Usage(command, command.Name)) page.Append($".B {Text(usage)}\n.br\n");
        }
        page.Append($".SH DESCRIPTION\n{Text(root.Description ?? "")}\n");
        page.Append(".SH COMMANDS\n");
        foreach (Command command in root.Subcommands.Where(c => !c.Hidden)) Describe(page, command, command.Name);
        page.Append(".SH EXIT STATUS\nOf\n.BR run :\n");
        foreach ((string status, string meaning) in HelpText.ExitStatuses) Item(page, status, meaning);
        page.Append(".SH FILES\n");
        Item(page, "~/.cache/bunraku", "what guests are made of, and guests that have booted");
        Item(page, "$XDG_RUNTIME_DIR/bunraku", "control sockets of VMs with names, and logs of those in the background; /tmp/bunraku-UID where the variable "
            + "is not set");
        page.Append(".SH SEE ALSO\n.BR qemu-system-x86_64 (1)\n");
        return page.ToString();
    }

    private static void Describe(StringBuilder page, Command command, string path)
    {
        page.Append($".SS \"bunraku {Text(path)}\"\n{Text(command.Description ?? "")}\n");
        foreach (Argument argument in command.Arguments.Where(a => !a.Hidden)) Item(page, argument.Name, argument.Description ?? "");
        foreach (Option option in command.Options.Where(o => !o.Hidden && o is not HelpOption)) Item(page, HelpText.Term(option), option.Description ?? "");
        foreach (Command below in command.Subcommands.Where(c => !c.Hidden)) Describe(page, below, $"{path} {below.Name}");
    }

    private static void Item(StringBuilder page, string term, string text) => page.Append($".TP\n.B {Text(term)}\n{Text(text)}\n");

    /// <summary>Text that no line of is taken for a request; a dash stays one that can be typed.</summary>
    private static string Text(string text)
    {
        string plain = text.Replace("\\", "\\e", StringComparison.Ordinal).Replace("-", "\\-", StringComparison.Ordinal).ReplaceLineEndings(" ");
        return plain is ['.' or '\'', ..] ? "\\&" + plain : plain;
    }
}
