using System.Buffers.Binary;
using System.IO.Compression;
using System.Net;
using System.Net.Sockets;
using System.Text;
using Bunraku.Cli.Qemu;
using Bunraku.Machine.Display;
using Bunraku.Sessions.Monitoring;
using Bunraku.Sessions.Screens;

namespace Bunraku.Cli.Tests.Screens;

/// <summary>A viewer written from RFC 6143, "The Remote Framebuffer Protocol", at a VM that does not run, whose screen the test draws.</summary>
public sealed class VncTests
{
    private const int Width = 200, Height = 150;

    private static Vm NewVm(string vnc = "127.0.0.1:0") =>
        new VmBuilder(KnownEngines.All) { Guest = "hello", Engine = "interp", Memory = 8 << 20, Vnc = VncEndpoint.Parse(vnc) }.Build();

    /// <summary>A mode of 32 bits, and pixels in it.</summary>
    private static void Draw(Vm vm, int seed)
    {
        void Bochs(ushort index, ushort value)
        {
            vm.Machine.Ports.Write(0x1CE, 2, index);
            vm.Machine.Ports.Write(0x1CF, 2, value);
        }
        vm.Machine.Ports.Write(0x3C0, 1, 0x20);
        foreach ((ushort index, ushort value) in ((ushort, ushort)[])[(4, 0), (1, Width), (2, Height), (3, 32), (4, 0xC1)]) Bochs(index, value);
        vm.Machine.Ports.Write(0xCF8, 4, 0x8000_1010);
        vm.Machine.Ports.Write(0xCFC, 4, 0xE000_0000);
        vm.Machine.Ports.Write(0xCF8, 4, 0x8000_1004);
        vm.Machine.Ports.Write(0xCFC, 4, 3);
        var random = new Random(seed);
        for (int y = 0; y < Height; y++)
        {
            for (int x = 0; x < Width; x++)
            {
                // One tile of one colour, one of a few, one of many.
                uint pixel = x < 64 ? 0x336699u : x < 128 ? (uint)random.Next(5) * 0x102030u : (uint)random.Next(1 << 24);
                Assert.True(vm.Machine.Memory.TryWrite(0xE000_0000 + (ulong)(4 * (y * Width + x)), pixel));
            }
        }
    }

    private sealed class Viewer : IDisposable
    {
        private readonly Socket _socket = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        private readonly NetworkStream _stream;
        private readonly MemoryStream _compressed = new();
        private ZLibStream? _zlib;

        public Viewer(IPEndPoint where)
        {
            _socket.Connect(where);
            _stream = new NetworkStream(_socket, ownsSocket: true) { ReadTimeout = 20_000 };
        }

        public void Dispose() => _stream.Dispose();

        public byte[] Read(int count)
        {
            byte[] bytes = new byte[count];
            _stream.ReadExactly(bytes);
            return bytes;
        }

        public ushort ReadWord() => BinaryPrimitives.ReadUInt16BigEndian(Read(2));

        public int ReadLong() => BinaryPrimitives.ReadInt32BigEndian(Read(4));

        public void Send(params byte[] bytes) => _stream.Write(bytes);

        /// <summary>Section 7.1 and 7.3; returns the size of the screen.</summary>
        public (int Width, int Height) ShakeHands()
        {
            Assert.Equal("RFB 003.008\n", Encoding.ASCII.GetString(Read(12)));
            Send("RFB 003.008\n"u8.ToArray());
            Assert.Equal([1, 1], Read(2));
            Send(1);
            Assert.Equal(0, ReadLong());
            return Begin();
        }

        /// <summary>Section 7.1 and 7.2.2: asked for the password, it answers with a word; what the server says to that comes next.</summary>
        public void Knows(string word)
        {
            Read(12);
            Send("RFB 003.008\n"u8.ToArray());
            Assert.Equal([1, 2], Read(2));
            Send(2);
            Send(Answer(Read(16), word));
        }

