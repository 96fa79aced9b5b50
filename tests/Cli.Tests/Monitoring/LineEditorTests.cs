using System.Text;
using Bunraku.Cli.Terminals;
using Bunraku.Sessions.Monitoring;

namespace Bunraku.Cli.Tests.Monitoring;

/// <summary>The editor on a terminal that knows just what it may use. The keys are those of readline's defaults ("Bindable Readline Commands").</summary>
public class LineEditorTests
{
    /// <summary>A row of a terminal, with the rows that went up before.</summary>
    private sealed class Screen(int columns)
    {
        private char[] _row = Blank(columns);
        private int _column;

        public List<string> Above { get; } = [];

        public string Row => new string(_row).TrimEnd();

        public int Column => _column;

        public void Show(string text)
        {
            foreach (char c in text)
            {
                switch (c)
                {
                    case '\r': _column = 0; break;
                    case '\b': _column = Math.Max(0, _column - 1); break;
                    case '\a': break;
                    case '\n':
                        Above.Add(Row);
                        (_row, _column) = (Blank(columns), 0);
                        break;
                    default:
                        Assert.InRange(c, ' ', '~');
                        Assert.True(_column < columns - 1, "the last column makes terminals begin a new row");
                        _row[_column++] = c;
                        break;
                }
            }
        }

        private static char[] Blank(int columns) => [.. Enumerable.Repeat(' ', columns)];
    }

    private sealed class Typist
    {
        private readonly Screen _screen;
        private readonly EscapeSequences _sequences = new();

        public Typist(int columns = 80, params string[] words)
        {
            _screen = new Screen(columns);
            Editor = new LineEditor(() => columns, () => "(p) ", text =>
            {
                int start = text.LastIndexOf(' ') + 1;
                return (start, [.. words.Where(w => w.StartsWith(text[start..], StringComparison.Ordinal))]);
            });
            _screen.Show(Editor.Draw());
        }

        public LineEditor Editor { get; }
        public List<string> Lines { get; } = [];
        public string Row => _screen.Row;
        public int Column => _screen.Column;
        public List<string> Above => _screen.Above;

        public Typist Type(string keys)
        {
            foreach (byte b in Encoding.Latin1.GetBytes(keys))
            {
                _sequences.Feed(b, (what, bytes) =>
                {
                    (string shown, string? line) = Editor.Key(what == TerminalInput.Byte ? EditorKeys.Of(bytes[0]) : EditorKeys.Of(bytes), (char)bytes[0]);
                    _screen.Show(shown);
                    if (line is null) return;
                    Lines.Add(line);
                    _screen.Show(Editor.Draw());
                });
            }
            return this;
        }
    }

    private const string Up = "\x1B[A", Down = "\x1B[B", Right = "\x1B[C", Left = "\x1B[D";

    [Theory]
    [InlineData("abc", "abc", 3)]
    [InlineData("abc\x7F", "ab", 2)]
    [InlineData("abc\b\b\b\b", "", 0)]
    [InlineData("abc" + Left + Left + "x", "axbc", 2)]
    [InlineData("abc" + Left + "\x7F", "ac", 1)]
    [InlineData("abc" + Left + Left + Left + Left + "x", "xabc", 1)]
    [InlineData("abc\x1B[H" + Right + "x", "axbc", 2)]
    [InlineData("abc\x01x\x05y", "xabcy", 5)]
    [InlineData("abc\x1BOH\x1B[3~", "bc", 0)]
    [InlineData("abc\x02\x04", "ab", 2)]
    [InlineData("ab cd\x17", "ab ", 3)]
    [InlineData("ab cd \x1B\x7F", "ab ", 3)]
    [InlineData("ab cd\x1B" + "b\x0B", "ab ", 3)]
    [InlineData("ab cd\x1B[1;5D\x1B[1;5D\x1B" + "d", " cd", 0)]
    [InlineData("ab cd\x01\x1B" + "fx", "abx cd", 3)]
    [InlineData("ab cd" + Left + "\x15", "d", 0)]
    [InlineData("abc\x03", "", 0)]
    [InlineData("abc\x0C", "abc", 3)]
    [InlineData("a\x1B[5~\x1B[200~b\x1B[201~\x80", "ab", 2)]
    public void KeysEdit(string keys, string line, int cursor)
    {
        Typist typist = new Typist().Type(keys);
        Assert.Equal(line, typist.Editor.Text);
        Assert.Equal(("(p) " + line).TrimEnd(), typist.Row);
        Assert.Equal(4 + cursor, typist.Column);
    }

