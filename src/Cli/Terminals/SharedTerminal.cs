using System.Text;
using Bunraku.Sessions.Monitoring;

namespace Bunraku.Cli.Terminals;

/// <summary>Shows bytes on a terminal, in order. Never waits.</summary>
internal delegate void ShowBytes(ReadOnlySpan<byte> bytes);

/// <summary>
/// One terminal for two: the guest, and the monitor behind the escape key. Keys go to whom they are meant for, the terminal's answers always to the guest,
/// which is the one that asks. What the guest prints while the monitor is open appears above the line that is being typed.
/// </summary>
/// <remarks><see cref="Feed"/> is for one thread; <see cref="GuestWrote"/> may come from any, with the lock of a serial port held.</remarks>
internal sealed class SharedTerminal
{
    private readonly Vm _vm;
    private readonly ShowBytes _show;
    private readonly Func<int> _columns;
    private readonly ConsoleKeys _keys;
    private readonly ShowBytes _send;
    private readonly EscapeSequences _sequences = new();
    private readonly MonitorShell _shell;
    private readonly LineEditor _editor;
    /// <summary>
    /// Guards what is on the screen. Taken inside a serial port's lock; no device's lock and none of the VM is taken with it held, and no command runs:
    /// commands stop vCPUs, which may be waiting for it in <see cref="GuestWrote"/>.
    /// </summary>
    private readonly Lock _screen = new();
    /// <summary>The monitor has the keyboard. Written by the keyboard's thread with the lock held.</summary>
    private volatile bool _open;
    /// <summary>The terminal's current row is the editor's.</summary>
    private bool _lineShown;
    /// <summary>A command runs, and its answer comes before the next line.</summary>
    private bool _executing;
    /// <summary>A break was sent: the next key is the guest's, whoever has the keyboard.</summary>
    private bool _breakSent;

    /// <param name="columns">Width of the terminal.</param>
    /// <param name="name">What the monitor's prompt says; null: the program's.</param>
    /// <param name="escape">The key before commands; 0: there is none.</param>
    /// <param name="send">Takes what is typed for the guest; null: its console does.</param>
    /// <param name="detaches">The VM is in the background: who is attached by a terminal can leave it.</param>
    public SharedTerminal(Vm vm, ShowBytes show, Func<int> columns, string? name = null, byte escape = ConsoleKeys.DefaultEscape, ShowBytes? send = null,
        bool detaches = false)
    {
        (_vm, _show, _columns, _send, _keys) = (vm, show, columns, send ?? vm.Send, new ConsoleKeys(escape, detaches));
        _shell = name is null ? new MonitorShell(vm, columns, _keys.WayBack) : new MonitorShell(vm, columns, _keys.WayBack, name);
        _editor = new LineEditor(columns, () => _shell.Prompt, _shell.Complete);
    }

    /// <summary>Takes what the terminal sent.</summary>
    public void Feed(ReadOnlySpan<byte> typed)
    {
        foreach (byte b in typed)
        {
            // An escape sequence for the guest goes through byte by byte: a program that waits for the Escape key must not wait for the next one.
            if (_open || _keys.Escaped) _sequences.Feed(b, Take);
            else _keys.Feed([b], Type, Command);
        }
    }

    /// <summary>Shows what the guest printed.</summary>
    public void GuestWrote(ReadOnlySpan<byte> bytes)
    {
        lock (_screen)
        {
            if (_lineShown) Show(_editor.Erase());
            _lineShown = false;
            _show(bytes);
            // In the middle of the guest's line the editor waits; the next key brings it back.
            if (_open && bytes.EndsWith("\n"u8) && !_executing) DrawLine();
        }
    }

    private void Take(TerminalInput what, byte[] bytes)
    {
        switch (what)
        {
            case TerminalInput.Report:
                _send(bytes);
                break;
            case TerminalInput.Key when _keys.Escaped: // no key that sends a sequence is a command
                _keys.Cancel();
                break;
            case TerminalInput.Key:
                Edit(EditorKeys.Of(bytes), '\0');
                break;
            default:
                _keys.Feed(bytes, Type, Command);
                break;
        }
    }

    private void Type(byte b)
    {
        if (!_open || _breakSent)
        {
            _breakSent = false;
            _send([b]);
        }
        else if (b == 0x04 && _editor.Text.Length == 0) // Ctrl-D on an empty line, as in any shell
        {
            Command(ConsoleCommand.ToggleMonitor);
        }
        else
        {
            Edit(EditorKeys.Of(b), (char)b);
        }
    }

    private void Edit(EditorKey key, char character)
    {
        string? line;
        lock (_screen)
        {
            if (!_lineShown) DrawOnNewRow();
            (string shown, line) = _editor.Key(key, character);
            Show(shown);
            if (line is null) return;
            (_lineShown, _executing) = (false, true);
        }
        string answer = _shell.Execute(line);
        lock (_screen)
        {
            _executing = false;
            Show(answer);
            if (!_vm.Ended) DrawLine();
        }
    }

    private void Command(ConsoleCommand command)
    {
        switch (command)
        {
            case ConsoleCommand.Quit:
                _vm.End(HostEnd.Quit);
                break;
            case ConsoleCommand.Break:
                _vm.SendBreak();
                _breakSent = true;
                break;
            case ConsoleCommand.Help:
                lock (_screen)
                {
                    Show("\n" + TextLayout.Definitions(_keys.Help, _columns()));
                    if (_open) DrawLine();
                }
                break;
            case ConsoleCommand.ToggleMonitor:
                Toggle();
                break;
            case ConsoleCommand.Detach: // 'attach' keeps it for itself; another client closes its socket
                break;
        }
    }

    private void Toggle()
    {
        lock (_screen)
        {
            _sequences.Reset();
            _open = !_open;
            if (_open)
            {
                Show("\n" + TextLayout.Paragraph($"monitor: 'help' lists the commands, {_keys.WayBack} goes back", _columns()));
                DrawLine();
                return;
            }
            if (_lineShown) Show(_editor.Erase());
            _lineShown = false;
            Show(_vm.Paused ? TextLayout.Paragraph($"the guest is stopped; {_keys.WayBack} and 'cont' let it go on", _columns()) : "\n");
        }
    }

    private void DrawLine()
    {
        Show(_editor.Draw());
        _lineShown = true;
    }

    private void DrawOnNewRow()
    {
        Show("\n");
        DrawLine();
    }

    private void Show(string text)
    {
        if (text.Length > 0) _show(Encoding.UTF8.GetBytes(text));
    }
}
