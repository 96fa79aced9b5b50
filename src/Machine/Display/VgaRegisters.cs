using Bunraku.Engines;

namespace Bunraku.Machine.Display;

/// <summary>
/// The registers of a VGA and what they say together: IBM Personal System/2 Hardware Interface Technical Reference, "Video Subsystem". With the lock held of
/// who owns it.
/// </summary>
internal sealed class VgaRegisters
{
    private const int Colors = 256;
    private const long FrameTime = 1_000_000_000 / 60, LineTime = FrameTime / 525; // of a mode with 480 lines
    private const byte StatusDisplayOff = 1 << 0, StatusRetrace = 1 << 3;
    private const byte Color = 1 << 0;

    public byte[] Sequencer { get; } = new byte[SequencerRegister.Count];
    public byte[] Graphics { get; } = new byte[GraphicsRegister.Count];
    public byte[] Crtc { get; } = new byte[CrtcRegister.Count];
    public byte[] Attribute { get; } = new byte[AttributeRegister.Count];
    /// <summary>Three bytes a colour: red, green, blue.</summary>
    public byte[] Dac { get; } = new byte[3 * Colors];
    public byte PelMask { get; private set; }
    public byte Miscellaneous { get; private set; }

    private byte _feature, _sequencerIndex, _graphicsIndex, _crtcIndex, _attributeIndex, _dacRead, _dacWrite;
    private int _dacPart;
    private readonly byte[] _dacCache = new byte[3];
    private bool _attributeData, _dacReading;

    public VgaRegisters() => Reset();

    public void Reset()
    {
        foreach (byte[] array in (byte[][])[Sequencer, Graphics, Crtc, Attribute, Dac, _dacCache]) array.AsSpan().Clear();
        (PelMask, Miscellaneous) = (0xFF, 0);
        (_feature, _sequencerIndex, _graphicsIndex, _crtcIndex, _attributeIndex, _dacRead, _dacWrite) = (0, 0, 0, 0, 0, 0, 0);
        (_dacPart, _attributeData, _dacReading) = (0, false, false);
    }

    // ---- what they say

    /// <summary>Nothing is shown: the palette is being written, or the screen is off.</summary>
    public bool IsDark => (_attributeIndex & AttributeRegister.PaletteSource) == 0
        || Has(Sequencer, SequencerRegister.ClockingMode, SequencerRegister.ScreenOff);
    public bool IsGraphics => Has(Graphics, GraphicsRegister.Miscellaneous, GraphicsRegister.GraphicsMode);
    public bool IsChain4 => Has(Sequencer, SequencerRegister.MemoryMode, SequencerRegister.Chain4);
    public bool Is256Colors => Has(Graphics, GraphicsRegister.Mode, GraphicsRegister.Shift256);
    /// <summary>Dots of a text character.</summary>
    public int CharacterWidth => Has(Sequencer, SequencerRegister.ClockingMode, SequencerRegister.EightDots) ? 8 : 9;
    /// <summary>Characters of a line.</summary>
    public int Columns => Crtc[CrtcRegister.HorizontalDisplayEnd] + 1;
    /// <summary>Lines of the screen, as the monitor draws them.</summary>
    public int Lines => (Crtc[CrtcRegister.VerticalDisplayEnd] | OverflowBit(1) << 8 | OverflowBit(6) << 9) + 1;
    /// <summary>Lines that a row of characters, or one of graphics, takes.</summary>
    public int RowLines => (Crtc[CrtcRegister.MaximumScanLine] & 0x1F) + 1;
    public bool IsDoubleScanned => Has(Crtc, CrtcRegister.MaximumScanLine, CrtcRegister.DoubleScan);
    /// <summary>The last line before the address begins at 0 again.</summary>
    public int LineCompare => Crtc[CrtcRegister.LineCompare] | OverflowBit(4) << 8 | (Crtc[CrtcRegister.MaximumScanLine] >> 6 & 1) << 9;
    public int StartAddress => Crtc[CrtcRegister.StartHigh] << 8 | Crtc[CrtcRegister.StartLow];
    public int CursorAddress => Crtc[CrtcRegister.CursorHigh] << 8 | Crtc[CrtcRegister.CursorLow];
    /// <summary>Addresses from one row to the next.</summary>
    public int RowAddresses => Crtc[CrtcRegister.Offset] * 2;

    /// <summary>Colour number, 0 to 15, to the one in the DAC.</summary>
    public int PaletteIndex(int color)
    {
        int index = Attribute[color & Attribute[AttributeRegister.ColorPlaneEnable] & 0xF], select = Attribute[AttributeRegister.ColorSelect];
        index = Has(Attribute, AttributeRegister.Mode, AttributeRegister.ColorSelect54) ? index & 0xF | (select & 3) << 4 : index & 0x3F;
        return (index | (select & 0xC) << 4) & PelMask;
    }

