using Bunraku.Engines;
using Bunraku.Machine.Display;
using Bunraku.Machine.Tests.State;

namespace Bunraku.Machine.Tests.Display;

/// <summary>
/// The VGA by its ports and its window: IBM Personal System/2 Hardware Interface Technical Reference, "Video Subsystem", and Bochs's vbe_display_api.txt.
/// </summary>
public sealed class VgaTests : IDisposable
{
    private const ulong Window = 0xA_0000, TextWindow = 0xB_8000, FrameBuffer = 0xE000_0000;

    private readonly BoardRig _rig = new();

    public void Dispose() => _rig.Dispose();

    private VgaController Display => _rig.Board.Display!;

    private void Out(ushort port, byte value) => _rig.Io(port, 1, true, value);

    private void Indexed(ushort port, byte index, byte value) => _rig.Io(port, 2, true, (ulong)(value << 8 | index));

    private void Attribute(byte index, byte value)
    {
        _rig.Io(0x3DA, 1, false, 0); // the next write is an index
        Out(0x3C0, index);
        Out(0x3C0, value);
    }

    private void Poke(ulong address, byte value)
    {
        if (!_rig.Machine.Memory.TryWrite(address, value)) _rig.Mmio(0, address, 1, true, value);
    }

    private byte Peek(ulong address) => _rig.Machine.Memory.TryRead(address, out byte value) ? value : (byte)_rig.Mmio(0, address, 1, false, 0);

    private void Bochs(ushort index, ushort value)
    {
        _rig.Io(0x1CE, 2, true, index);
        _rig.Io(0x1CF, 2, true, value);
    }

    private ushort Bochs(ushort index)
    {
        _rig.Io(0x1CE, 2, true, index);
        return (ushort)_rig.Io(0x1CF, 2, false, 0);
    }

    /// <summary>The palette of a mode, colours of the DAC that tell each other apart, and the screen on.</summary>
    private void Show()
    {
        for (byte n = 0; n < 16; n++) Attribute(n, n);
        Attribute(0x10, 0);
        Attribute(0x12, 0xF);
        Attribute(0x13, 0);
        Out(0x3C8, 0);
        for (int n = 0; n < 256; n++)
        {
            Out(0x3C9, (byte)(n & 0x3F));
            Out(0x3C9, (byte)(n >> 2));
            Out(0x3C9, (byte)(63 - (n & 0x3F)));
        }
        _rig.Io(0x3DA, 1, false, 0);
        Out(0x3C0, 0x20);
    }

    private static uint Color(int n) => Wide(n & 0x3F) << 16 | Wide(n >> 2) << 8 | Wide(63 - (n & 0x3F));

    private static uint Wide(int six) => (uint)(six << 2 | six >> 4);

    /// <summary>Registers of the CRT controller as the BIOS sets them for a mode: only those that say what is shown.</summary>
    private void Crtc(int columns, int lines, byte maximumScanLine, byte offset, byte underline, byte mode)
    {
        Indexed(0x3D4, 0x11, 0);
        int end = lines - 1;
        Indexed(0x3D4, 0x01, (byte)(columns - 1));
        Indexed(0x3D4, 0x07, (byte)(end >> 7 & 2 | end >> 3 & 0x40 | 0x10));
        Indexed(0x3D4, 0x09, (byte)(maximumScanLine | 0x40));
        Indexed(0x3D4, 0x12, (byte)end);
        Indexed(0x3D4, 0x13, offset);
        Indexed(0x3D4, 0x14, underline);
        Indexed(0x3D4, 0x17, mode);
        Indexed(0x3D4, 0x18, 0xFF);
    }

    private void Mode3()
    {
        Out(0x3C2, 0x67);
        Indexed(0x3C4, 1, 0);
        Indexed(0x3C4, 2, 3);
        Indexed(0x3C4, 4, 2);
        Indexed(0x3CE, 5, 0x10);
        Indexed(0x3CE, 6, 0x0E);
        Indexed(0x3CE, 8, 0xFF);
        Crtc(80, 400, 0x0F, 0x28, 0x1F, 0xA3);
        Show();
        Attribute(0x13, 8); // no panning, where characters have nine dots
        _rig.Io(0x3DA, 1, false, 0);
        Out(0x3C0, 0x20);
    }

