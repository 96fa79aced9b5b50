using System.Buffers.Binary;

namespace Bunraku.Sessions.Screens;

/// <summary>How a viewer wants pixels: RFC 6143, section 7.4 "Pixel Format Data Structure".</summary>
/// <param name="Bits">Of a pixel: 8, 16 or 32.</param>
/// <param name="IsBigEndian">The first byte is the highest one.</param>
internal readonly record struct VncPixelFormat(byte Bits, byte Depth, bool IsBigEndian, ushort RedMax, ushort GreenMax, ushort BlueMax, byte RedShift,
    byte GreenShift, byte BlueShift)
{
    /// <summary>Bytes of the structure.</summary>
    public const int Size = 16;

    /// <summary>What the screen is painted in.</summary>
    public static VncPixelFormat Own { get; } = new(32, 24, false, 255, 255, 255, 16, 8, 0);

    /// <summary>What stands for a map of colours: three bits of red, three of green, two of blue.</summary>
    public static VncPixelFormat Mapped { get; } = new(8, 8, false, 7, 7, 3, 5, 2, 0);

    /// <summary>Bytes of a pixel.</summary>
    public int Bytes => Bits / 8;

    /// <summary>Section 7.7.5: a pixel in ZRLE leaves out the byte that is never used of 32 bits.</summary>
    public bool IsCompact => Bits == 32 && Depth <= 24 && (IsLow || IsHigh);

    private ulong AllBits => (ulong)RedMax << RedShift | (ulong)GreenMax << GreenShift | (ulong)BlueMax << BlueShift;
    private bool IsLow => AllBits <= 0xFF_FFFF;
    private bool IsHigh => (AllBits & 0xFF) == 0;

    /// <summary>Bytes of a pixel in ZRLE.</summary>
    public int CompactBytes => IsCompact ? 3 : Bytes;

    /// <summary>Reads the structure.</summary>
    /// <param name="usesMap">The viewer wants numbers of a map of colours, which <see cref="Mapped"/> stands for.</param>
    /// <exception cref="VncException">It is none.</exception>
    public static VncPixelFormat Read(ReadOnlySpan<byte> b, out bool usesMap)
    {
        usesMap = b[3] == 0;
        if (usesMap) return b[0] == 8 ? Mapped : throw new VncException("a map of colours goes with pixels of 8 bits alone");
        var format = new VncPixelFormat(b[0], b[1], b[2] != 0, BinaryPrimitives.ReadUInt16BigEndian(b[4..]), BinaryPrimitives.ReadUInt16BigEndian(b[6..]),
            BinaryPrimitives.ReadUInt16BigEndian(b[8..]), b[10], b[11], b[12]);
        if (format.Bits is not (8 or 16 or 32)) throw new VncException($"pixels of {format.Bits} bits");
        foreach ((ushort max, byte shift) in (ReadOnlySpan<(ushort, byte)>)
            [(format.RedMax, format.RedShift), (format.GreenMax, format.GreenShift), (format.BlueMax, format.BlueShift)])
        {
            if (max == 0 || shift >= format.Bits || (ulong)max << shift >> format.Bits != 0) throw new VncException("colours that have no room in a pixel");
        }
        return format;
    }

    /// <summary>Writes the structure.</summary>
    public void Write(Span<byte> b)
    {
        b[..Size].Clear();
        (b[0], b[1], b[2], b[3]) = (Bits, Depth, (byte)(IsBigEndian ? 1 : 0), 1);
        BinaryPrimitives.WriteUInt16BigEndian(b[4..], RedMax);
        BinaryPrimitives.WriteUInt16BigEndian(b[6..], GreenMax);
        BinaryPrimitives.WriteUInt16BigEndian(b[8..], BlueMax);
        (b[10], b[11], b[12]) = (RedShift, GreenShift, BlueShift);
    }

    /// <summary>A pixel of ours as the viewer's number.</summary>
    public uint Convert(uint pixel)
    {
        if (this == Own) return pixel;
        uint red = pixel >> 16 & 0xFF, green = pixel >> 8 & 0xFF, blue = pixel & 0xFF;
        return (red * RedMax + 127) / 255 << RedShift | (green * GreenMax + 127) / 255 << GreenShift | (blue * BlueMax + 127) / 255 << BlueShift;
    }

    /// <summary>Writes a number of the viewer's.</summary>
    /// <param name="to">At least <see cref="Bytes"/>.</param>
    public void Put(Span<byte> to, uint value)
    {
        for (int n = 0; n < Bytes; n++) to[n] = (byte)(value >> 8 * (IsBigEndian ? Bytes - 1 - n : n));
    }

    /// <summary>Writes a number of the viewer's as ZRLE has it.</summary>
    /// <param name="to">At least <see cref="CompactBytes"/>.</param>
    public void PutCompact(Span<byte> to, uint value)
    {
        if (!IsCompact)
        {
            Put(to, value);
            return;
        }
        if (!IsLow) value >>= 8;
        for (int n = 0; n < 3; n++) to[n] = (byte)(value >> 8 * (IsBigEndian ? 2 - n : n));
    }
}

/// <summary>A viewer says what has no meaning: its connection ends.</summary>
/// <param name="message">What it was.</param>
internal sealed class VncException(string message) : Exception(message);