        public (int Width, int Height) Begin()
        {
            Send(1);
            (int, int) size = (ReadWord(), ReadWord());
            Assert.Equal([32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0], Read(16)[..13]);
            Assert.Equal("Bunraku", Encoding.UTF8.GetString(Read(ReadLong())));
            return size;
        }

        public void SetEncodings(params int[] encodings)
        {
            byte[] message = new byte[4 + 4 * encodings.Length];
            message[0] = 2;
            BinaryPrimitives.WriteUInt16BigEndian(message.AsSpan(2), (ushort)encodings.Length);
            for (int n = 0; n < encodings.Length; n++) BinaryPrimitives.WriteInt32BigEndian(message.AsSpan(4 + 4 * n), encodings[n]);
            Send(message);
        }

        public void Ask(bool incremental, int width, int height) =>
            Send(3, (byte)(incremental ? 1 : 0), 0, 0, 0, 0, (byte)(width >> 8), (byte)width, (byte)(height >> 8), (byte)height);

        /// <summary>Takes an update in, of pixels of 32 bits; returns the encodings of its rectangles.</summary>
        public List<int> Take(uint[] screen, int width)
        {
            Assert.Equal([0, 0], Read(2));
            List<int> encodings = [];
            for (int left = ReadWord(); left > 0; left--)
            {
                (int x, int y, int w, int h) = (ReadWord(), ReadWord(), ReadWord(), ReadWord());
                encodings.Add(ReadLong());
                if (encodings[^1] == 0)
                {
                    for (int line = y; line < y + h; line++)
                    {
                        byte[] bytes = Read(4 * w);
                        for (int n = 0; n < w; n++) screen[line * width + x + n] = BinaryPrimitives.ReadUInt32LittleEndian(bytes.AsSpan(4 * n));
                    }
                }
                else if (encodings[^1] == 16)
                {
                    TakeZrle(screen, width, x, y, w, h);
                }
                else if (encodings[^1] == -308)
                {
                    Read(4 + 16);
                }
            }
            return encodings;
        }

        /// <summary>Section 7.7.6: tiles of 64 by 64; raw, one colour, or a palette with packed pixels.</summary>
        private void TakeZrle(uint[] screen, int width, int x, int y, int w, int h)
        {
            long at = _compressed.Position;
            _compressed.Position = _compressed.Length;
            _compressed.Write(Read(ReadLong()));
            _compressed.Position = at;
            _zlib ??= new ZLibStream(_compressed, CompressionMode.Decompress);
            for (int ty = y; ty < y + h; ty += 64)
            {
                for (int tx = x; tx < x + w; tx += 64)
                {
                    (int tw, int th) = (Math.Min(64, x + w - tx), Math.Min(64, y + h - ty));
                    int kind = _zlib.ReadByte();
                    uint[] palette = [.. Enumerable.Range(0, kind is >= 1 and <= 16 ? kind : 0).Select(_ => Pixel())];
                    int bits = kind switch { <= 1 => 0, 2 => 1, <= 4 => 2, _ => 4 };
                    for (int line = ty; line < ty + th; line++)
                    {
                        int packed = 0, have = 0;
                        for (int column = tx; column < tx + tw; column++)
                        {
                            uint pixel;
                            if (kind == 0) pixel = Pixel();
                            else if (kind == 1) pixel = palette[0];
                            else
                            {
                                Assert.InRange(kind, 2, 16);
                                if (have == 0) (packed, have) = (_zlib.ReadByte(), 8);
                                have -= bits;
                                pixel = palette[packed >> have & (1 << bits) - 1];
                            }
                            screen[line * width + column] = pixel;
                        }
                    }
                }
            }

            uint Pixel() => (uint)(_zlib!.ReadByte() | _zlib.ReadByte() << 8 | _zlib.ReadByte() << 16);
        }
    }

