using System.Runtime.InteropServices;
using Bunraku.Engines;

namespace Bunraku.Machine.Display;

/// <summary>
/// What a display shows at one moment: a copy of its registers, and its memory, which may go on changing. Paints it, and reads its text. What is said to blink
/// is shown all the time.
/// </summary>
internal sealed class ScreenContents
{
    private const int MostColors = 256, DotsOfUnit = 8;

    private readonly VgaRegisters _vga = new();
    private readonly BochsDisplay _bochs;
    private readonly GuestMemory _memory;
    private readonly MemoryRegion _own;

    public ScreenContents(VgaRegisters registers, BochsDisplay bochs, GuestMemory memory, in MemoryRegion own)
    {
        (_memory, _own) = (memory, own);
        _bochs = new BochsDisplay((uint)own.Length);
        _vga.Restore(registers.Save(), "vga");
        _bochs.Restore(bochs.Save(), "vga");
    }

    private ReadOnlySpan<byte> Memory => _memory.ReadBacking(_own.Offset, (int)_own.Length);

    private bool IsText => !_bochs.IsOn && !_vga.IsGraphics;

    /// <summary>Characters, or pixels.</summary>
    public bool HasText => IsText && !_vga.IsDark;

    private bool HasRowScanAddresses => (_vga.Crtc[CrtcRegister.ModeControl] & (CrtcRegister.NoRowScan0 | CrtcRegister.NoRowScan1))
        != (CrtcRegister.NoRowScan0 | CrtcRegister.NoRowScan1);

    /// <summary>How often the monitor draws what is one line of the picture.</summary>
    private int LinesOfPixel => (_vga.IsDoubleScanned ? 2 : 1) * (IsText || HasRowScanAddresses ? 1 : _vga.RowLines);

    public int Width
    {
        get
        {
            if (_bochs.IsOn) return _bochs.Width;
            return IsText ? _vga.Columns * _vga.CharacterWidth : _vga.Columns * (_vga.Is256Colors ? DotsOfUnit / 2 : DotsOfUnit);
        }
    }

    public int Height => _bochs.IsOn ? _bochs.Height : Math.Max(_vga.Lines / LinesOfPixel, 1);

    /// <summary>The picture.</summary>
    /// <param name="reuse">An earlier one, which is overwritten where its size is right.</param>
    public ScreenImage Paint(ScreenImage? reuse)
    {
        ScreenImage image = reuse is { } r && (r.Width, r.Height) == (Width, Height) ? r : new ScreenImage(Width, Height);
        if (_vga.IsDark) image.Pixels.AsSpan().Clear();
        else if (_bochs is { IsOn: true, IsPlanar: false }) PaintLinear(image);
        else PaintVga(image);
        return image;
    }

    // ---- modes of the Bochs registers

    private void PaintLinear(ScreenImage image)
    {
        ReadOnlySpan<byte> memory = Memory;
        Span<uint> colors = stackalloc uint[MostColors];
        if (_bochs.Bits == 8) FillColors(colors);
        int bytes = _bochs.PixelBytes, line = image.Width * bytes;
        for (int y = 0; y < image.Height; y++)
        {
            Span<uint> pixels = image.Line(y);
            long at = _bochs.StartByte + (long)y * _bochs.LineBytes;
            if (at + line > memory.Length)
            {
                pixels.Clear();
                continue;
            }
            PaintLine(memory.Slice((int)at, line), pixels, colors);
        }
    }

    private void PaintLine(ReadOnlySpan<byte> bytes, Span<uint> pixels, ReadOnlySpan<uint> colors)
    {
        switch (_bochs.Bits)
        {
            case 8:
                for (int x = 0; x < pixels.Length; x++) pixels[x] = colors[bytes[x]];
                break;
            case 15 or 16:
                bool green6 = _bochs.Bits == 16;
                ReadOnlySpan<ushort> words = MemoryMarshal.Cast<byte, ushort>(bytes);
                for (int x = 0; x < pixels.Length; x++) pixels[x] = green6 ? From565(words[x]) : From555(words[x]);
                break;
            case 24:
                for (int x = 0; x < pixels.Length; x++) pixels[x] = bytes[3 * x] | (uint)bytes[3 * x + 1] << 8 | (uint)bytes[3 * x + 2] << 16;
                break;
            default:
                ReadOnlySpan<uint> longs = MemoryMarshal.Cast<byte, uint>(bytes);
                for (int x = 0; x < pixels.Length; x++) pixels[x] = longs[x] & 0xFF_FFFF;
                break;
        }
    }

    private static uint From565(uint v) => Five(v >> 11) << 16 | ((v >> 5 & 0x3F) << 2 | v >> 9 & 3) << 8 | Five(v);

    private static uint From555(uint v) => Five(v >> 10) << 16 | Five(v >> 5) << 8 | Five(v);