    [Fact]
    public void EnterGivesTheLineAndAnEmptyOne()
    {
        Typist typist = new Typist().Type("abc" + Left + "\rde\n");
        Assert.Equal(["abc", "de"], typist.Lines);
        Assert.Equal(["(p) abc", "(p) de"], typist.Above);
        Assert.Equal("(p)", typist.Row);
    }

    [Fact]
    public void EarlierLinesComeBackOnceEachAndTheDraftIsKept()
    {
        Typist typist = new Typist().Type("one\rtwo\rtwo\r \rdraft" + Up);
        Assert.Equal("two", typist.Editor.Text);
        Assert.Equal("one", typist.Type("\x10").Editor.Text);
        Assert.Equal("one", typist.Type(Up).Editor.Text);
        Assert.Equal("two", typist.Type(Down).Editor.Text);
        Assert.Equal("draft", typist.Type("\x0E").Editor.Text);
        Assert.Equal("draft", typist.Type(Down).Editor.Text);
        Assert.Equal("two", typist.Type(Up + Up + "!\r" + Up + Up).Editor.Text);
        Assert.Equal("one!", typist.Lines[^1]);
    }

    [Theory]
    [InlineData("re\t", "registers ", 0)]
    [InlineData("st\t", "stat", 0)] // what all have in common
    [InlineData("stat\t", "stat", 1)] // then the list
    [InlineData("x\t", "x", 0)]
    [InlineData("a re\t", "a registers ", 0)]
    [InlineData("re y" + Left + Left + "\t", "registers y", 0)]
    public void TabCompletes(string keys, string line, int rows)
    {
        Typist typist = new Typist(80, "registers", "stats", "status").Type(keys);
        Assert.Equal(line, typist.Editor.Text);
        Assert.Equal(("(p) " + line).TrimEnd(), typist.Row);
        Assert.Equal(2 * rows, typist.Above.Count);
        if (rows > 0) Assert.Equal("stats status", typist.Above[1]);
    }

    [Theory]
    [InlineData(80), InlineData(40), InlineData(12), InlineData(5)]
    public void WhatTheRowShowsIsAlwaysAPieceOfTheLineAroundTheCursor(int columns)
    {
        var typist = new Typist(columns, "registers", "stats", "status");
        var random = new Random(columns);
        string[] keys =
            ["a", "b ", "cde", "\x7F", Left, Left, Right, "\x01", "\x05", "\x17", "\x0B", "\x1B" + "b", "\x1B" + "f", "re\t", "st\t", "\r", Up, Down, "\x04",
            "\x0C"];
        for (int n = 0; n < 5000; n++)
        {
            typist.Type(keys[random.Next(keys.Length)]);
            string text = typist.Editor.Text;
            // Past the prompt, whichever fits.
            int prompt = typist.Row.StartsWith("(p)", StringComparison.Ordinal) && 4 <= (columns - 1) / 2 ? 4 : 2;
            string piece = typist.Row.Length > prompt ? typist.Row[prompt..] : "";
            Assert.Contains(piece, text);
            int room = Math.Max(4, columns - 1) - prompt;
            if (text.Length <= room) Assert.Equal(text.TrimEnd(), piece);
            Assert.InRange(typist.Column, prompt, prompt + room);
        }
    }

    [Fact]
    public void ErasingLeavesABlankRow()
    {
        var screen = new Screen(20);
        var editor = new LineEditor(() => 20, () => "(p) ", _ => (0, []));
        screen.Show(editor.Draw());
        foreach (char c in "a long line of text that scrolls") screen.Show(editor.Key(EditorKey.Insert, c).Shown);
        screen.Show(editor.Erase());
        Assert.Equal(("", 0), (screen.Row, screen.Column));
        screen.Show(editor.Draw());
        Assert.Equal("(p) xt that scrolls", screen.Row);
    }
}
