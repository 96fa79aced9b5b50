using System.IO.Compression;
using Bunraku.Machine.Display;

namespace Bunraku.Sessions.Screens;

/// <summary>A part of a screen.</summary>
internal readonly record struct VncRectangle(int X, int Y, int Width, int Height);

/// <summary>
/// Pixels of one connection: RFC 6143, sections 7.7.1 "Raw Encoding" and 7.7.6 "ZRLE", whose compressed stream goes on from one rectangle to the next.
/// </summary>
internal sealed class VncEncoder : IDisposable
{
    private const int MostPalette = 16;
    private const byte RawTile = 0, SolidTile = 1;

    private readonly MemoryStream _compressed = new();
    private readonly ZLibStream _zlib;
    private readonly uint[] _palette = new uint[MostPalette];
    private byte[] _buffer = [];

    public VncEncoder() => _zlib = new ZLibStream(_compressed, CompressionLevel.Fastest, leaveOpen: true);

    public void Dispose()
    {
        _zlib.Dispose();
        _compressed.Dispose();
    }

    /// <summary>The bytes of a rectangle, good until the next call.</summary>
    public ReadOnlyMemory<byte> EncodeRaw(ScreenImage image, in VncRectangle r, in VncPixelFormat format)
    {
        int bytes = format.Bytes, at = 0;
        Reserve(r.Width * r.Height * bytes);
        for (int y = r.Y; y < r.Y + r.Height; y++)
        {
            foreach (uint pixel in image.Line(y).Slice(r.X, r.Width))
            {
                format.Put(_buffer.AsSpan(at), format.Convert(pixel));
                at += bytes;
            }
        }
        return _buffer.AsMemory(0, at);
    }

    /// <inheritdoc cref="EncodeRaw"/>
    public ReadOnlyMemory<byte> EncodeZrle(ScreenImage image, in VncRectangle r, in VncPixelFormat format)
    {
        const int tile = VncProtocol.Tile;
        _compressed.SetLength(0);
        Reserve(1 + tile * tile * sizeof(uint));
        for (int y = r.Y; y < r.Y + r.Height; y += tile)
        {
            for (int x = r.X; x < r.X + r.Width; x += tile)
                _zlib.Write(_buffer, 0, EncodeTile(image, new(x, y, Math.Min(tile, r.X + r.Width - x), Math.Min(tile, r.Y + r.Height - y)), format));
        }
        _zlib.Flush(); // the viewer can decode all that there is so far
        return _compressed.GetBuffer().AsMemory(0, (int)_compressed.Length);
    }

    /// <summary>Returns the number of bytes.</summary>
    private int EncodeTile(ScreenImage image, in VncRectangle r, in VncPixelFormat format)
    {
        int compact = format.CompactBytes, at = 1;
        int colors = CountColors(image, r);
        if (colors > MostPalette)
        {
            _buffer[0] = RawTile;
            for (int y = r.Y; y < r.Y + r.Height; y++)
            {
                foreach (uint pixel in image.Line(y).Slice(r.X, r.Width)) at = Put(at, pixel, format);
            }
            return at;
        }
        _buffer[0] = (byte)(colors == 1 ? SolidTile : colors); // a palette's size stands for it
        for (int n = 0; n < colors; n++) at = Put(at, _palette[n], format);
        if (colors == 1) return 1 + compact;
        int bits = colors <= 2 ? 1 : colors <= 4 ? 2 : 4;
        for (int y = r.Y; y < r.Y + r.Height; y++)
        {
            int packed = 0, used = 0;
            foreach (uint pixel in image.Line(y).Slice(r.X, r.Width))
            {
                packed = packed << bits | _palette.AsSpan(0, colors).IndexOf(pixel);
                used += bits;
                if (used < 8) continue;
                _buffer[at++] = (byte)packed;
                (packed, used) = (0, 0);
            }
            if (used > 0) _buffer[at++] = (byte)(packed << 8 - used); // a line begins a byte
        }
        return at;
    }

    private int Put(int at, uint pixel, in VncPixelFormat format)
    {
        format.PutCompact(_buffer.AsSpan(at), format.Convert(pixel));
        return at + format.CompactBytes;
    }

    /// <summary>Fills the palette; a number beyond its room says that there are more.</summary>
    private int CountColors(ScreenImage image, in VncRectangle r)
    {
        int count = 0;
        uint last = ~0u; // no pixel
        for (int y = r.Y; y < r.Y + r.Height; y++)
        {
            foreach (uint pixel in image.Line(y).Slice(r.X, r.Width))
            {
                if (pixel == last) continue;
                last = pixel;
                if (_palette.AsSpan(0, count).Contains(pixel)) continue;
                if (count == MostPalette) return MostPalette + 1;
                _palette[count++] = pixel;
            }
        }
        return count;
    }

    private void Reserve(int length)
    {
        if (_buffer.Length < length) _buffer = new byte[length];
    }
}
