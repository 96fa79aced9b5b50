using Bunraku.Cli;
using Spectre.Console;

namespace Bunraku.Lab.Tests;

/// <summary>A terminal of the usual width.</summary>
internal static class NarrowConsole
{
    private const int Width = 80;

    /// <summary>What is written, line by line, none of them wider than the terminal.</summary>
    public static string[] Lines(Action<IAnsiConsole> write)
    {
        var text = new StringWriter { NewLine = "\n" };
        IAnsiConsole console = Consoles.For(text);
        console.Profile.Width = Width;
        write(console);
        string[] lines = text.ToString().Split('\n');
        Assert.All(lines, l => Assert.InRange(l.Length, 0, Width));
        return lines;
    }
}
