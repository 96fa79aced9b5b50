using System.Globalization;
using Bunraku.Cli.CommandLine;
using Bunraku.Platform;
using Bunraku.Sessions.Monitoring;
using Spectre.Console;

namespace Bunraku.Cli;

/// <summary>Says how wide an output is, and makes consoles for tables.</summary>
internal static class Consoles
{
    /// <summary>Characters of a line on <paramref name="output"/>: the terminal's, or those of $COLUMNS, or <see cref="TextLayout.DefaultWidth"/>.</summary>
    public static int Width(TextWriter output)
    {
        if (IsTerminal(output, out int columns) && columns > 0) return columns;
        return int.TryParse(Environment.GetEnvironmentVariable("COLUMNS"), NumberStyles.None, CultureInfo.InvariantCulture, out int asked)
            && asked is >= 20 and <= 10_000 ? asked : TextLayout.DefaultWidth;
    }

    /// <summary>A console on <paramref name="output"/>: with colours where there is a terminal, else without blanks at the ends of lines.</summary>
    public static IAnsiConsole For(TextWriter output)
    {
        bool terminal = IsTerminal(output, out _);
        IAnsiConsole console = AnsiConsole.Create(new AnsiConsoleSettings
        {
            Out = new AnsiConsoleOutput(terminal ? output : new TrimmingWriter(output)),
            Ansi = terminal ? AnsiSupport.Detect : AnsiSupport.No,
            ColorSystem = terminal ? ColorSystemSupport.Detect : ColorSystemSupport.NoColors,
        });
        console.Profile.Width = Width(output);
        return console;
    }

    private static bool IsTerminal(TextWriter output, out int columns)
    {
        columns = 0;
        if (output != Console.Out) return false;
        using var terminal = Terminal.Open(ConsoleHost.Stdout);
        if (terminal is null) return false;
        columns = terminal.Size?.Columns ?? 0;
        return true;
    }
}
