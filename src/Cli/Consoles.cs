using Spectre.Console;

namespace Bunraku.Cli;

/// <summary>Makes consoles for tables.</summary>
internal static class Consoles
{
    /// <summary>A console on <paramref name="output"/>: with colours and the terminal's width where there is a terminal.</summary>
    public static IAnsiConsole For(TextWriter output)
    {
        bool terminal = output == Console.Out && !Console.IsOutputRedirected;
        IAnsiConsole console = AnsiConsole.Create(new AnsiConsoleSettings
        {
            Out = new AnsiConsoleOutput(output),
            Ansi = terminal ? AnsiSupport.Detect : AnsiSupport.No,
            ColorSystem = terminal ? ColorSystemSupport.Detect : ColorSystemSupport.NoColors,
        });
        // A pipe has no width; lines must not be cut for one.
        if (!terminal) console.Profile.Width = 500;
        return console;
    }
}