    [Theory]
    [InlineData(0)]
    [InlineData(16)]
    public void A_viewer_sees_what_is_drawn_and_then_what_changes(int encoding)
    {
        using Vm vm = NewVm();
        Draw(vm, 1);
        using var viewer = new Viewer(vm.Vnc!.EndPoint!);
        Assert.Equal((Width, Height), viewer.ShakeHands());
        viewer.SetEncodings(encoding, -223);
        viewer.Ask(incremental: false, Width, Height);
        uint[] screen = new uint[Width * Height];
        Assert.All(viewer.Take(screen, Width), e => Assert.Equal(encoding, e));
        Assert.Equal(vm.Display!.Paint().Pixels, screen);
        viewer.Ask(incremental: true, Width, Height);
        Assert.True(vm.Machine.Memory.TryWrite(0xE000_0000 + 4ul * (70 * Width + 130), 0x00AB_CDEFu));
        Assert.Equal([encoding], viewer.Take(screen, Width)); // one tile
        Assert.Equal(0xAB_CDEFu, screen[70 * Width + 130]);
        Assert.Equal(vm.Display.Paint().Pixels, screen);
    }

    [Fact]
    public void A_viewer_is_told_of_another_size_and_of_keys_that_it_can_send()
    {
        using Vm vm = NewVm();
        using var viewer = new Viewer(vm.Vnc!.EndPoint!);
        (int width, int height) = viewer.ShakeHands();
        Assert.NotEqual((Width, Height), (width, height));
        viewer.SetEncodings(0, -308, -258);
        viewer.Ask(incremental: true, width, height);
        Assert.Equal([-258], viewer.Take([], 0));
        Assert.Equal([-308], viewer.Take([], 0));
        viewer.Take(new uint[width * height], width);
        Draw(vm, 2);
        viewer.Ask(incremental: true, width, height);
        Assert.Equal([-308], viewer.Take([], 0));
        viewer.Ask(incremental: true, Width, Height);
        uint[] screen = new uint[Width * Height];
        viewer.Take(screen, Width);
        Assert.Equal(vm.Display!.Paint().Pixels, screen);
    }

    /// <summary>Keys reach the keyboard controller: scan code set 1, as firmware leaves the translation.</summary>
    [Fact]
    public void Keys_come_out_of_the_keyboard_controller()
    {
        using Vm vm = NewVm();
        using var viewer = new Viewer(vm.Vnc!.EndPoint!);
        viewer.ShakeHands();
        viewer.Send(4, 1, 0, 0, 0, 0, 0, (byte)'A'); // the shift key goes with it
        viewer.Send(4, 0, 0, 0, 0, 0, 0, (byte)'A');
        viewer.Send(4, 1, 0, 0, 0, 0, 0xFF, 0x53); // Right
        viewer.Send(255, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0x9D); // the right control key, by QEMU's extension
        List<byte> codes = [];
        byte[] expected = [0x2A, 0x1E, 0xAA, 0x9E, 0xE0, 0x4D, 0xE0, 0x1D];
        for (int n = 0; n < 2000 && codes.Count < expected.Length; n++)
        {
            if ((vm.Machine.Ports.Read(0x64, 1) & 1) != 0) codes.Add((byte)vm.Machine.Ports.Read(0x60, 1));
            else Thread.Sleep(5);
        }
        Assert.Equal(expected, codes);
    }

    /// <summary>Section 7.2.2. DES by a vector that has gone around since 1977, of which this is the well-known one with the key 133457799BBCDFF1.</summary>
    [Fact]
    public void DES_gives_the_known_answer()
    {
        byte[] result = new byte[8];
        Des.Encrypt(Convert.FromHexString("133457799BBCDFF1"), Convert.FromHexString("0123456789ABCDEF"), result);
        Assert.Equal("85E813540F0AB405", Convert.ToHexString(result));
    }

    [Theory]
    [InlineData("secret", true)]
    [InlineData("Secret", false)]
    public void Who_does_not_know_the_password_is_not_let_in(string word, bool passes)
    {
        string file = Path.GetTempFileName();
        try
        {
            File.WriteAllText(file, "secret\n");
            using Vm vm = NewVm($"127.0.0.1:0,password-file={file}");
            using var viewer = new Viewer(vm.Vnc!.EndPoint!);
            viewer.Knows(word);
            Assert.Equal(passes ? 0 : 1, viewer.ReadLong());
            if (passes) viewer.Begin();
            else Assert.Throws<EndOfStreamException>(() => viewer.Read(1000));
        }
        finally
        {
            File.Delete(file);
        }
    }