    /// <summary>A colour of the DAC as red in bits 23:16, green, blue.</summary>
    /// <param name="index">0 to 255.</param>
    /// <param name="wide">Its components have 8 bits, not 6.</param>
    public uint DacColor(int index, bool wide)
    {
        ReadOnlySpan<byte> c = Dac.AsSpan(3 * index, 3);
        return wide ? (uint)(c[0] << 16 | c[1] << 8 | c[2]) : Widen(c[0]) << 16 | Widen(c[1]) << 8 | Widen(c[2]);

        static uint Widen(byte six) => (uint)((six & 0x3F) << 2 | (six & 0x3F) >> 4);
    }

    private int OverflowBit(int bit) => Crtc[CrtcRegister.Overflow] >> bit & 1;

    private static bool Has(byte[] registers, int index, byte bit) => (registers[index] & bit) != 0;

    // ---- ports

    /// <summary>The colour addresses of the CRT controller answer, not the monochrome ones.</summary>
    private bool IsColor => (Miscellaneous & Color) != 0;

    /// <summary>A byte is read.</summary>
    /// <param name="port">Of those of <see cref="VgaPort"/>.</param>
    /// <param name="nanoseconds">Virtual time.</param>
    /// <param name="wideDac">Colours have 8 bits.</param>
    public byte Read(ushort port, long nanoseconds, bool wideDac)
    {
        switch (port)
        {
            case VgaPort.MonochromeCrtc or VgaPort.MonochromeCrtc + 1 when !IsColor:
            case VgaPort.ColorCrtc or VgaPort.ColorCrtc + 1 when IsColor:
                return (port & 1) == 0 ? _crtcIndex : _crtcIndex < CrtcRegister.Count ? Crtc[_crtcIndex] : (byte)0xFF;
            case VgaPort.MonochromeStatus when !IsColor:
            case VgaPort.ColorStatus when IsColor:
                _attributeData = false;
                return Status(nanoseconds);
            case VgaPort.Attribute:
                return _attributeData ? (byte)0 : _attributeIndex;
            case VgaPort.AttributeRead:
                int attribute = _attributeIndex & AttributeRegister.IndexMask;
                return attribute < AttributeRegister.Count ? Attribute[attribute] : (byte)0;
            case VgaPort.MiscellaneousWrite:
                return 0; // input status 0: no interrupt, and no switch says monochrome
            case VgaPort.Sequencer:
                return _sequencerIndex;
            case VgaPort.SequencerData:
                return _sequencerIndex < SequencerRegister.Count ? Sequencer[_sequencerIndex] : (byte)0;
            case VgaPort.PelMask:
                return PelMask;
            case VgaPort.DacReadIndex:
                return (byte)(_dacReading ? 3 : 0);
            case VgaPort.DacWriteIndex:
                return _dacWrite;
            case VgaPort.DacData:
                byte part = Dac[3 * _dacRead + _dacPart];
                NextDacPart(ref _dacRead);
                return wideDac ? part : (byte)(part & 0x3F);
            case VgaPort.FeatureRead:
                return _feature;
            case VgaPort.MiscellaneousRead:
                return Miscellaneous;
            case VgaPort.Graphics:
                return _graphicsIndex;
            case VgaPort.GraphicsData:
                return _graphicsIndex < GraphicsRegister.Count ? Graphics[_graphicsIndex] : (byte)0;
            default:
                return 0xFF;
        }
    }

    /// <summary>A byte is written.</summary>
    /// <inheritdoc cref="Read"/>
    public void Write(ushort port, byte value)
    {
        switch (port)
        {
            case VgaPort.MonochromeCrtc or VgaPort.MonochromeCrtc + 1 when !IsColor:
            case VgaPort.ColorCrtc or VgaPort.ColorCrtc + 1 when IsColor:
                if ((port & 1) == 0) _crtcIndex = value;
                else WriteCrtc(value);
                break;
            case VgaPort.MonochromeStatus when !IsColor:
            case VgaPort.ColorStatus when IsColor:
                _feature = (byte)(value & 0x10);
                break;
            case VgaPort.Attribute:
                if (_attributeData) WriteAttribute(value);
                else _attributeIndex = (byte)(value & 0x3F);
                _attributeData = !_attributeData;
                break;
            case VgaPort.MiscellaneousWrite:
                Miscellaneous = (byte)(value & 0xEF);
                break;
            case VgaPort.Sequencer:
                _sequencerIndex = (byte)(value & 7);
                break;
            case VgaPort.SequencerData:
                if (_sequencerIndex < SequencerRegister.Count) Sequencer[_sequencerIndex] = (byte)(value & SequencerRegister.Masks[_sequencerIndex]);
                break;
            case VgaPort.PelMask:
                PelMask = value;
                break;
            case VgaPort.DacReadIndex:
                (_dacRead, _dacPart, _dacReading) = (value, 0, true);
                break;
            case VgaPort.DacWriteIndex:
                (_dacWrite, _dacPart, _dacReading) = (value, 0, false);
                break;
            case VgaPort.DacData:
                _dacCache[_dacPart] = value;
                if (_dacPart == 2) _dacCache.CopyTo(Dac, 3 * _dacWrite); // a colour changes when all of it is there
                NextDacPart(ref _dacWrite);
                break;
            case VgaPort.Graphics:
                _graphicsIndex = (byte)(value & 0xF);
                break;
            case VgaPort.GraphicsData:
                if (_graphicsIndex < GraphicsRegister.Count) Graphics[_graphicsIndex] = (byte)(value & GraphicsRegister.Masks[_graphicsIndex]);
                break;
        }
    }

