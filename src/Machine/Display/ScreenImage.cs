namespace Bunraku.Machine.Display;

/// <summary>A picture of a screen.</summary>
/// <param name="width">Pixels of a line, at least 1.</param>
/// <param name="height">Lines, at least 1.</param>
public sealed class ScreenImage(int width, int height)
{
    /// <summary>Pixels of a line.</summary>
    public int Width => width;

    /// <summary>Lines.</summary>
    public int Height => height;

    /// <summary>From the upper left on, line by line: red in bits 23:16, green in 15:8, blue in 7:0; the upper bits are 0.</summary>
    public uint[] Pixels { get; } = new uint[width * height];

    /// <summary>The pixels of a line.</summary>
    /// <param name="y">From 0 to <see cref="Height"/> - 1.</param>
    public Span<uint> Line(int y) => Pixels.AsSpan(y * width, width);
}

/// <summary>A screen of characters.</summary>
/// <param name="Lines">From above, without spaces at their ends.</param>
/// <param name="CursorLine">Where the cursor is, from 0; null: it is not shown.</param>
/// <param name="CursorColumn">Where the cursor is, from 0.</param>
public sealed record ScreenText(IReadOnlyList<string> Lines, int? CursorLine, int CursorColumn);