    private void Planar()
    {
        Out(0x3C2, 0xE3);
        Indexed(0x3C4, 1, 1);
        Indexed(0x3C4, 2, 0xF);
        Indexed(0x3C4, 4, 6);
        Indexed(0x3CE, 5, 0);
        Indexed(0x3CE, 6, 5);
        Indexed(0x3CE, 8, 0xFF);
        Crtc(80, 480, 0x00, 0x28, 0, 0xE3);
        Show();
    }

    [Fact]
    public void Characters_of_mode_3_are_read_as_text_and_painted_in_the_font_of_plane_2()
    {
        Mode3();
        foreach ((int n, char c) in "A\u00DFb".Index()) Poke(TextWindow + 2 * (160 + (ulong)n), c == '\u00DF' ? (byte)0xE1 : (byte)c);
        Poke(TextWindow + 2 * 160 + 1, 0x1E); // yellow on blue
        Indexed(0x3D4, 0x0E, 0);
        Indexed(0x3D4, 0x0F, 163);
        Indexed(0x3D4, 0x0A, 0x0D);
        Indexed(0x3D4, 0x0B, 0x0E);
        ScreenText text = Display.ReadText()!;
        Assert.Equal((25, "A\u00DFb", (int?)2, 3), (text.Lines.Count, text.Lines[2], text.CursorLine, text.CursorColumn));
        // The font is written as the BIOS does: plane 2 alone, one byte after the other.
        Indexed(0x3C4, 2, 4);
        Indexed(0x3C4, 4, 6);
        Indexed(0x3CE, 5, 0);
        Indexed(0x3CE, 6, 4);
        Poke(Window + 'A' * 32 + 5, 0b1000_0001);
        Indexed(0x3C4, 2, 3);
        Indexed(0x3C4, 4, 2);
        Indexed(0x3CE, 5, 0x10);
        Indexed(0x3CE, 6, 0x0E);
        ScreenImage image = Display.Paint();
        Assert.Equal((720, 400), (image.Width, image.Height));
        Span<uint> line = image.Line(2 * 16 + 5);
        Assert.Equal((Color(14), Color(1), Color(14), Color(1)), (line[0], line[1], line[7], line[8])); // the ninth dot is empty
        Assert.Equal((Color(0), image.Line(2 * 16 + 13)[27]), (image.Line(2 * 16 + 12)[27], Color(0))); // black on black where no attribute is
    }

    /// <summary>
    /// "Write Mode 0" to "3", "Bit Mask Register", "Data Rotate Register", "Set/Reset": each on a byte whose latches hold F0h, 0Fh, AAh, 55h.
    /// </summary>
    [Theory]
    [InlineData(0, 0, 0, 0xFF, 0, 0, 0x3C, 0x3C3C3C3C)] // the byte on all planes
    [InlineData(0, 4, 0, 0xFF, 0, 0, 0x1F, 0xF1F1F1F1)] // turned to the right by 4
    [InlineData(0, 0, 0, 0x0F, 0, 0, 0xFF, 0x5FAF0FFF)] // four bits of it, the others from the latches
    [InlineData(0, 0, 1, 0xFF, 0, 0, 0x3C, 0x14280C30)] // AND
    [InlineData(0, 0, 2, 0xFF, 0, 0, 0x3C, 0x7DBE3FFC)] // OR
    [InlineData(0, 0, 3, 0xFF, 0, 0, 0x3C, 0x699633CC)] // XOR
    [InlineData(0, 0, 0, 0xFF, 0b0101, 0b0011, 0x3C, 0x3C3C00FF)] // planes 0 and 1 from set/reset
    [InlineData(1, 0, 0, 0x0F, 0, 0, 0x3C, 0x55AA0FF0)] // the latches
    [InlineData(2, 0, 0, 0xFF, 0, 0, 0b1010, 0xFF00FF00)] // a colour
    [InlineData(2, 0, 0, 0xF0, 0, 0, 0b1010, 0xF50AFF00)]
    [InlineData(3, 0, 0, 0xFC, 0b0110, 0, 0x3F, 0x41BE3FC0)] // set/reset where mask and byte have ones
    public void A_write_mode_makes_of_a_byte_what_the_reference_says(
        int mode, int rotate, int function, byte mask, byte setReset, byte enable, byte value, uint planes)
    {
        Planar();
        uint latches = 0x55AA_0FF0;
        for (byte plane = 0; plane < 4; plane++)
        {
            Indexed(0x3C4, 2, (byte)(1 << plane));
            Poke(Window + 1, (byte)(latches >> 8 * plane));
        }
        Indexed(0x3C4, 2, 0xF);
        _ = Peek(Window + 1);
        Indexed(0x3CE, 0, setReset);
        Indexed(0x3CE, 1, enable);
        Indexed(0x3CE, 3, (byte)(function << 3 | rotate));
        Indexed(0x3CE, 5, (byte)mode);
        Indexed(0x3CE, 8, mask);
        Poke(Window + 9, value);
        Indexed(0x3CE, 5, 0);
        uint found = 0;
        for (byte plane = 0; plane < 4; plane++)
        {
            Indexed(0x3CE, 4, plane);
            found |= (uint)Peek(Window + 9) << 8 * plane;
        }
        Assert.Equal(planes, found);
    }