    /// <summary>A password that is set later, as QEMU's: until then nobody knows it, and who comes afterwards must know the new one.</summary>
    [Fact]
    public void A_password_can_be_set_and_taken_back_while_the_machine_runs()
    {
        using Vm vm = new VmBuilder(KnownEngines.All)
        {
            Guest = "hello",
            Engine = "interp",
            Memory = 8 << 20,
            Vnc = VncEndpoint.Parse("127.0.0.1:0", asksForPassword: true),
        }.Build();
        Assert.False(LetsIn(vm, ""));
        QemuRun.SetPassword(vm, "vnc", "first");
        Assert.True(LetsIn(vm, "first"));
        QemuRun.SetPassword(vm, "vnc", "second");
        Assert.False(LetsIn(vm, "first"));
        Assert.True(LetsIn(vm, "second"));
        QemuRun.SetPassword(vm, "vnc", "");
        Assert.False(LetsIn(vm, ""));
        using Vm open = NewVm();
        string message = Assert.Throws<MonitorException>(() => QemuRun.SetPassword(open, "vnc", "word")).Message;
        Assert.Contains("password=on", message, StringComparison.Ordinal);
    }

    private static bool LetsIn(Vm vm, string word)
    {
        using var viewer = new Viewer(vm.Vnc!.EndPoint!);
        viewer.Knows(word);
        return viewer.ReadLong() == 0;
    }

    /// <summary>Section 7.2.2: the challenge, encrypted by the word, the bits of whose bytes are turned around.</summary>
    private static byte[] Answer(byte[] challenge, string word)
    {
        byte[] answer = new byte[16], key = new byte[8];
        for (int n = 0; n < word.Length; n++) key[n] = (byte)(((word[n] * 0x0202020202ul) & 0x010884422010ul) % 1023);
        for (int at = 0; at < 16; at += 8) Des.Encrypt(key, challenge.AsSpan(at, 8), answer.AsSpan(at));
        return answer;
    }

    [Fact]
    public void Viewers_that_send_anything_end_nothing_but_their_connection()
    {
        using Vm vm = NewVm();
        Draw(vm, 3);
        var random = new Random(5);
        for (int n = 0; n < 60; n++)
        {
            using var hostile = new Viewer(vm.Vnc!.EndPoint!);
            try
            {
                if (n % 4 != 0) hostile.ShakeHands();
                byte[] bytes = new byte[random.Next(1, 400)];
                random.NextBytes(bytes);
                for (int k = 0; k < bytes.Length; k += 20) bytes[k] = (byte)(random.Next(9) switch { 7 => 251, 8 => 255, var m => m });
                hostile.Send(bytes);
                if (n % 3 == 0) hostile.Ask(incremental: false, random.Next(65536), random.Next(65536));
            }
            catch (IOException)
            {
                // It was thrown out already.
            }
        }
        using var viewer = new Viewer(vm.Vnc!.EndPoint!);
        Assert.Equal((Width, Height), viewer.ShakeHands());
        viewer.Ask(incremental: false, Width, Height);
        uint[] screen = new uint[Width * Height];
        viewer.Take(screen, Width);
        Assert.Equal(vm.Display!.Paint().Pixels, screen);
    }

