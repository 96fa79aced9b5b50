using Bunraku.Engines;

namespace Bunraku.Machine.Display;

/// <summary>
/// The Bochs display registers, by which a mode has any size and one linear frame buffer: Bochs VBE Display API (the file vbe_display_api.txt of its VGA BIOS).
/// A register takes what makes sense only. With the lock held of who owns it.
/// </summary>
/// <param name="memory">Bytes of display memory.</param>
internal sealed class BochsDisplay(uint memory)
{
    /// <summary>Indexes of the registers, 16 bits each.</summary>
    public const int Id = 0, XResolution = 1, YResolution = 2, BitsPerPixel = 3, Enable = 4, Bank = 5, VirtualWidth = 6, VirtualHeight = 7, XOffset = 8,
        YOffset = 9, Memory64K = 10, Count = 11;

    /// <summary>Bits of the enable register.</summary>
    public const ushort Enabled = 1 << 0, GetCapabilities = 1 << 1, WideDac = 1 << 5, LinearFrameBuffer = 1 << 6, NoClear = 1 << 7;

    private const ushort LowestId = 0xB0C0, HighestId = 0xB0C5;
    private const ushort MostX = 16000, MostY = 12000, MostBits = 32;
    private const int BankShift = 16;

    private readonly ushort[] _registers = Initial();

    private static ushort[] Initial()
    {
        var registers = new ushort[Count];
        (registers[Id], registers[XResolution], registers[YResolution], registers[BitsPerPixel]) = (HighestId, 640, 480, 8);
        return registers;
    }

    public void Reset() => Initial().CopyTo(_registers, 0);

    /// <summary>It is this mode that shows, not that of the VGA's registers.</summary>
    public bool IsOn => (_registers[Enable] & Enabled) != 0;

    /// <summary>The DAC's colours have 8 bits.</summary>
    public bool HasWideDac => (_registers[Enable] & WideDac) != 0;

    public int Width => _registers[XResolution];
    public int Height => _registers[YResolution];
    public int Bits => _registers[BitsPerPixel];

    /// <summary>Planes as the VGA has them, not bytes for each pixel.</summary>
    public bool IsPlanar => Bits == 4;

    /// <summary>Bytes of a pixel where it is not planar.</summary>
    public int PixelBytes => (Bits + 7) / 8;

    /// <summary>Bytes from one line to the next; of a plane where it is planar.</summary>
    public int LineBytes => IsPlanar ? VirtualLine / 8 : VirtualLine * PixelBytes;

    private int VirtualLine => Math.Max(_registers[VirtualWidth], _registers[XResolution]);

    /// <summary>Where the screen's first byte lies; of a plane where it is planar, the whole bytes of the offset alone.</summary>
    public int StartByte => _registers[YOffset] * LineBytes + (IsPlanar ? _registers[XOffset] / 8 : _registers[XOffset] * PixelBytes);

    /// <summary>Where in display memory the window at A0000h begins.</summary>
    public uint BankOffset => (uint)_registers[Bank] << BankShift;

    public ushort Read(int index)
    {
        if ((_registers[Enable] & GetCapabilities) != 0)
        {
            switch (index)
            {
                case XResolution: return MostX;
                case YResolution: return MostY;
                case BitsPerPixel: return MostBits;
            }
        }
        return index switch
        {
            VirtualWidth => (ushort)VirtualLine,
            VirtualHeight => (ushort)Math.Min(MostLines, ushort.MaxValue),
            Memory64K => (ushort)(memory >> BankShift),
            >= 0 and < Count => _registers[index],
            _ => 0,
        };
    }

    /// <summary>Lines that display memory holds.</summary>
    private uint MostLines => memory / (uint)Math.Max(LineBytes * (IsPlanar ? 4 : 1), 1);

    /// <summary>True when the mode begins and its memory is to be cleared.</summary>
    public bool Write(int index, ushort value)
    {
        switch (index)
        {
            case Id:
                if (value is >= LowestId and <= HighestId) _registers[Id] = value;
                return false;
            case XResolution:
                _registers[index] = (ushort)Math.Clamp(value & ~7, 8, MostX);
                break;
            case YResolution:
                _registers[index] = Math.Clamp(value, (ushort)1, MostY);
                break;
            case BitsPerPixel:
                if (value == 0) value = 8;
                if (value is 4 or 8 or 15 or 16 or 24 or 32) _registers[index] = value;
                break;
            case Bank:
                _registers[index] = (ushort)(value % (memory >> BankShift));
                return false;
            case VirtualWidth:
                _registers[index] = (ushort)Math.Min(value & ~7, MostX);
                break;
            case XOffset or YOffset:
                _registers[index] = value;
                break;
            case Enable:
                bool begins = (value & Enabled) != 0 && !IsOn;
                _registers[Enable] = (ushort)(value & (Enabled | GetCapabilities | WideDac | LinearFrameBuffer | NoClear));
                if (begins) (_registers[VirtualWidth], _registers[XOffset], _registers[YOffset]) = (0, 0, 0);
                if (!IsOn) _registers[Bank] = 0;
                Fit();
                return begins && (value & NoClear) == 0;
            default:
                return false;
        }
        Fit();
        return false;
    }

    /// <summary>What is shown lies in display memory.</summary>
    private void Fit()
    {
        if (!IsOn) return; // registers of a mode are written one by one
        if (_registers[YResolution] > MostLines) _registers[YResolution] = (ushort)Math.Max(MostLines, 1);
        _registers[XOffset] = (ushort)Math.Min(_registers[XOffset], VirtualLine - _registers[XResolution]);
        _registers[YOffset] = (ushort)Math.Min(_registers[YOffset], Math.Max((int)MostLines - _registers[YResolution], 0));
    }

    public ushort[] Save() => [.. _registers];

    /// <exception cref="StateFormatException">It is no such state.</exception>
    public void Restore(ushort[] state, string id)
    {
        StateCheck.Length(state, Count, id);
        Reset();
        // In the order in which a mode is set, so that each register checks what it is given.
        foreach (int index in (ReadOnlySpan<int>)[Id, XResolution, YResolution, BitsPerPixel, Enable, Bank, VirtualWidth, XOffset, YOffset])
            Write(index, state[index]);
    }
}
