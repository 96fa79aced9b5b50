using System.Formats.Tar;
using System.Security.Cryptography;
using System.Text;

namespace Bunraku.Machine;

/// <summary>
/// The files of packages as one tree, with dpkg's own record of them: as dpkg would leave it between unpacking and configuring, but for the scripts that run
/// before a package is unpacked (preinst), which are <see cref="Preinst"/>. So nothing has to be decompressed inside a guest.
/// </summary>
/// <remarks>
/// dpkg(1), "Package states"; dpkg's sources, src/main/unpack.c and lib/dpkg/triglib.c, for what there is in /var/lib/dpkg. /usr is merged, as in Debian from
/// 12 on: what packages put in /bin, /sbin and /lib is in /usr. For one thread.
/// </remarks>
internal sealed class PackageTree(TarStream tar, Func<string, bool> wanted)
{
    private const string Database = "var/lib/dpkg", Info = Database + "/info/";
    private static readonly string[] s_merged = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"];
    private readonly StringBuilder _status = new();
    private readonly SortedDictionary<string, string> _triggers = new(StringComparer.Ordinal); // by the name of dpkg's file
    private readonly List<ControlStanza> _packages = [];
    private readonly List<string> _preinst = [];

    /// <summary>The packages so far.</summary>
    public IReadOnlyList<ControlStanza> Packages => _packages;

    /// <summary>Names in dpkg's folder of the packages with a script to run before anything is configured.</summary>
    public IReadOnlyList<string> Preinst => _preinst;

    /// <summary>The folders of the root, with the links to /usr.</summary>
    public void Begin()
    {
        tar.AddDirectory("usr");
        foreach (string folder in s_merged)
        {
            if (folder is "lib32" or "libx32") continue; // only where packages have them, which are for other machines
            tar.AddDirectory("usr/" + folder);
            tar.AddLink(folder, "usr/" + folder);
        }
    }

    /// <summary>Where a path of a package is in the tree: without "./" and in /usr. Empty for the root itself.</summary>
    public static string Place(string path)
    {
        path = path.StartsWith("./", StringComparison.Ordinal) ? path[2..] : path.TrimStart('/');
        path = path.TrimEnd('/');
        int slash = path.IndexOf('/');
        string first = slash < 0 ? path : path[..slash];
        return path.Length > 0 && s_merged.Contains(first) ? "usr/" + path : path;
    }

    /// <summary>Adds a package.</summary>
    /// <param name="control">Archive with its control file and scripts.</param>
    /// <param name="files">Archive with its files.</param>
    /// <param name="see">Called for each file that is put into the tree, with its path and bytes, and for each symbolic link, with its target.</param>
    /// <exception cref="InvalidDataException">It is no package.</exception>
    public void Add(Action<Action<Stream>> control, Action<Action<Stream>> files, Action<string, ReadOnlyMemory<byte>, bool>? see = null)
    {
        var members = new Dictionary<string, (ReadOnlyMemory<byte> Bytes, int Mode)>();
        control(stream => Read(stream, (entry, data) =>
        {
            string name = Place(entry.Name);
            if (IsFile(entry) && name.Length > 0 && !name.Contains('/')) members[name] = (data, (int)entry.Mode);
        }));
        if (!members.TryGetValue("control", out (ReadOnlyMemory<byte> Bytes, int) text)) throw new InvalidDataException("the package has no control file");
        ControlStanza stanza = ControlStanza.Parse(Encoding.UTF8.GetString(text.Bytes.Span));
        // A line may begin with flags, as remove-on-upgrade: such a file is none of this version's.
        string[] conffiles = [.. Lines(members, "conffiles").Where(l => l.StartsWith('/'))];
        var sums = new List<(string, string)>();
        var list = new StringBuilder();
        // dpkg computes sums where a package has none.
        bool hasSums = members.ContainsKey("md5sums");
        var computed = new StringBuilder();
        files(stream => Read(stream, (entry, data) =>
        {
            string path = Place(entry.Name), own = "/" + (entry.Name.StartsWith("./", StringComparison.Ordinal) ? entry.Name[2..] : entry.Name).Trim('/');
            list.Append(own == "/" ? "/." : own).Append('\n');
            if (path.Length == 0 || !wanted(path)) return;
            bool isConffile = conffiles.Contains(own);
            if (IsFile(entry) && (isConffile || !hasSums))
            {
                string sum = Convert.ToHexStringLower(MD5.HashData(data.Span));
                if (isConffile) sums.Add((own, sum));
                computed.Append(sum).Append("  ").Append(own[1..]).Append('\n');
            }
            // A symbolic link leads where it did: its target may be behind a link of ours, which is the same place.
            tar.Copy(entry, path, entry.EntryType == TarEntryType.HardLink ? Place(entry.LinkName) : entry.LinkName, data);
            if (entry.EntryType is TarEntryType.SymbolicLink) see?.Invoke(path, Encoding.UTF8.GetBytes(entry.LinkName), true);
            else if (IsFile(entry)) see?.Invoke(path, data, false);
        }));
        _packages.Add(stanza);
        _status.Append(stanza.Unpacked(sums));
        foreach ((string name, (ReadOnlyMemory<byte> bytes, int mode)) in members)
        {
            if (name != "control") tar.AddFile($"{Info}{stanza.InfoName}.{name}", bytes, mode);
        }
        tar.AddFile($"{Info}{stanza.InfoName}.list", list.ToString());
        if (!hasSums) tar.AddFile($"{Info}{stanza.InfoName}.md5sums", computed.ToString());
        if (members.ContainsKey("preinst")) _preinst.Add(stanza.InfoName);
        foreach (string line in Lines(members, "triggers")) AddTrigger(stanza, line);
    }

