namespace Bunraku.Machine.Display;

/// <summary>
/// Ports of a VGA: IBM Personal System/2 Hardware Interface Technical Reference, "Video Subsystem", section "VGA Programming Considerations".
/// </summary>
internal static class VgaPort
{
    /// <summary>CRT controller where the miscellaneous output register says monochrome, and its input status 1.</summary>
    public const ushort MonochromeCrtc = 0x3B4, MonochromeStatus = 0x3BA;
    /// <summary>The registers that have one place, 16 ports.</summary>
    public const ushort First = 0x3C0;
    public const int Count = 16;
    /// <summary>CRT controller and input status 1 where it says colour.</summary>
    public const ushort ColorCrtc = 0x3D4, ColorStatus = 0x3DA;
    /// <summary>Behind the last one.</summary>
    public const ushort End = 0x3E0;

    public const ushort Attribute = 0x3C0, AttributeRead = 0x3C1, MiscellaneousWrite = 0x3C2, Sequencer = 0x3C4, SequencerData = 0x3C5, PelMask = 0x3C6,
        DacReadIndex = 0x3C7, DacWriteIndex = 0x3C8, DacData = 0x3C9, FeatureRead = 0x3CA, MiscellaneousRead = 0x3CC, Graphics = 0x3CE, GraphicsData = 0x3CF;
}

/// <summary>Indexed registers of the sequencer.</summary>
internal static class SequencerRegister
{
    public const int ClockingMode = 1, MapMask = 2, CharacterMap = 3, MemoryMode = 4, Count = 5;
    /// <summary>Bits that are there.</summary>
    public static ReadOnlySpan<byte> Masks => [0x03, 0x3D, 0x0F, 0x3F, 0x0E];
    /// <summary>In clocking mode: characters of 8 dots; the screen is off.</summary>
    public const byte EightDots = 1 << 0, ScreenOff = 1 << 5;
    /// <summary>In memory mode: odd and even addresses are not told apart; the two low address bits choose the plane.</summary>
    public const byte Sequential = 1 << 2, Chain4 = 1 << 3;
}

/// <summary>Indexed registers of the graphics controller.</summary>
internal static class GraphicsRegister
{
    public const int SetReset = 0, EnableSetReset = 1, ColorCompare = 2, DataRotate = 3, ReadMapSelect = 4, Mode = 5, Miscellaneous = 6, ColorDontCare = 7,
        BitMask = 8, Count = 9;
    public static ReadOnlySpan<byte> Masks => [0x0F, 0x0F, 0x0F, 0x1F, 0x03, 0x7B, 0x0F, 0x0F, 0xFF];
    /// <summary>In mode: reads compare colours; odd and even addresses are told apart; how planes are shifted out.</summary>
    public const byte ReadCompares = 1 << 3, OddEven = 1 << 4, ShiftInterleaved = 1 << 5, Shift256 = 1 << 6;
    /// <summary>In miscellaneous: graphics, not text; address bit 0 is replaced by another one.</summary>
    public const byte GraphicsMode = 1 << 0, ChainOddEven = 1 << 1;
}

/// <summary>Indexed registers of the CRT controller.</summary>
internal static class CrtcRegister
{
    public const int HorizontalDisplayEnd = 0x01, Overflow = 0x07, PresetRowScan = 0x08, MaximumScanLine = 0x09, CursorStart = 0x0A, CursorEnd = 0x0B,
        StartHigh = 0x0C, StartLow = 0x0D, CursorHigh = 0x0E, CursorLow = 0x0F, VerticalRetraceEnd = 0x11, VerticalDisplayEnd = 0x12, Offset = 0x13,
        UnderlineLocation = 0x14, ModeControl = 0x17, LineCompare = 0x18, Count = 0x19;
    /// <summary>In the vertical retrace end register: registers 0 to 7 are read-only, but for one bit.</summary>
    public const byte Protect = 1 << 7;
    /// <summary>The bit of the overflow register that is not protected: bit 8 of line compare.</summary>
    public const byte OverflowLineCompare = 1 << 4;
    /// <summary>In the maximum scan line register: each line is shown twice.</summary>
    public const byte DoubleScan = 1 << 7;
    /// <summary>In the cursor start register.</summary>
    public const byte CursorOff = 1 << 5;
    /// <summary>In the underline location register.</summary>
    public const byte DoublewordMode = 1 << 6;
    /// <summary>In mode control: row scan bits 0 and 1 do not replace address bits 13 and 14; which bit wraps into bit 0 in word mode; byte mode.</summary>
    public const byte NoRowScan0 = 1 << 0, NoRowScan1 = 1 << 1, AddressWrap = 1 << 5, ByteMode = 1 << 6;
}

/// <summary>Indexed registers of the attribute controller; the first 16 are the palette.</summary>
internal static class AttributeRegister
{
    public const int Palette = 16, Mode = 0x10, ColorPlaneEnable = 0x12, HorizontalPanning = 0x13, ColorSelect = 0x14, Count = 0x15;
    /// <summary>The bits of each register behind the palette.</summary>
    public static ReadOnlySpan<byte> Masks => [0xEF, 0xFF, 0x3F, 0x0F, 0x0F];
    public const byte PaletteMask = 0x3F, IndexMask = 0x1F;
    /// <summary>In the index: the palette belongs to the screen, which is dark otherwise.</summary>
    public const byte PaletteSource = 1 << 5;
    /// <summary>
    /// In mode: the ninth dot of line-drawing characters; attribute bit 7 is blinking; panning ends at the split; colour bits 5:4 from elsewhere.
    /// </summary>
    public const byte LineGraphics = 1 << 2, Blink = 1 << 3, PanningSplit = 1 << 5, ColorSelect54 = 1 << 7;
}
