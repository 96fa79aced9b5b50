using System.Buffers.Binary;
using System.Text;

namespace Bunraku.Machine.Display;

/// <summary>What the screen says of itself: VESA Enhanced Extended Display Identification Data Standard, Release A, Revision 2 (EDID 1.4), section 3.</summary>
internal static class Edid
{
    /// <summary>Bytes of it.</summary>
    public const int Length = 128;

    private const int Refresh = 60, PixelsPerInch = 96;
    private const byte DigitalInput = 0xA5; // 8 bits a colour, DisplayPort
    private const byte PreferredTiming = 0x1E; // sRGB, and the first detailed timing is the screen's own

    /// <summary>A digital screen that prefers a size.</summary>
    /// <param name="width">Pixels, a multiple of 8 up to 4095.</param>
    /// <param name="height">Lines up to 4095.</param>
    public static byte[] Make(int width, int height)
    {
        byte[] e = new byte[Length];
        ((ReadOnlySpan<byte>)[0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0]).CopyTo(e);
        BinaryPrimitives.WriteUInt16BigEndian(e.AsSpan(8), Maker("BNR"));
        (e[10], e[16], e[17]) = (1, 1, 2026 - 1990 & 0xFF); // product, week and year of making
        (e[18], e[19], e[20]) = (1, 4, DigitalInput);
        int mmWidth = width * 254 / (10 * PixelsPerInch), mmHeight = height * 254 / (10 * PixelsPerInch);
        (e[21], e[22], e[23], e[24]) = ((byte)(mmWidth / 10), (byte)(mmHeight / 10), 120, PreferredTiming);
        // Section 3.7: chromaticities of sRGB, 10 bits each.
        ((ReadOnlySpan<byte>)[0xEE, 0x91, 0xA3, 0x54, 0x4C, 0x99, 0x26, 0x0F, 0x50, 0x54]).CopyTo(e.AsSpan(25));
        (e[35], e[36]) = (0x21, 0x08); // 640x480, 800x600 and 1024x768 with 60 Hz
        int standard = 38;
        foreach ((int x, int aspect) in (ReadOnlySpan<(int, int)>)[(1920, 3), (1680, 0), (1600, 1), (1440, 0), (1280, 2), (1280, 3), (1152, 1), (1024, 1)])
        {
            e[standard++] = (byte)(x / 8 - 31);
            e[standard++] = (byte)(aspect << 6 | Refresh - 60);
        }
        WriteTiming(e.AsSpan(54, 18), width, height, mmWidth, mmHeight);
        WriteText(e.AsSpan(72, 18), 0xFC, "Bunraku");
        // The ranges that it syncs to, in Hz, kHz and 10 MHz, without a formula of timings.
        ((ReadOnlySpan<byte>)[0, 0, 0, 0xFD, 0, 50, 125, 30, 160, 255, 1, 0x0A, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20]).CopyTo(e.AsSpan(90));
        WriteText(e.AsSpan(108, 18), 0xFF, "1");
        int sum = 0;
        foreach (byte b in e) sum += b;
        e[^1] = (byte)-sum;
        return e;
    }

    /// <summary>Three letters, five bits each.</summary>
    private static ushort Maker(string letters) => (ushort)((letters[0] - '@') << 10 | (letters[1] - '@') << 5 | letters[2] - '@');

    /// <summary>A detailed timing, section 3.10.2: active and blank pixels, fronts and pulses of the syncs.</summary>
    private static void WriteTiming(Span<byte> t, int width, int height, int mmWidth, int mmHeight)
    {
        const int front = 48, pulse = 32, blank = 160, lineFront = 3, linePulse = 6, lineBlank = 23;
        int clock = (width + blank) * (height + lineBlank) * Refresh / 10_000; // in 10 kHz
        BinaryPrimitives.WriteUInt16LittleEndian(t, (ushort)Math.Min(clock, ushort.MaxValue));
        (t[2], t[3], t[4]) = ((byte)width, blank, (byte)(width >> 8 << 4 | blank >> 8));
        (t[5], t[6], t[7]) = ((byte)height, lineBlank, (byte)(height >> 8 << 4 | lineBlank >> 8));
        (t[8], t[9], t[10], t[11]) = (front, pulse, lineFront << 4 | linePulse, 0);
        (t[12], t[13], t[14], t[17]) = ((byte)mmWidth, (byte)mmHeight, (byte)(mmWidth >> 8 << 4 | mmHeight >> 8), 0x1E); // digital, both syncs positive
    }

    private static void WriteText(Span<byte> d, byte kind, string text)
    {
        d.Clear();
        d[3] = kind;
        Span<byte> place = d[5..];
        place.Fill((byte)' ');
        place[Encoding.ASCII.GetBytes(text, place)] = (byte)'\n';
    }
}
