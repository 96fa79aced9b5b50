using Bunraku.Platform;
using Bunraku.Storage.Qcow2;

namespace Bunraku.Storage;

/// <summary>Opens disk images of every format.</summary>
public static class DiskImage
{
    private const string FormatAttribute = "user.bunraku.format";
    /// <summary>Longest chain of backing files.</summary>
    private const int MostBacking = 64;

    /// <summary>The word of users for a format.</summary>
    public static string Word(ImageFormat format) => format == ImageFormat.Raw ? "raw" : "qcow2";

    /// <summary>The format that a word means; null: none.</summary>
    public static ImageFormat? ParseFormat(string word) => word switch { "raw" => ImageFormat.Raw, "qcow2" => ImageFormat.Qcow2, _ => null };

    /// <summary>Opens a disk.</summary>
    /// <exception cref="DiskException">It cannot be had; the message is one line.</exception>
    public static IBlockBackend Open(DiskOptions options) => Open(options, []);

    private static IBlockBackend Open(DiskOptions options, List<(ulong, ulong)> above)
    {
        HostImageFile file = OpenFile(options);
        try
        {
            if (above.Contains(file.Identity)) throw new DiskException($"disk {options.Path}: is its own backing file");
            if (above.Count >= MostBacking) throw new DiskException($"disk {options.Path}: more than {MostBacking} backing files stand one behind another");
            return Open(file, options, [.. above, file.Identity]);
        }
        catch (Exception e)
        {
            file.Dispose();
            if (e is DiskException or not (IOException or UnauthorizedAccessException)) throw;
            throw new DiskException($"disk {options.Path}: {HostError.Reason(e)}", e);
        }
    }

    private static HostImageFile OpenFile(DiskOptions options)
    {
        try
        {
            return HostImageFile.Open(options.Path, options.ReadOnly);
        }
        catch (DiskException e) when (options.MissingAdvice is not null && e.InnerException is FileNotFoundException)
        {
            throw new DiskException($"{e.Message}; {options.MissingAdvice}", e.InnerException);
        }
    }

    private static IBlockBackend Open(HostImageFile file, DiskOptions options, List<(ulong, ulong)> chain)
    {
        bool remembered = true;
        ImageFormat format = options.Format ?? Probe(file, options.ReadOnly, out remembered);
        if (format == ImageFormat.Raw)
        {
            IImageFile bytes = options.Discard ? file : new KeepsRoom(file);
            return new RawDisk(bytes, options.ReadOnly, guardsFormat: !remembered);
        }
        return Qcow2Disk.Open(file, new Qcow2OpenOptions
        {
            ReadOnly = options.ReadOnly,
            Discard = options.Discard,
            OpenBacking = (name, word) => OpenBacking(options, name, word, chain),
        });
    }

    /// <summary>What a file is: as it was found to be the first time. A guest that can write into it must not choose.</summary>
    private static ImageFormat Probe(HostImageFile file, bool readOnly, out bool remembered)
    {
        remembered = true;
        if (file.GetAttribute(FormatAttribute) is { } word && ParseFormat(word) is { } known) return known;
        Span<byte> start = stackalloc byte[Qcow2Header.MagicLength];
        file.Read(0, start);
        if (Qcow2Header.HasMagic(start)) return ImageFormat.Qcow2;
        remembered = readOnly || file.TrySetAttribute(FormatAttribute, Word(ImageFormat.Raw));
        return ImageFormat.Raw;
    }

    /// <summary>What a file is, without remembering it.</summary>
    internal static ImageFormat FormatOf(HostImageFile file, ImageFormat? said) => said ?? Probe(file, readOnly: true, out _);

    /// <summary>Says with a file what it is, so that it is not looked at. Where that cannot be kept, nothing happens.</summary>
    internal static void Remember(HostImageFile file, ImageFormat format) => file.TrySetAttribute(FormatAttribute, Word(format));

    private static IBlockBackend OpenBacking(DiskOptions options, string name, string? word, List<(ulong, ulong)> chain)
    {
        if (!options.AllowBacking)
            throw new DiskException($"disk {options.Path}: names the backing file '{name}', and an image from elsewhere could name any file of yours; "
                + options.BackingAdvice);
        ImageFormat? format = word is null ? null : ParseFormat(word)
            ?? throw new DiskException($"disk {options.Path}: its backing file '{name}' has the format '{word}'; raw and qcow2 are possible");
        string path = BackingPath(options.Path, name);
        // A base whose format nobody has written down may have been a raw disk of a guest: then it could name files of the host.
        bool trusted = format is not null;
        string untrusted = $"and '{path}' has no recorded format; write it down with 'qemu-img rebase -u -F qcow2'";
        string advice = trusted ? "" : untrusted;
        return Open(options with { Path = path, Format = format, ReadOnly = true, AllowBacking = trusted, BackingAdvice = advice, MissingAdvice = null },
            chain);
    }

    /// <summary>Where a backing file lies: its name is relative to the image's folder.</summary>
    internal static string BackingPath(string image, string name)
    {
        if (name.StartsWith("json:", StringComparison.Ordinal) || name.Contains("://", StringComparison.Ordinal)
            || name.StartsWith("nbd:", StringComparison.Ordinal))
            throw new DiskException($"disk {image}: its backing file '{name}' is not a file of this host");
        const string prefix = "file:";
        if (name.StartsWith(prefix, StringComparison.Ordinal)) name = name[prefix.Length..];
        return Path.IsPathRooted(name) ? name : Path.Combine(Path.GetDirectoryName(image) ?? "", name);
    }

    /// <summary>A file that gives no room back: discards are lost, zeros are written.</summary>
    private sealed class KeepsRoom(IImageFile file) : IImageFile
    {
        public string Name => file.Name;
        public ulong Length => file.Length;
        public int Read(ulong position, Span<byte> destination) => file.Read(position, destination);
        public void Write(ulong position, ReadOnlySpan<byte> source) => file.Write(position, source);
        public void Flush() => file.Flush();
        public void Zero(ulong position, ulong length, bool unmap) => file.Zero(position, length, unmap: false);
        public void Discard(ulong position, ulong length)
        {
        }

        public void Resize(ulong length) => file.Resize(length);
        public ulong Hole(ulong position) => file.Hole(position);
        public void Dispose() => file.Dispose();
    }
}
