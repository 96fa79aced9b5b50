using System.Buffers.Binary;
using System.IO.Compression;
using System.Text;
using SharpCompress.Common;
using SharpCompress.Compressors.Xz;
using ZstdSharp;

namespace Bunraku.Machine;

/// <summary>A file of a Linux kernel module: how it is packed, and what it says of itself.</summary>
/// <remarks>
/// Linux, include/linux/module.h, MODULE_INFO: the section ".modinfo" of an ELF file has strings "key=value", each with a NUL behind it.
/// </remarks>
internal static class KernelModule
{
    private const int SectionHeaders = 0x28, HeaderSize = 0x3A, HeaderCount = 0x3C, NameHeader = 0x3E, ElfHeaderLength = 0x40, SectionLength = 0x40;

    /// <summary>The longest module that anything is done with; the largest of a distribution have some 20 MiB.</summary>
    public const int MostBytes = 1 << 27;

    /// <summary>Name of a module by its file, as Linux has it: "nls_utf8" of "nls-utf8.ko.xz". Null: the file is no module.</summary>
    public static string? NameOf(string path)
    {
        string file = path[(path.LastIndexOf('/') + 1)..];
        int end = file.IndexOf(".ko", StringComparison.Ordinal);
        return end > 0 && file[end..] is ".ko" or ".ko.xz" or ".ko.gz" or ".ko.zst" ? PlainName(file[..end]) : null;
    }

    /// <summary>A name, or a pattern of names, as kmod compares them: '-' is '_', but not in a range of characters.</summary>
    public static string PlainName(string name)
    {
        if (!name.Contains('-')) return name;
        char[] plain = name.ToCharArray();
        bool inRange = false;
        for (int n = 0; n < plain.Length; n++)
        {
            inRange = plain[n] == '[' || inRange && plain[n] != ']';
            if (plain[n] == '-' && !inRange) plain[n] = '_';
        }
        return new string(plain);
    }

    /// <summary>Path without what tells that a module is packed; another file's stays as it is.</summary>
    public static string PlainPath(string path) =>
        NameOf(path) is null || path.EndsWith(".ko", StringComparison.Ordinal) ? path : path[..path.LastIndexOf('.')];

    /// <summary>The module itself, whether its file is packed or not.</summary>
    /// <param name="path">By which the packing is known.</param>
    /// <exception cref="InvalidDataException">It is damaged, or longer than <see cref="MostBytes"/>.</exception>
    public static byte[] Unpack(string path, Stream file)
    {
        try
        {
            return Read(path, file);
        }
        catch (Exception e) when (e is SharpCompressException or ZstdException)
        {
            throw new InvalidDataException($"{path} is damaged: {e.Message}", e);
        }
    }

    private static byte[] Read(string path, Stream file)
    {
        Stream plain = Path.GetExtension(path) switch
        {
            ".xz" => new XZStream(file),
            ".gz" => new GZipStream(file, CompressionMode.Decompress, leaveOpen: true),
            ".zst" => new DecompressionStream(file, leaveOpen: true),
            _ => file,
        };
        var bytes = new MemoryStream();
        byte[] part = new byte[1 << 16];
        for (int length; (length = plain.Read(part)) > 0; bytes.Write(part, 0, length))
        {
            if (bytes.Length + length > MostBytes) throw new InvalidDataException($"{path} is longer than {MostBytes >> 20} MiB");
        }
        return bytes.ToArray();
    }

    /// <summary>What a module says of itself, in its order; nothing where it says nothing that can be read.</summary>
    public static IReadOnlyList<(string Key, string Value)> Information(ReadOnlySpan<byte> module)
    {
        if (module.Length < ElfHeaderLength || !module.StartsWith("\x7F"u8 + "ELF\x02\x01"u8)) return [];
        ulong table = BinaryPrimitives.ReadUInt64LittleEndian(module[SectionHeaders..]);
        int count = BinaryPrimitives.ReadUInt16LittleEndian(module[HeaderCount..]), names = BinaryPrimitives.ReadUInt16LittleEndian(module[NameHeader..]);
        if (BinaryPrimitives.ReadUInt16LittleEndian(module[HeaderSize..]) != SectionLength || names >= count) return [];
        if (table > (ulong)module.Length || (ulong)module.Length - table < (ulong)count * SectionLength) return [];
        ReadOnlySpan<byte> headers = module.Slice((int)table, count * SectionLength), strings = Content(module, headers[(names * SectionLength)..]);
        for (int n = 0; n < count; n++)
        {
            ReadOnlySpan<byte> header = headers[(n * SectionLength)..];
            uint name = BinaryPrimitives.ReadUInt32LittleEndian(header);
            if (name < (uint)strings.Length && strings[(int)name..].StartsWith(".modinfo\0"u8)) return Strings(Content(module, header));
        }
        return [];
    }

    /// <summary>Strings "key=value" with a NUL behind each.</summary>
    public static IReadOnlyList<(string Key, string Value)> Strings(ReadOnlySpan<byte> section)
    {
        var found = new List<(string, string)>();
        foreach (string text in Encoding.UTF8.GetString(section).Split('\0', StringSplitOptions.RemoveEmptyEntries))
        {
            if (text.IndexOf('=', StringComparison.Ordinal) is > 0 and var at) found.Add((text[..at], text[(at + 1)..]));
        }
        return found;
    }

    private static ReadOnlySpan<byte> Content(ReadOnlySpan<byte> module, ReadOnlySpan<byte> header)
    {
        ulong start = BinaryPrimitives.ReadUInt64LittleEndian(header[0x18..]), length = BinaryPrimitives.ReadUInt64LittleEndian(header[0x20..]);
        return start <= (ulong)module.Length && length <= (ulong)module.Length - start ? module.Slice((int)start, (int)length) : default;
    }
}