    [Fact]
    public void Read_mode_1_compares_colours_and_pixels_of_four_planes_are_their_bits()
    {
        Planar();
        Indexed(0x3C4, 2, 0b0101);
        Poke(Window, 0xC0);
        Indexed(0x3C4, 2, 0b1000);
        Poke(Window, 0x40);
        Indexed(0x3CE, 5, 8);
        Indexed(0x3CE, 2, 0b1101);
        Indexed(0x3CE, 7, 0xF);
        Assert.Equal(0x40, Peek(Window));
        Indexed(0x3CE, 7, 0b0111); // plane 3 does not count
        Assert.Equal(0xC0, Peek(Window));
        ScreenImage image = Display.Paint();
        Assert.Equal((640, 480), (image.Width, image.Height));
        Assert.Equal([Color(5), Color(13), Color(0)], image.Line(0)[..3].ToArray());
        Indexed(0x3D4, 0x0D, 80); // the second line first
        Assert.Equal(Color(0), Display.Paint().Line(0)[0]);
        Indexed(0x3D4, 0x18, 99);
        Indexed(0x3D4, 0x07, 0x42);
        Indexed(0x3D4, 0x09, 0);
        Assert.Equal(Color(13), Display.Paint().Line(100)[1]); // behind the line that is compared with, from address 0 on
    }

    [Fact]
    public void Mode_13h_is_memory_of_the_guest_and_mode_X_has_a_plane_for_each_pixel_of_four()
    {
        Planar();
        Indexed(0x3C4, 4, 0x0E);
        Indexed(0x3CE, 5, 0x40);
        Attribute(0x10, 0x41);
        Crtc(80, 400, 0x01, 0x28, 0x40, 0xA3);
        _rig.Io(0x3DA, 1, false, 0);
        Out(0x3C0, 0x20);
        Assert.True(_rig.Machine.Memory.TryWrite(Window + 320 * 7 + 13, (byte)200)); // no device is asked
        ScreenImage image = Display.Paint();
        Assert.Equal((320, 200, Color(200)), (image.Width, image.Height, image.Line(7)[13]));
        Indexed(0x3C4, 4, 6); // unchained
        Crtc(80, 400, 0x01, 0x28, 0, 0xE3);
        Assert.False(_rig.Machine.Memory.TryWrite(Window, (byte)0));
        Indexed(0x3C4, 2, 0b0100);
        Poke(Window + 80 + 3, 77);
        Assert.Equal(Color(77), Display.Paint().Line(1)[4 * 3 + 2]);
    }

    private void PlaceBars()
    {
        foreach ((uint register, uint value) in ((uint, uint)[])[(0x10, (uint)FrameBuffer), (0x18, 0xE100_0000), (0x04, 7)])
        {
            _rig.Io(0xCF8, 4, true, 0x8000_0000 | 2u << 11 | register);
            _rig.Io(0xCFC, 4, true, value);
        }
    }

