using System.Text;

namespace Bunraku.Cli.Running;

/// <summary>Line editing for the monitor on a raw terminal: backspace, Ctrl-U, Ctrl-C, Enter. For one thread.</summary>
public sealed class MonitorLine(MonitorShell shell)
{
    private const int Longest = 256;
    private readonly StringBuilder _line = new();

    /// <summary>One typed byte; returns what the terminal is to show.</summary>
    public string Type(byte b)
    {
        switch (b)
        {
            case (byte)'\r' or (byte)'\n':
                string line = _line.ToString();
                _line.Clear();
                return "\n" + shell.Execute(line) + MonitorShell.Prompt;
            case 0x7F or 0x08:
                if (_line.Length == 0) return "";
                _line.Length--;
                return "\b \b";
            case 0x15: // Ctrl-U
                string erase = string.Concat(Enumerable.Repeat("\b \b", _line.Length));
                _line.Clear();
                return erase;
            case 0x03: // Ctrl-C
                _line.Clear();
                return "\n" + MonitorShell.Prompt;
            default:
                if (b is < 0x20 or > 0x7E || _line.Length >= Longest) return "";
                _line.Append((char)b);
                return ((char)b).ToString();
        }
    }
}
