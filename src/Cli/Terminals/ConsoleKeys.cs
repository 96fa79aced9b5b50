namespace Bunraku.Cli.Terminals;

/// <summary>What the escape key asked for.</summary>
internal enum ConsoleCommand { Quit, ToggleMonitor, Break, Help }

/// <summary>
/// Splits what is typed into bytes for the guest and commands behind the escape key Ctrl-A: X quits, C toggles the monitor, B sends a break, H helps,
/// Ctrl-A (or A) sends one Ctrl-A. An escape and another key is dropped, as a mistyped command should not reach the guest.
/// </summary>
internal sealed class ConsoleKeys
{
    private const byte Escape = 0x01;
    private bool _escaped;

    /// <summary>The escape key was typed, and what it is for has not come yet.</summary>
    public bool Escaped => _escaped;

    /// <summary>Forgets the escape key: what followed was no command.</summary>
    public void Cancel() => _escaped = false;

    /// <summary>What the keys do.</summary>
    public static IReadOnlyCollection<(string Keys, string What)> Help { get; } =
    [
        ("Ctrl-A X", "quit"),
        ("Ctrl-A C", "monitor on, and off again"),
        ("Ctrl-A B", "send a break: the next key is a SysRq command for Linux"),
        ("Ctrl-A Ctrl-A", "send one Ctrl-A to the guest"),
        ("Ctrl-A H", "this help"),
    ];

    /// <summary>Calls back in the order of typing.</summary>
    public void Feed(ReadOnlySpan<byte> typed, Action<byte> guest, Action<ConsoleCommand> command)
    {
        foreach (byte b in typed)
        {
            if (!_escaped)
            {
                if (b == Escape) _escaped = true;
                else guest(b);
                continue;
            }
            _escaped = false;
            switch (char.ToLowerInvariant((char)b))
            {
                case 'x':
                    command(ConsoleCommand.Quit);
                    break;
                case 'c':
                    command(ConsoleCommand.ToggleMonitor);
                    break;
                case 'b':
                    command(ConsoleCommand.Break);
                    break;
                case 'h' or '?':
                    command(ConsoleCommand.Help);
                    break;
                case 'a' or (char)Escape:
                    guest(Escape);
                    break;
            }
        }
    }
}