    [Theory]
    [InlineData(15, 0b0_11111_00000_11111u, 0xFF00FFu)]
    [InlineData(16, 0b00000_111111_00000u, 0x00FF00u)]
    [InlineData(24, 0x123456u, 0x123456u)]
    [InlineData(32, 0xFF123456u, 0x123456u)]
    public void A_mode_of_the_Bochs_registers_shows_the_linear_frame_buffer(ushort bits, uint pixel, uint color)
    {
        PlaceBars();
        Planar();
        Bochs(1, 320);
        Bochs(2, 200);
        Bochs(3, bits);
        Bochs(4, 0x41);
        Bochs(6, 400); // wider than what is shown
        Bochs(8, 16);
        Bochs(9, 2);
        Assert.Equal((0xB0C5, 400, 16), (Bochs(0), Bochs(6), Bochs(10)));
        int bytes = (bits + 7) / 8;
        Assert.True(_rig.Machine.Memory.Write(FrameBuffer + (ulong)((2 + 5) * 400 + 16 + 9) * (ulong)bytes, BitConverter.GetBytes(pixel).AsSpan(0, bytes)));
        ScreenImage image = Display.Paint();
        Assert.Equal((320, 200, color), (image.Width, image.Height, image.Line(5)[9]));
        Assert.Equal(1, image.Pixels.Count(p => p != 0));
        Bochs(5, 1); // the bank behind the first 64 KiB shows in the window
        Assert.True(_rig.Machine.Memory.TryWrite(Window, 0xABCD_EF01));
        Assert.True(_rig.Machine.Memory.TryRead(FrameBuffer + 0x1_0000, out uint banked));
        Assert.Equal(0xABCD_EF01, banked);
        Assert.Equal(0x3E, (int)_rig.Mmio(0, 0xE100_0000 + 0x400 + 0xC, 1, false, 0) & 0x3E | 0x3E); // ports once more
        Assert.Equal(320ul, _rig.Mmio(0, 0xE100_0502, 2, false, 0));
        Assert.Equal(0x00FF_FFFF_FFFF_FF00ul, _rig.Mmio(0, 0xE100_0000, 8, false, 0)); // EDID's header
    }

    [Fact]
    public void Where_the_guest_puts_the_frame_buffer_upon_RAM_RAM_stays()
    {
        PlaceBars();
        Assert.True(_rig.Machine.Memory.TryWrite(0x20_0000, 0x1234));
        _rig.Io(0xCF8, 4, true, 0x8000_0000 | 2u << 11 | 0x10);
        _rig.Io(0xCFC, 4, true, 0x20_0000);
        Assert.True(_rig.Machine.Memory.TryRead(0x20_0000, out int value) && value == 0x1234);
        Assert.DoesNotContain(_rig.Machine.Memory.Regions, r => r.Start == FrameBuffer);
        _rig.Io(0xCFC, 4, true, 0xFEC0_0000);
        Assert.DoesNotContain(_rig.Machine.Memory.Regions, r => r.IsDevice);
    }

    /// <summary>Whatever stands in the registers, a picture comes out and nothing outside display memory is looked at.</summary>
    [Fact]
    public void Any_registers_can_be_painted()
    {
        var random = new Random(7);
        PlaceBars();
        for (int n = 0; n < 300; n++)
        {
            for (int k = 0; k < 20; k++)
            {
                switch (random.Next(5))
                {
                    case 0:
                        Indexed((ushort)(random.Next(3) switch { 0 => 0x3C4, 1 => 0x3CE, _ => 0x3D4 }), (byte)random.Next(26), (byte)random.Next(256));
                        break;
                    case 1:
                        Attribute((byte)random.Next(0x15), (byte)random.Next(256));
                        _rig.Io(0x3DA, 1, false, 0);
                        Out(0x3C0, 0x20);
                        break;
                    case 2:
                        Bochs((ushort)random.Next(11), (ushort)(random.Next(2) == 0 ? random.Next(0x10000) : random.Next(2000)));
                        break;
                    case 3:
                        Poke(Window + (ulong)random.Next(0x2_0000), (byte)random.Next(256));
                        break;
                    default:
                        _ = Peek(Window + (ulong)random.Next(0x2_0000));
                        break;
                }
            }
            ScreenImage image = Display.Paint();
            Assert.Equal(image.Width * image.Height, image.Pixels.Length);
            _ = Display.ReadText();
        }
    }
}