    [Fact]
    public void Connections_that_say_nothing_take_no_viewers_place()
    {
        using Vm vm = NewVm();
        Viewer[] silent = [.. Enumerable.Range(0, 20).Select(_ => new Viewer(vm.Vnc!.EndPoint!))];
        Viewer[] viewers = [.. Enumerable.Range(0, 8).Select(_ => new Viewer(vm.Vnc!.EndPoint!))];
        foreach (Viewer viewer in viewers) viewer.ShakeHands();
        Assert.Throws<EndOfStreamException>(() => silent[0].Read(13));
        using var tooMany = new Viewer(vm.Vnc!.EndPoint!);
        tooMany.Read(12);
        tooMany.Send("RFB 003.008\n"u8.ToArray());
        tooMany.Read(2);
        tooMany.Send(1);
        Assert.Equal(1, tooMany.ReadLong());
        Assert.Equal("there are too many viewers", Encoding.ASCII.GetString(tooMany.Read(tooMany.ReadLong())));
        foreach (Viewer one in (Viewer[])[.. silent, .. viewers]) one.Dispose();
    }

    /// <summary>A file that somebody has put beside the picture is not written to.</summary>
    [Fact]
    public void A_picture_goes_through_no_link()
    {
        string folder = Directory.CreateTempSubdirectory("bunraku-png-").FullName, picture = Path.Combine(folder, "a.png");
        try
        {
            File.WriteAllText(Path.Combine(folder, "other"), "other");
            File.CreateSymbolicLink(picture + ".new", Path.Combine(folder, "other"));
            PngFile.Write(picture, new ScreenImage(3, 2));
            Assert.Equal("other", File.ReadAllText(Path.Combine(folder, "other")));
            Assert.Equal(["a.png", "a.png.new", "other"], Directory.EnumerateFiles(folder).Select(Path.GetFileName).Order(StringComparer.Ordinal));
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    [Theory]
    [InlineData("5901", "no place")]
    [InlineData("0.0.0.0:5901", "can be reached by others")]
    [InlineData("127.0.0.1:5901,password=x", "password-file=FILE")]
    [InlineData("unix:", "needs a path")]
    [InlineData("host:1", "no address")]
    public void What_is_no_place_for_viewers_is_refused_in_one_line(string text, string says)
    {
        string message = Assert.Throws<FormatException>(() => VncEndpoint.Parse(text)).Message;
        Assert.Contains(says, message, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', message);
    }

    /// <summary>PNG specification: signature, chunks with their checks, and the pixels behind the decompression, as libpng's pngtopnm reads them.</summary>
    [Fact]
    public void A_picture_is_a_PNG_file()
    {
        var image = new ScreenImage(3, 2);
        foreach ((int n, uint pixel) in new uint[] { 0xFF0000, 0x00FF00, 0x0000FF, 0x123456, 0, 0xFFFFFF }.Index()) image.Pixels[n] = pixel;
        var stream = new MemoryStream();
        PngFile.Write(stream, image);
        byte[] png = stream.ToArray();
        Assert.Equal([0x89, 0x50, 0x4E, 0x47, 0x0D, 0x0A, 0x1A, 0x0A], png[..8]);
        byte[] data = [];
        for (int at = 8; at < png.Length;)
        {
            int length = BinaryPrimitives.ReadInt32BigEndian(png.AsSpan(at));
            ReadOnlySpan<byte> body = png.AsSpan(at + 4, 4 + length);
            uint crc = uint.MaxValue; // annex D
            foreach (byte b in body)
            {
                crc ^= b;
                for (int k = 0; k < 8; k++) crc = (crc & 1) != 0 ? 0xEDB8_8320 ^ crc >> 1 : crc >> 1;
            }
            Assert.Equal(~crc, BinaryPrimitives.ReadUInt32BigEndian(png.AsSpan(at + 8 + length)));
            if (body.StartsWith("IHDR"u8)) Assert.Equal([0, 0, 0, 3, 0, 0, 0, 2, 8, 2, 0, 0, 0], body[4..].ToArray());
            if (body.StartsWith("IDAT"u8)) data = body[4..].ToArray();
            at += 12 + length;
        }
        var pixels = new MemoryStream();
        using (var zlib = new ZLibStream(new MemoryStream(data), CompressionMode.Decompress)) zlib.CopyTo(pixels);
        Assert.Equal([0, 255, 0, 0, 0, 255, 0, 0, 0, 255, 0, 0x12, 0x34, 0x56, 0, 0, 0, 255, 255, 255], pixels.ToArray());
    }
}