    private void NextDacPart(ref byte index)
    {
        if (++_dacPart < 3) return;
        _dacPart = 0;
        index++;
    }

    private void WriteCrtc(byte value)
    {
        if (_crtcIndex >= CrtcRegister.Count) return;
        if (_crtcIndex <= CrtcRegister.Overflow && Has(Crtc, CrtcRegister.VerticalRetraceEnd, CrtcRegister.Protect))
        {
            if (_crtcIndex != CrtcRegister.Overflow) return;
            value = (byte)(Crtc[CrtcRegister.Overflow] & ~CrtcRegister.OverflowLineCompare | value & CrtcRegister.OverflowLineCompare);
        }
        Crtc[_crtcIndex] = value;
    }

    private void WriteAttribute(byte value)
    {
        int index = _attributeIndex & AttributeRegister.IndexMask;
        if (index < AttributeRegister.Palette)
        {
            // While it belongs to the screen, it cannot be written.
            if ((_attributeIndex & AttributeRegister.PaletteSource) == 0) Attribute[index] = (byte)(value & AttributeRegister.PaletteMask);
        }
        else if (index < AttributeRegister.Count)
        {
            Attribute[index] = (byte)(value & AttributeRegister.Masks[index - AttributeRegister.Palette]);
        }
    }

    /// <summary>Input status 1: programs wait for the beam, which goes by virtual time.</summary>
    private static byte Status(long nanoseconds)
    {
        const long retraceBegins = FrameTime * 480 / 525, blankBegins = LineTime * 4 / 5;
        long inFrame = nanoseconds % FrameTime;
        if (inFrame >= retraceBegins) return StatusDisplayOff | StatusRetrace;
        return inFrame % LineTime >= blankBegins ? StatusDisplayOff : (byte)0;
    }

    // ---- state

    public VgaRegisterState Save() => new([.. Sequencer], [.. Graphics], [.. Crtc], [.. Attribute], [.. Dac], PelMask, Miscellaneous, _feature, _sequencerIndex,
        _graphicsIndex, _crtcIndex, _attributeIndex, _attributeData, _dacRead, _dacWrite, _dacPart, _dacReading, [.. _dacCache]);

    /// <exception cref="StateFormatException">It is no such state.</exception>
    public void Restore(VgaRegisterState state, string id)
    {
        StateCheck.Length(state.Sequencer, Sequencer.Length, id).CopyTo(Sequencer, 0);
        StateCheck.Length(state.Graphics, Graphics.Length, id).CopyTo(Graphics, 0);
        StateCheck.Length(state.Crtc, Crtc.Length, id).CopyTo(Crtc, 0);
        StateCheck.Length(state.Attribute, Attribute.Length, id).CopyTo(Attribute, 0);
        StateCheck.Length(state.Dac, Dac.Length, id).CopyTo(Dac, 0);
        StateCheck.Length(state.DacCache, _dacCache.Length, id).CopyTo(_dacCache, 0);
        for (int n = 0; n < AttributeRegister.Palette; n++) Attribute[n] &= AttributeRegister.PaletteMask;
        (PelMask, Miscellaneous, _feature) = (state.PelMask, state.Miscellaneous, state.Feature);
        (_sequencerIndex, _graphicsIndex, _crtcIndex) = (state.SequencerIndex, state.GraphicsIndex, state.CrtcIndex);
        (_attributeIndex, _attributeData) = (state.AttributeIndex, state.AttributeData);
        (_dacRead, _dacWrite, _dacReading) = (state.DacRead, state.DacWrite, state.DacReading);
        _dacPart = StateCheck.Range(state.DacPart, 0, 2, id);
    }
}

/// <summary>State of <see cref="VgaRegisters"/>.</summary>
internal sealed record VgaRegisterState(byte[] Sequencer, byte[] Graphics, byte[] Crtc, byte[] Attribute, byte[] Dac, byte PelMask, byte Miscellaneous,
    byte Feature, byte SequencerIndex, byte GraphicsIndex, byte CrtcIndex, byte AttributeIndex, bool AttributeData, byte DacRead, byte DacWrite, int DacPart,
    bool DacReading, byte[] DacCache);