    /// <summary>Writes dpkg's record of all packages.</summary>
    public void End()
    {
        foreach (string folder in (string[])["alternatives", "info", "parts", "triggers", "updates"]) tar.AddDirectory($"{Database}/{folder}");
        tar.AddFile(Database + "/status", _status.ToString());
        tar.AddFile(Info + "format", "1\n");
        foreach (string empty in (string[])["available", "diversions", "statoverride"]) tar.AddFile($"{Database}/{empty}", "");
        foreach ((string name, string content) in _triggers) tar.AddFile($"{Database}/triggers/{name}", content);
    }

    /// <summary>deb-triggers(5): who wants to be told of what. Who tells (activate) has done so by its own scripts.</summary>
    private void AddTrigger(ControlStanza stanza, string line)
    {
        if (line.Split(' ', StringSplitOptions.RemoveEmptyEntries) is not [var directive, var name]
            || !directive.StartsWith("interest", StringComparison.Ordinal)) return;
        string owner = stanza.InfoName + (directive == "interest-noawait" ? "/noawait" : "");
        (string file, string content) = name.StartsWith('/') ? ("File", $"{name} {owner}\n") : (name, owner + "\n");
        if (file.Contains('/')) return;
        _triggers[file] = _triggers.GetValueOrDefault(file, "") + content;
    }

    private static IEnumerable<string> Lines(Dictionary<string, (ReadOnlyMemory<byte> Bytes, int Mode)> members, string name) =>
        members.TryGetValue(name, out (ReadOnlyMemory<byte> Bytes, int) member)
            ? Encoding.UTF8.GetString(member.Bytes.Span).Split('\n', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries) : [];

    private static bool IsFile(TarEntry entry) => entry.EntryType is TarEntryType.RegularFile or TarEntryType.V7RegularFile;

    /// <summary>Reads a tar archive; what an entry has is of use until the next one.</summary>
    public static void Read(Stream stream, Action<TarEntry, ReadOnlyMemory<byte>> entry)
    {
        using var reader = new TarReader(stream, leaveOpen: true);
        try
        {
            while (reader.GetNextEntry() is { } next)
            {
                using var data = new MemoryStream();
                next.DataStream?.CopyTo(data);
                entry(next, data.GetBuffer().AsMemory(0, (int)data.Length));
            }
        }
        catch (Exception e) when (e is EndOfStreamException or FormatException)
        {
            throw new InvalidDataException("the archive breaks off", e);
        }
    }
}
