using System.Text;
using Bunraku.Sessions.Monitoring;

namespace Bunraku.Cli.Terminals;

/// <summary>
/// Edits one line on a raw terminal: keys in, what the terminal is to show out. It never waits and never asks the terminal, because a guest shares it;
/// it needs nothing of it but carriage return, backspace and line feed. A line longer than the terminal is wide scrolls sideways. For one thread.
/// </summary>
/// <param name="columns">Width of the terminal in characters, asked anew for each key.</param>
/// <param name="prompt">What stands before the line.</param>
/// <param name="complete">What the word that ends a text can be completed to, and where it begins.</param>
internal sealed class LineEditor(Func<int> columns, Func<string> prompt, Func<string, (int Start, IReadOnlyList<string> Words)> complete)
{
    private const int Longest = 1000, Kept = 100;
    private const string ShortPrompt = "> ", Bell = "\a";

    private readonly StringBuilder _line = new();
    private readonly List<string> _history = [];
    private string _draft = "";
    private int _cursor, _first, _shown, _recalled;

    /// <summary>What has been typed.</summary>
    public string Text => _line.ToString();

    /// <summary>Shows prompt and line on the current row of the terminal, whatever was there.</summary>
    public string Draw()
    {
        // The last column stays free: a character there makes some terminals begin a new row.
        int width = Math.Max(4, columns() - 1);
        string before = prompt();
        if (before.Length > width / 2) before = ShortPrompt;
        int room = width - before.Length;
        _first = Math.Clamp(_first, Math.Max(0, _cursor - room), _cursor);
        if (_line.Length - _first < room) _first = Math.Min(_first, Math.Max(0, _line.Length - room));
        string row = before + _line.ToString(_first, Math.Min(room, _line.Length - _first));
        int padded = Math.Max(row.Length, Math.Min(_shown, width)), column = before.Length + _cursor - _first;
        _shown = row.Length;
        return "\r" + row.PadRight(padded) + new string('\b', padded - column);
    }

    /// <summary>Takes the row away, for others to write there.</summary>
    public string Erase()
    {
        int shown = Math.Min(_shown, Math.Max(4, columns() - 1));
        _shown = 0;
        return "\r" + new string(' ', shown) + "\r";
    }

    /// <summary>One key. What to show, and the line when it was finished; then nothing is drawn until <see cref="Draw"/>.</summary>
    /// <param name="character">For <see cref="EditorKey.Insert"/>.</param>
    public (string Shown, string? Finished) Key(EditorKey key, char character = '\0')
    {
        switch (key)
        {
            case EditorKey.Enter:
                return ("\n", Finish());
            case EditorKey.Abandon:
                _recalled = _history.Count;
                Set("");
                _shown = 0;
                return ("\n" + Draw(), null);
            case EditorKey.Insert:
                return (Insert(character), null);
            case EditorKey.Complete:
                return (Complete(), null);
            case EditorKey.Redraw:
                return (Draw(), null);
            case EditorKey.Backspace when _cursor > 0 && _cursor == _line.Length && _first == 0 && _shown < columns():
                _line.Length = --_cursor;
                _shown--;
                return ("\b \b", null);
        }
        return (Edit(key) ? Draw() : "", null);
    }

    private bool Edit(EditorKey key) => key switch
    {
        EditorKey.Left => Move(_cursor - 1),
        EditorKey.Right => Move(_cursor + 1),
        EditorKey.WordLeft => Move(WordStart()),
        EditorKey.WordRight => Move(WordEnd()),
        EditorKey.Home => Move(0),
        EditorKey.End => Move(_line.Length),
        EditorKey.Earlier => Recall(_recalled - 1),
        EditorKey.Later => Recall(_recalled + 1),
        EditorKey.Backspace => Remove(_cursor - 1, _cursor),
        EditorKey.Delete => Remove(_cursor, _cursor + 1),
        EditorKey.KillToEnd => Remove(_cursor, _line.Length),
        EditorKey.KillLine => Remove(0, _cursor),
        EditorKey.KillWordBefore => Remove(WordStart(), _cursor),
        EditorKey.KillWordAfter => Remove(_cursor, WordEnd()),
        _ => false,
    };

    private string Finish()
    {
        string line = Text;
        if (line.Trim().Length > 0 && (_history.Count == 0 || _history[^1] != line)) _history.Add(line);
        if (_history.Count > Kept) _history.RemoveAt(0);
        _recalled = _history.Count;
        Set("");
        _shown = 0;
        return line;
    }

    private string Insert(char c)
    {
        if (_line.Length >= Longest) return Bell;
        _line.Insert(_cursor++, c);
        // The common case does not need the whole row again.
        if (_cursor < _line.Length || _shown + 1 >= columns()) return Draw();
        _shown++;
        return c.ToString();
    }

    private string Complete()
    {
        (int start, IReadOnlyList<string> words) = complete(_line.ToString(0, _cursor));
        if (words.Count == 0) return Bell;
        string common = words.Aggregate((a, b) => a[..a.Zip(b).TakeWhile(p => p.First == p.Second).Count()]);
        if (words.Count == 1 && (_cursor == _line.Length || _line[_cursor] != ' ')) common += " ";
        if (common.Length > _cursor - start)
        {
            if (_line.Length + common.Length > Longest) return Bell;
            _line.Remove(start, _cursor - start).Insert(start, common);
            _cursor = start + common.Length;
            return Draw();
        }
        if (words.Count == 1) return "";
        string list = TextLayout.Paragraph(string.Join(' ', words), Math.Max(1, columns() - 1));
        _shown = 0;
        return "\n" + list + Draw();
    }

    private bool Move(int to)
    {
        if (to < 0 || to > _line.Length || to == _cursor) return false;
        _cursor = to;
        return true;
    }

    private bool Remove(int from, int to)
    {
        if (from < 0 || to > _line.Length || from >= to) return false;
        _line.Remove(from, to - from);
        _cursor = from;
        return true;
    }

    private bool Recall(int which)
    {
        if (which < 0 || which > _history.Count) return false;
        if (_recalled == _history.Count) _draft = Text;
        _recalled = which;
        Set(which == _history.Count ? _draft : _history[which]);
        return true;
    }

    private void Set(string text)
    {
        _line.Clear().Append(text);
        _cursor = text.Length;
        _first = 0;
    }

    private int WordStart()
    {
        int at = _cursor;
        while (at > 0 && _line[at - 1] == ' ') at--;
        while (at > 0 && _line[at - 1] != ' ') at--;
        return at;
    }

    private int WordEnd()
    {
        int at = _cursor;
        while (at < _line.Length && _line[at] == ' ') at++;
        while (at < _line.Length && _line[at] != ' ') at++;
        return at;
    }
}