    private static uint Five(uint v) => (v & 0x1F) << 3 | v >> 2 & 7;

    // ---- modes of the VGA

    private void PaintVga(ScreenImage image)
    {
        Span<uint> colors = stackalloc uint[MostColors];
        if (!IsText && _vga.Is256Colors && !_bochs.IsOn)
        {
            FillColors(colors);
        }
        else
        {
            for (int n = 0; n < 16; n++) colors[n] = _vga.DacColor(_vga.PaletteIndex(n), _bochs.HasWideDac);
        }
        int rowLines = IsText || HasRowScanAddresses ? _vga.RowLines : 1, scans = _bochs.IsOn ? 1 : LinesOfPixel;
        int start = _bochs.IsOn ? _bochs.StartByte : _vga.StartAddress, pitch = _bochs.IsOn ? _bochs.LineBytes : _vga.RowAddresses;
        int split = _bochs.IsOn ? int.MaxValue : _vga.LineCompare, panning = _bochs.IsOn ? 0 : Panning;
        int row = start + (_vga.Crtc[CrtcRegister.PresetRowScan] >> 5 & 3), scan = _vga.Crtc[CrtcRegister.PresetRowScan] & 0x1F;
        if (_bochs.IsOn || scan >= rowLines) scan = 0;
        bool isBelow = false;
        for (int y = 0; y < image.Height; y++)
        {
            if (!isBelow && y * scans > split)
            {
                (isBelow, row, scan) = (true, 0, 0);
                if ((_vga.Attribute[AttributeRegister.Mode] & AttributeRegister.PanningSplit) != 0) panning = 0;
            }
            Span<uint> line = image.Line(y);
            if (IsText) PaintText(line, row, scan, panning, colors);
            else if (_vga.Is256Colors && !_bochs.IsOn) Paint256(line, row, scan, panning, colors);
            else PaintPlanes(line, row, scan, panning, colors);
            if (++scan >= rowLines) (row, scan) = (row + pitch, 0);
        }
    }

    /// <summary>Pixels by which the picture is moved to the left.</summary>
    private int Panning
    {
        get
        {
            int value = _vga.Attribute[AttributeRegister.HorizontalPanning] & 0xF;
            if (!IsText && _vga.Is256Colors) return value / 2 & 3;
            // Characters of nine dots begin with the value 8.
            return IsText && _vga.CharacterWidth == 9 ? value >= 8 ? 0 : value + 1 : value & 7;
        }
    }

    private void FillColors(Span<uint> colors)
    {
        for (int n = 0; n < MostColors; n++) colors[n] = _vga.DacColor(n & _vga.PelMask, _bochs.HasWideDac);
    }

    /// <summary>Address in a plane of what the address counter says.</summary>
    private int Address(int counter, int scan)
    {
        byte mode = _vga.Crtc[CrtcRegister.ModeControl];
        int address;
        if (_bochs.IsOn) return counter;
        counter &= 0xFFFF;
        if ((_vga.Crtc[CrtcRegister.UnderlineLocation] & CrtcRegister.DoublewordMode) != 0) address = counter << 2 | counter >> 14 & 3;
        else if ((mode & CrtcRegister.ByteMode) != 0) address = counter;
        else address = counter << 1 | counter >> ((mode & CrtcRegister.AddressWrap) != 0 ? 15 : 13) & 1;
        if ((mode & CrtcRegister.NoRowScan0) == 0) address = address & ~(1 << 13) | (scan & 1) << 13;
        if ((mode & CrtcRegister.NoRowScan1) == 0) address = address & ~(1 << 14) | (scan >> 1 & 1) << 14;
        return address & 0xFFFF;
    }

    private byte Plane(int address, int plane)
    {
        int at = 4 * address + plane;
        ReadOnlySpan<byte> memory = Memory;
        return at < memory.Length ? memory[at] : (byte)0;
    }

    /// <summary>Eight pixels a step of the address counter, a bit in each plane, or two bits in planes that take turns as a CGA has them.</summary>
    private void PaintPlanes(Span<uint> line, int row, int scan, int panning, ReadOnlySpan<uint> colors)
    {
        bool interleaved = (_vga.Graphics[GraphicsRegister.Mode] & GraphicsRegister.ShiftInterleaved) != 0;
        for (int x = 0; x < line.Length;)
        {
            int at = x + panning, address = Address(row + at / DotsOfUnit, scan);
            byte p0 = Plane(address, 0), p1 = Plane(address, 1), p2 = Plane(address, 2), p3 = Plane(address, 3);
            for (int bit = at % DotsOfUnit; bit < DotsOfUnit && x < line.Length; bit++, x++)
            {
                int shift = 7 - bit;
                int color = interleaved
                    ? (bit < 4 ? p0 >> 6 - 2 * bit & 3 | (p2 >> 6 - 2 * bit & 3) << 2 : p1 >> 14 - 2 * bit & 3 | (p3 >> 14 - 2 * bit & 3) << 2)
                    : p0 >> shift & 1 | (p1 >> shift & 1) << 1 | (p2 >> shift & 1) << 2 | (p3 >> shift & 1) << 3;
                line[x] = colors[color];
            }
        }
    }

