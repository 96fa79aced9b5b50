using System.Buffers.Binary;
using System.IO.Compression;
using System.IO.Hashing;
using Bunraku.Machine.Display;
using Bunraku.Platform;

namespace Bunraku.Sessions.Screens;

/// <summary>Pictures in files: Portable Network Graphics (PNG) Specification, Third Edition; three bytes a pixel, one compressed stream.</summary>
public static class PngFile
{
    /// <summary>Writes a picture; an old file of that name is gone when the new one is complete.</summary>
    /// <param name="path">Of the file.</param>
    /// <exception cref="CannotWriteException">The file cannot be written.</exception>
    public static void Write(string path, ScreenImage image)
    {
        string beside = $"{path}.{Path.GetRandomFileName()}"; // which nobody can have put there
        try
        {
            using (var file = new FileStream(beside, FileMode.CreateNew, FileAccess.Write))
            {
                try
                {
                    Write(file, image);
                    file.Flush();
                    File.Move(beside, path, overwrite: true);
                }
                catch
                {
                    File.Delete(beside);
                    throw;
                }
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ArgumentException or NotSupportedException)
        {
            throw new CannotWriteException(path, HostError.Reason(e), e);
        }
    }

    /// <summary>Writes a picture to a stream.</summary>
    public static void Write(Stream stream, ScreenImage image)
    {
        const byte bits = 8, color = 2;
        stream.Write([0x89, (byte)'P', (byte)'N', (byte)'G', (byte)'\r', (byte)'\n', 0x1A, (byte)'\n']);
        Span<byte> header = stackalloc byte[13];
        header.Clear();
        BinaryPrimitives.WriteInt32BigEndian(header, image.Width);
        BinaryPrimitives.WriteInt32BigEndian(header[4..], image.Height);
        (header[8], header[9]) = (bits, color);
        WriteChunk(stream, "IHDR"u8, header);
        using var data = new MemoryStream();
        using (var zlib = new ZLibStream(data, CompressionLevel.Fastest, leaveOpen: true))
        {
            byte[] line = new byte[1 + 3 * image.Width]; // a filter of each line: none
            for (int y = 0; y < image.Height; y++)
            {
                int at = 1;
                foreach (uint pixel in image.Line(y))
                {
                    (line[at], line[at + 1], line[at + 2]) = ((byte)(pixel >> 16), (byte)(pixel >> 8), (byte)pixel);
                    at += 3;
                }
                zlib.Write(line);
            }
        }
        WriteChunk(stream, "IDAT"u8, data.GetBuffer().AsSpan(0, (int)data.Length));
        WriteChunk(stream, "IEND"u8, []);
    }

    private static void WriteChunk(Stream stream, ReadOnlySpan<byte> kind, ReadOnlySpan<byte> data)
    {
        Span<byte> number = stackalloc byte[4];
        BinaryPrimitives.WriteInt32BigEndian(number, data.Length);
        stream.Write(number);
        stream.Write(kind);
        stream.Write(data);
        var crc = new Crc32();
        crc.Append(kind);
        crc.Append(data);
        BinaryPrimitives.WriteUInt32BigEndian(number, crc.GetCurrentHashAsUInt32());
        stream.Write(number);
    }
}
