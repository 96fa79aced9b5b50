using System.Text;

namespace Bunraku.Cli.Terminals;

/// <summary>What a key does to the line that is edited.</summary>
internal enum EditorKey
{
    None, Insert, Enter, Abandon, Complete, Redraw,
    Left, Right, WordLeft, WordRight, Home, End, Earlier, Later,
    Backspace, Delete, KillToEnd, KillLine, KillWordBefore, KillWordAfter,
}

/// <summary>Which keys do what: those of readline's default bindings that fit one line.</summary>
internal static class EditorKeys
{
    /// <summary>The key that one byte stands for.</summary>
    public static EditorKey Of(byte b) => b switch
    {
        (byte)'\r' or (byte)'\n' => EditorKey.Enter,
        0x01 => EditorKey.Home, // Ctrl-A, typed twice as it is the escape key
        0x02 => EditorKey.Left,
        0x03 => EditorKey.Abandon,
        0x04 => EditorKey.Delete,
        0x05 => EditorKey.End,
        0x06 => EditorKey.Right,
        0x08 or 0x7F => EditorKey.Backspace,
        (byte)'\t' => EditorKey.Complete,
        0x0B => EditorKey.KillToEnd,
        0x0C => EditorKey.Redraw,
        0x0E => EditorKey.Later,
        0x10 => EditorKey.Earlier,
        0x15 => EditorKey.KillLine,
        0x17 => EditorKey.KillWordBefore,
        >= 0x20 and < 0x7F => EditorKey.Insert,
        _ => EditorKey.None,
    };

    /// <summary>The key that an escape sequence stands for; modifiers of arrows mean words, others are not looked at.</summary>
    public static EditorKey Of(ReadOnlySpan<byte> sequence)
    {
        string text = Encoding.ASCII.GetString(sequence[1..]);
        bool modified = text.Contains(';');
        return text switch
        {
            "b" => EditorKey.WordLeft,
            "f" => EditorKey.WordRight,
            "d" => EditorKey.KillWordAfter,
            "\x7F" => EditorKey.KillWordBefore,
            "[1~" or "[7~" => EditorKey.Home,
            "[4~" or "[8~" => EditorKey.End,
            "[3~" => EditorKey.Delete,
            _ when text.Length < 2 => EditorKey.None,
            _ => text[^1] switch
            {
                'A' => EditorKey.Earlier,
                'B' => EditorKey.Later,
                'C' => modified ? EditorKey.WordRight : EditorKey.Right,
                'D' => modified ? EditorKey.WordLeft : EditorKey.Left,
                'H' => EditorKey.Home,
                'F' => EditorKey.End,
                _ => EditorKey.None,
            },
        };
    }
}
