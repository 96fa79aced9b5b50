namespace Bunraku.Machine;

/// <summary>What a package says of itself: the file "control" in its archive. Immutable.</summary>
/// <remarks>Debian Policy Manual, section 5.1, "Syntax of control files".</remarks>
internal sealed class ControlStanza
{
    private readonly List<(string Name, string Value)> _fields = [];

    private ControlStanza(string text) => Text = text;

    /// <summary>The stanza without the line end behind it.</summary>
    public string Text { get; }

    /// <exception cref="InvalidDataException">It names no package.</exception>
    public static ControlStanza Parse(string text)
    {
        var stanza = new ControlStanza(text.Trim('\n'));
        foreach (string line in stanza.Text.Split('\n'))
        {
            if (line.Length == 0 || char.IsWhiteSpace(line[0])) continue; // goes on with the field above, of which nobody here asks more than its first line
            int colon = line.IndexOf(':');
            if (colon > 0) stanza._fields.Add((line[..colon], line[(colon + 1)..].Trim()));
        }
        if (stanza.Package.Length == 0) throw new InvalidDataException("a control file names no package");
        return stanza;
    }

    /// <summary>The package's name.</summary>
    public string Package => this["Package"];

    /// <summary>The first line of a field; empty where there is none.</summary>
    public string this[string field] => _fields.FirstOrDefault(f => f.Name.Equals(field, StringComparison.OrdinalIgnoreCase)).Value ?? "";

    /// <summary>Names that a field of relations has (Depends, Provides), without versions and architectures; of alternatives each one.</summary>
    public IEnumerable<string> Names(string field) =>
        this[field].Split([',', '|'], StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries).Select(r => r.Split([' ', '(', ':'])[0]);

    /// <summary>What its files in dpkg's folder begin with (dpkg, lib/dpkg/db-fsys-infodb, format 1).</summary>
    public string InfoName => this["Multi-Arch"] == "same" ? $"{Package}:{this["Architecture"]}" : Package;

    /// <summary>The stanza for dpkg's status file, of a package whose files are there and whose scripts have not run.</summary>
    /// <param name="conffiles">Its configuration files with their MD5 sums.</param>
    public string Unpacked(IReadOnlyList<(string Path, string Md5)> conffiles)
    {
        string files = conffiles.Count == 0 ? "" : "\nConffiles:\n" + string.Join('\n', conffiles.Select(f => $" {f.Path} {f.Md5}"));
        // A field of the archive alone, as its own status would be.
        return $"{Text}\nStatus: install ok unpacked{files}\n\n";
    }
}
