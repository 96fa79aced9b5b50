
namespace Bunraku.Sessions.Monitoring;

/// <summary>The monitor behind Ctrl-A C without its terminal: a line in, a text out. For one thread.</summary>
/// <param name="width">Characters of a line.</param>
public sealed class MonitorShell(RunSession session, Func<int> width)
{
    private readonly MonitorCommands _commands = new(StandardCommands.All);

    /// <summary>What stands before the line that is typed; it says when the guest stands still.</summary>
    public string Prompt => session.Paused ? "(bunraku, stopped) " : "(bunraku) ";

    /// <summary>Carries one line out; the answer ends with a line end or is empty.</summary>
    public string Execute(string line)
    {
        string[] words = Words(line);
        if (words.Length == 0) return "";
        try
        {
            (MonitorCommand command, IReadOnlyList<string> arguments) = _commands.Resolve(words);
            return command.Run(Context, arguments);
        }
        catch (SessionException e)
        {
            return TextLayout.Paragraph(e.Message, width());
        }
    }

    /// <summary>What the word that ends the text can be completed to, and where in the text it begins.</summary>
    public (int Start, IReadOnlyList<string> Words) Complete(string text)
    {
        int start = text.LastIndexOf(' ') + 1;
        return (start, _commands.Complete(Context, [.. Words(text[..start]), text[start..]]));
    }

    private MonitorContext Context => new(session, _commands, width());

    private static string[] Words(string line) => line.Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries);
}