    /// <summary>
    /// Four pixels a step of the address counter. Where the low address bits choose the plane, addresses of the processor are those of display memory, so that
    /// four steps of a counter of doublewords are one.
    /// </summary>
    private void Paint256(Span<uint> line, int row, int scan, int panning, ReadOnlySpan<uint> colors)
    {
        bool doublewords = (_vga.Crtc[CrtcRegister.UnderlineLocation] & CrtcRegister.DoublewordMode) != 0;
        ReadOnlySpan<byte> memory = Memory;
        for (int x = 0; x < line.Length; x++)
        {
            int pixel = x + panning, counter = row + pixel / 4;
            int at = 4 * (doublewords ? counter & 0xFFFF : Address(counter, scan)) + pixel % 4;
            line[x] = at < memory.Length ? colors[memory[at]] : 0;
        }
    }

    // ---- text

    private void PaintText(Span<uint> line, int row, int scan, int panning, ReadOnlySpan<uint> colors)
    {
        int width = _vga.CharacterWidth, cursor = CursorIsOn(scan) ? _vga.CursorAddress : -1;
        byte map = _vga.Sequencer[SequencerRegister.CharacterMap], mode = _vga.Attribute[AttributeRegister.Mode];
        int fontA = FontAddress(map >> 2 & 3 | map >> 3 & 4), fontB = FontAddress(map & 3 | map >> 2 & 4);
        int underline = _vga.Crtc[CrtcRegister.UnderlineLocation] & 0x1F;
        for (int x = -panning, column = 0; x < line.Length; x += width, column++)
        {
            int address = Address(row + column, scan);
            byte character = Plane(address, 0), attribute = Plane(address, 1);
            bool blinks = (mode & AttributeRegister.Blink) != 0;
            uint foreground = colors[attribute & 0xF], background = colors[attribute >> 4 & (blinks ? 7 : 0xF)];
            int dots = Plane(((attribute & 8) != 0 ? fontA : fontB) + 32 * character + scan, 2) << 1;
            if ((mode & AttributeRegister.LineGraphics) != 0 && character is >= 0xC0 and <= 0xDF) dots |= dots >> 1 & 1;
            // A monochrome display underlines where the attribute has 001 and 000.
            if (scan == underline && (mode & 2) != 0 && (attribute & 0x77) == 1) dots = 0x1FF;
            if (row + column == cursor) dots = 0x1FF;
            for (int n = 0; n < width; n++)
            {
                if (x + n >= 0 && x + n < line.Length) line[x + n] = (dots >> 8 - n & 1) != 0 ? foreground : background;
            }
        }
    }

    private static int FontAddress(int number) => (number & 3) << 14 | (number & 4) << 11;

    private bool CursorIsOn(int scan)
    {
        byte start = _vga.Crtc[CrtcRegister.CursorStart];
        return (start & CrtcRegister.CursorOff) == 0 && scan >= (start & 0x1F) && scan <= (_vga.Crtc[CrtcRegister.CursorEnd] & 0x1F);
    }

    /// <summary>The characters as Unicode, by code page 437, which the fonts of a PC's ROM follow.</summary>
    public ScreenText ReadText()
    {
        int rows = Math.Max(_vga.Lines / (_vga.IsDoubleScanned ? 2 : 1) / _vga.RowLines, 1), columns = _vga.Columns;
        List<string> lines = [];
        int? cursorLine = null;
        int cursorColumn = 0;
        bool hasCursor = (_vga.Crtc[CrtcRegister.CursorStart] & CrtcRegister.CursorOff) == 0;
        Span<char> line = stackalloc char[columns];
        for (int y = 0; y < rows; y++)
        {
            int row = _vga.StartAddress + y * _vga.RowAddresses;
            for (int x = 0; x < columns; x++)
            {
                line[x] = CodePage437.ToUnicode(Plane(Address(row + x, 0), 0));
                if (hasCursor && row + x == _vga.CursorAddress) (cursorLine, cursorColumn) = (y, x);
            }
            lines.Add(new string(line.TrimEnd(' ')));
        }
        return new ScreenText(lines, cursorLine, cursorColumn);
    }
}

/// <summary>The characters of a PC's ROM: IBM code page 437, with the pictures that it has below the space.</summary>
internal static class CodePage437
{
    private const string Low = " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼", High =
        "⌂ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■ ";

    /// <summary>The character of a code.</summary>
    public static char ToUnicode(byte code) => code < ' ' ? Low[code] : code < 0x7F ? (char)code : High[code - 0x7F];
}
