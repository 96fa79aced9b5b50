using System.Formats.Tar;
using System.Text;

namespace Bunraku.Machine;

/// <summary>Writes files into a tar archive, each path once: who comes first stays. For one thread.</summary>
internal sealed class TarStream : IDisposable
{
    private readonly TarWriter _tar;
    private readonly HashSet<string> _paths = [];

    /// <param name="stream">Takes the archive; stays open.</param>
    public TarStream(Stream stream) => _tar = new TarWriter(stream, TarEntryFormat.Gnu, leaveOpen: true);

    /// <summary>There is something at the path, which has no leading slash.</summary>
    public bool Has(string path) => _paths.Contains(path);

    public void AddDirectory(string path, int mode = 0b111_101_101) => Add(new GnuTarEntry(TarEntryType.Directory, path + "/"), path, mode);

    public void AddFile(string path, ReadOnlyMemory<byte> content, int mode = 0b110_100_100)
    {
        using var data = new MemoryStream(content.ToArray());
        Add(new GnuTarEntry(TarEntryType.RegularFile, path) { DataStream = data }, path, mode);
    }

    public void AddFile(string path, string content, int mode = 0b110_100_100) => AddFile(path, Encoding.UTF8.GetBytes(content), mode);

    public void AddLink(string path, string target) => Add(new GnuTarEntry(TarEntryType.SymbolicLink, path) { LinkName = target }, path, 0b111_111_111);

    /// <summary>Another archive's entry at a path.</summary>
    /// <param name="path">Where it is to be.</param>
    /// <param name="link">Target of a link.</param>
    /// <param name="data">Bytes of a file.</param>
    public void Copy(TarEntry entry, string path, string link, ReadOnlyMemory<byte> data)
    {
        TarEntryType type = entry.EntryType == TarEntryType.V7RegularFile ? TarEntryType.RegularFile : entry.EntryType;
        using MemoryStream? content = type == TarEntryType.RegularFile ? new MemoryStream(data.ToArray()) : null;
        var copy = new GnuTarEntry(type, type == TarEntryType.Directory ? path + "/" : path)
        {
            Uid = entry.Uid,
            Gid = entry.Gid,
            ModificationTime = entry.ModificationTime
        };
        if (content is not null) copy.DataStream = content;
        if (type is TarEntryType.HardLink or TarEntryType.SymbolicLink) copy.LinkName = link;
        Add(copy, path, (int)entry.Mode);
    }

    private void Add(GnuTarEntry entry, string path, int mode)
    {
        if (!_paths.Add(path)) return;
        entry.Mode = (UnixFileMode)mode;
        _tar.WriteEntry(entry);
    }

    public void Dispose() => _tar.Dispose();
}
