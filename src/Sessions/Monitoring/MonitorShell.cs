namespace Bunraku.Sessions.Monitoring;

/// <summary>The monitor without its terminal: a line in, a text out. For one thread.</summary>
/// <param name="vm">What it looks at, with its commands.</param>
/// <param name="width">Characters of a line, asked anew for each.</param>
/// <param name="wayBack">The keys that lead from the monitor to the guest; null where there are none.</param>
/// <param name="name">What the prompt says.</param>
public sealed class MonitorShell(Vm vm, Func<int> width, string? wayBack = null, string name = MonitorShell.DefaultName)
{
    /// <summary>What stands before the line that is typed; it says when the guest stands still.</summary>
    public string Prompt => vm.Paused && name == DefaultName ? $"({name}, stopped) " : $"({name}) ";

    // Programs look for QEMU's prompt, which is always the same.
    internal const string DefaultName = "bunraku";

    /// <summary>Carries one line out; the answer ends with a line end or is empty. Throws nothing.</summary>
    /// <param name="line">As it was typed.</param>
    public string Execute(string line)
    {
        string[] words = Words(line);
        if (words.Length == 0) return "";
        try
        {
            (MonitorCommand command, IReadOnlyList<string> arguments) = vm.Commands.Resolve(words);
            return command.Run(Context, arguments);
        }
        catch (SessionException e)
        {
            return TextLayout.Paragraph(e.Message, width());
        }
        catch (Exception e) // of a command that a program has added: the monitor goes on
        {
            return TextLayout.Paragraph($"the command failed: {e.Message.ReplaceLineEndings(" ")}", width());
        }
    }

    /// <summary>What the word that ends the text can be completed to, and where in the text it begins.</summary>
    /// <param name="text">The line up to the cursor.</param>
    public (int Start, IReadOnlyList<string> Words) Complete(string text)
    {
        int start = text.LastIndexOf(' ') + 1;
        return (start, vm.Commands.Complete(Context, [.. Words(text[..start]), text[start..]]));
    }

    private MonitorContext Context => new(vm, vm.Commands, width(), wayBack);

    private static string[] Words(string line) => line.Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries);
}
