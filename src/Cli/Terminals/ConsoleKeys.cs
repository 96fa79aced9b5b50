namespace Bunraku.Cli.Terminals;

/// <summary>What the escape key asked for.</summary>
internal enum ConsoleCommand { Quit, ToggleMonitor, Break, Help, Detach }

/// <summary>
/// Splits what is typed into bytes for the guest and commands behind the escape key, Ctrl-A where nothing else is said: X quits, C toggles the monitor, B
/// sends a break, H helps, D leaves a VM in the background, the escape key (or A) sends itself once. An escape and another key is dropped, as a mistyped
/// command should not reach the guest.
/// </summary>
/// <param name="escape">The escape key; 0: there is none, and all is the guest's.</param>
/// <param name="detaches">The VM is in the background, and can be left.</param>
internal sealed class ConsoleKeys(byte escape = ConsoleKeys.DefaultEscape, bool detaches = false)
{
    /// <summary>Ctrl-A.</summary>
    public const byte DefaultEscape = 0x01;

    private bool _escaped;

    /// <summary>The escape key was typed, and what it is for has not come yet.</summary>
    public bool Escaped => _escaped;

    /// <summary>Forgets the escape key: what followed was no command.</summary>
    public void Cancel() => _escaped = false;

    /// <summary>What the keys do.</summary>
    public IReadOnlyCollection<(string Keys, string What)> Help =>
    [
        ($"{Key} X", "quit"),
        .. detaches ? [($"{Key} D", "leave the VM, which runs on")] : Array.Empty<(string, string)>(),
        (WayBack, "monitor on, and off again"),
        ($"{Key} B", "send a break: the next key is a SysRq command for Linux"),
        ($"{Key} {Key}", $"send one {Key} to the guest"),
        ($"{Key} H", "this help"),
    ];

    /// <summary>The keys that lead from the monitor to the guest.</summary>
    public string WayBack => $"{Key} C";

    /// <summary>The escape key's name.</summary>
    public string Key => escape is > 0 and < 32 ? $"Ctrl-{(char)(escape + 64)}" : $"{(char)escape}";

    /// <summary>Calls back in the order of typing.</summary>
    public void Feed(ReadOnlySpan<byte> typed, Action<byte> guest, Action<ConsoleCommand> command)
    {
        foreach (byte b in typed)
        {
            if (!_escaped)
            {
                if (b == escape && escape != 0) _escaped = true;
                else guest(b);
                continue;
            }
            _escaped = false;
            if (b == escape)
            {
                guest(escape);
                continue;
            }
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
                case 'd' when detaches:
                    command(ConsoleCommand.Detach);
                    break;
                case 'a':
                    guest(escape);
                    break;
            }
        }
    }
}
