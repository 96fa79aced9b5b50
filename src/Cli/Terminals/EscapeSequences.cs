namespace Bunraku.Cli.Terminals;

/// <summary>What one or more bytes from a terminal are.</summary>
internal enum TerminalInput
{
    /// <summary>A character or a control character: one byte.</summary>
    Byte,
    /// <summary>A key that sends an escape sequence.</summary>
    Key,
    /// <summary>The terminal's answer to a query, or an event that a program asked for: it is meant for the program that runs on it.</summary>
    Report,
}

/// <summary>
/// Cuts what a terminal sends into bytes, keys and reports. A terminal answers queries (where is the cursor, what are you) on the same line as the
/// keys, at a time of its own.
/// </summary>
/// <remarks>
/// ECMA-48 (5th edition) sections 5.4 "Control sequences" and 5.6 "Control strings"; which sequences are reports: xterm, "Control Sequences". For one
/// thread. Holds back at most one unfinished sequence.
/// </remarks>
internal sealed class EscapeSequences
{
    private const byte Escape = 0x1B, Bell = 0x07;
    private const int Longest = 4096, MouseBytes = 3;

    private enum State { Ground, Escape, Control, SingleShift, String, StringEscape, Mouse }

    private readonly List<byte> _held = [];
    private State _state;
    private int _mouse;

    /// <summary>Takes one byte; calls back when it ends something, perhaps twice: a control character within a sequence cancels that.</summary>
    public void Feed(byte b, Action<TerminalInput, byte[]> complete)
    {
        switch (_state)
        {
            case State.Ground when b == Escape:
                _held.Add(b);
                _state = State.Escape;
                return;
            case State.Ground:
                complete(TerminalInput.Byte, [b]);
                return;
            case State.Escape when b == Escape: // the key was pressed twice
                return;
            case State.String or State.StringEscape when b == Bell:
            case State.StringEscape when b == '\\':
                End(b, TerminalInput.Report, complete);
                return;
            case State.String when b == Escape:
                _held.Add(b);
                _state = State.StringEscape;
                return;
            case not State.Mouse when b < 0x20:
                // No sequence has control characters inside: somebody typed what only looked like the beginning of one.
                Reset();
                Feed(b, complete);
                return;
        }
        if (_held.Count >= Longest)
        {
            Reset();
            return;
        }
        switch (_state)
        {
            case State.Escape:
                _held.Add(b);
                _state = (char)b switch { '[' => State.Control, 'O' => State.SingleShift, ']' or 'P' or '_' or '^' or 'X' => State.String, _ => State.Ground };
                if (_state == State.Ground) Complete(TerminalInput.Key, complete);
                return;
            case State.SingleShift:
                End(b, TerminalInput.Key, complete);
                return;
            case State.Control when b is < 0x40 or > 0x7E:
                _held.Add(b);
                return;
            case State.Control when b == 'M' && _held.Count == 2: // a mouse event of X10: button and position follow
                _held.Add(b);
                (_state, _mouse) = (State.Mouse, MouseBytes);
                return;
            case State.Control:
                End(b, IsReport(b) ? TerminalInput.Report : TerminalInput.Key, complete);
                return;
            case State.Mouse when --_mouse > 0:
            case State.String:
                _held.Add(b);
                return;
            case State.Mouse:
                End(b, TerminalInput.Report, complete);
                return;
            case State.StringEscape:
                _held.Add(b);
                _state = State.String;
                return;
        }
    }

    /// <summary>Forgets an unfinished sequence.</summary>
    public void Reset()
    {
        _held.Clear();
        _state = State.Ground;
    }

    /// <summary>
    /// Cursor position (R), device attributes (c), status (n), window (t), modes and parameters (y, x), focus (I, O), and all with a private prefix.
    /// </summary>
    private bool IsReport(byte final) => (char)final is 'R' or 'c' or 'n' or 't' or 'x' or 'y' or 'I' or 'O'
        || (_held.Count > 2 && _held[2] is >= (byte)'<' and <= (byte)'?');

    private void End(byte last, TerminalInput what, Action<TerminalInput, byte[]> complete)
    {
        _held.Add(last);
        Complete(what, complete);
    }

    private void Complete(TerminalInput what, Action<TerminalInput, byte[]> complete)
    {
        byte[] sequence = [.. _held];
        Reset();
        complete(what, sequence);
    }
}
