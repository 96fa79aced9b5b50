using Bunraku.Platform;

namespace Bunraku.Cli;

/// <summary>One line at the foot of a terminal that says what is going on, and leaves nothing behind. For one thread.</summary>
internal sealed class ProgressLine : IDisposable
{
    private const int Stderr = 2;
    private readonly Terminal _terminal;
    private int _shown;

    private ProgressLine(Terminal terminal) => _terminal = terminal;

    /// <summary>The line on standard error; null where that is no terminal.</summary>
    public static ProgressLine? OnTerminal() => Terminal.Open(Stderr) is { } terminal ? new(terminal) : null;

    /// <summary>Shows as much of the text as a line holds.</summary>
    public void Show(string text)
    {
        // The last column stays free: a character there would begin a new line.
        int columns = Math.Max(1, (_terminal.Size?.Columns ?? 80) - 1);
        string line = "bunraku: " + text;
        if (line.Length > columns) line = line[..columns];
        Console.Error.Write($"\r{line.PadRight(Math.Min(_shown, columns))}");
        _shown = line.Length;
    }

    /// <summary>Takes the line away. Idempotent.</summary>
    public void Dispose()
    {
        if (_shown > 0) Console.Error.Write($"\r{new string(' ', _shown)}\r");
        _shown = 0;
        _terminal.Dispose();
    }
}
