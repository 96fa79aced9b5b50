using System.IO.Compression;

namespace Bunraku.Machine;

/// <summary>
/// The modules of one kernel: which are to be loaded for a name, and their files. From our archive in the cache, or from the folder that is installed.
/// One thread at a time.
/// </summary>
/// <remarks>Names as modprobe(8) takes them: of a module, where '-' and '_' are the same, or what it is known by, as "fs-ext4" or "pci:v00008086d…".</remarks>
public sealed class KernelModules : IDisposable
{
    /// <summary>Under which the cache has the archive of a kernel.</summary>
    internal static string CacheName(string version) => "modules-" + version;

    internal const string ArchiveName = "modules.zip";

    private readonly string? _folder;
    private readonly ZipArchive? _archive;
    private readonly Dictionary<string, (string Path, string[] Needs)> _modules = [];
    private readonly List<(string Pattern, string Module)> _aliases = [];
    private readonly Dictionary<string, string[]> _soft = [];
    private readonly HashSet<string> _builtIn = [];
    private readonly List<string> _builtInAliases = [];

    private KernelModules(string? folder, ZipArchive? archive)
    {
        (_folder, _archive) = (folder, archive);
        foreach (string line in Lines(KernelModulePack.Dependencies))
        {
            if (line.Split(':', 2) is not [var path, var needs] || KernelModule.NameOf(path) is not { } name) continue;
            string[] order = needs.Split(' ', StringSplitOptions.RemoveEmptyEntries);
            Array.Reverse(order);
            _modules.TryAdd(name, (path, [.. order.Select(KernelModule.NameOf).OfType<string>()]));
        }
        foreach (string line in Lines(KernelModulePack.Aliases))
        {
            if (line.Split(' ') is ["alias", var pattern, var module]) _aliases.Add((KernelModule.PlainName(pattern), KernelModule.PlainName(module)));
        }
        foreach (string line in Lines(KernelModulePack.SoftDependencies))
        {
            // Only what comes before: what is to come behind is for the convenience of some, and nobody waits for it.
            if (line.Split(' ', StringSplitOptions.RemoveEmptyEntries) is not ["softdep", var module, .. var words]) continue;
            string[] first = [.. words.SkipWhile(w => w != "pre:").Skip(1).TakeWhile(w => w != "post:").Select(KernelModule.PlainName)];
            // A module may have several such lines.
            string name = KernelModule.PlainName(module);
            _soft[name] = [.. _soft.GetValueOrDefault(name, []), .. first];
        }
        foreach (string line in Lines(KernelModulePack.BuiltIn))
        {
            if (KernelModule.NameOf(line) is { } name) _builtIn.Add(name);
        }
        using Stream? information = OpenFile(KernelModulePack.BuiltInInformation);
        if (information is null) return;
        using var bytes = new MemoryStream();
        information.CopyTo(bytes);
        // Here each key has the name of its module before it: "ext4.alias=fs-ext4".
        foreach ((string key, string value) in KernelModule.Strings(bytes.ToArray()))
            if (key.EndsWith(".alias", StringComparison.Ordinal)) _builtInAliases.Add(KernelModule.PlainName(value));
    }

    /// <summary>Opens the modules of a kernel. Null: this machine has none.</summary>
    /// <param name="version">As uname(1) prints it, from wherever: it is checked before it names a file.</param>
    /// <param name="root">Of the file system whose installed modules may serve.</param>
    public static KernelModules? Open(GuestCache cache, string version, string root = "/")
    {
        if (version.Length is 0 or > 64 || version[0] == '.') return null;
        if (!version.All(c => char.IsAsciiLetterOrDigit(c) || c is '.' or '-' or '_' or '+' or '~')) return null;
        string archive = Path.Combine(cache.Root, CacheName(version), ArchiveName), installed = Path.Combine(root, "lib/modules", version);
        try
        {
            if (File.Exists(archive)) return new KernelModules(null, ZipFile.OpenRead(archive));
            return File.Exists(Path.Combine(installed, KernelModulePack.Dependencies)) ? new KernelModules(installed, null) : null;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or InvalidDataException)
        {
            return null; // as good as none, for a guest
        }
    }

    /// <summary>Names of all of them, in order.</summary>
    public IReadOnlyList<string> Names => [.. _modules.Keys.Order(StringComparer.Ordinal)];

    /// <summary>
    /// The modules that a name means with all that they need, in an order in which they can be loaded; empty where it is built in. Null: no module has it.
    /// </summary>
    public IReadOnlyList<string>? Resolve(string name)
    {
        var order = new List<string>();
        return Add(KernelModule.PlainName(name), order, []) ? order : null;
    }

    private bool Add(string name, List<string> order, HashSet<string> asked)
    {
        if (!asked.Add(name)) return true;
        if (_modules.TryGetValue(name, out (string Path, string[] Needs) module))
        {
            // What a module would rather have before it is not needed: where there is none, it does without.
            foreach (string one in (IEnumerable<string>)[.. module.Needs, name])
            {
                foreach (string before in _soft.GetValueOrDefault(one, [])) Add(before, order, asked);
                if (!order.Contains(one)) order.Add(one);
            }
            return true;
        }
        if (_builtIn.Contains(name) || _builtInAliases.Any(alias => Matches(alias, name))) return true;
        bool found = false;
        foreach ((string pattern, string known) in _aliases)
        {
            if (Matches(pattern, name) && known != name) found |= Add(known, order, asked);
        }
        return found;
    }

    /// <summary>A module as Linux takes it; null: there is none of that name, which is no alias here.</summary>
    /// <exception cref="InvalidDataException">Its file is damaged.</exception>
    public byte[]? Read(string name)
    {
        if (!_modules.TryGetValue(KernelModule.PlainName(name), out (string Path, string[] Needs) module)) return null;
        using Stream? file = OpenFile(module.Path);
        return file is null ? null : KernelModule.Unpack(module.Path, file);
    }

    /// <summary>What a module says of itself, a line "KEY=VALUE" for each; its file comes first. Null: there is none of that name.</summary>
    /// <exception cref="InvalidDataException">Its file is damaged.</exception>
    public string? Describe(string name)
    {
        if (Read(name) is not { } module) return null;
        IEnumerable<(string Key, string Value)> lines = [("filename", _modules[KernelModule.PlainName(name)].Path), .. KernelModule.Information(module)];
        return string.Concat(lines.Select(l => $"{l.Key}={l.Value.ReplaceLineEndings(" ")}\n"));
    }

    /// <inheritdoc/>
    public void Dispose() => _archive?.Dispose();

    private Stream? OpenFile(string path)
    {
        if (_archive is not null) return _archive.GetEntry(path)?.Open();
        string file = Path.Combine(_folder!, path);
        return File.Exists(file) ? File.OpenRead(file) : null;
    }

    private IEnumerable<string> Lines(string list)
    {
        using Stream? stream = OpenFile(list);
        if (stream is null) yield break;
        using var reader = new StreamReader(stream);
        while (reader.ReadLine() is { } line) yield return line;
    }

    /// <summary>As fnmatch(3) without flags: '*', '?' and ranges.</summary>
    internal static bool Matches(ReadOnlySpan<char> pattern, ReadOnlySpan<char> text)
    {
        // After a failure only the last '*' can take more: the time is that of both lengths multiplied.
        int p = 0, t = 0, star = -1, taken = 0;
        while (t < text.Length)
        {
            if (p < pattern.Length && pattern[p] == '*') (star, taken) = (p++, t);
            else if (p < pattern.Length && MatchesOne(pattern[p..], text[t], out int length)) (p, t) = (p + length, t + 1);
            else if (star >= 0) (p, t) = (star + 1, ++taken);
            else return false;
        }
        while (p < pattern.Length && pattern[p] == '*') p++;
        return p == pattern.Length;
    }

    private static bool MatchesOne(ReadOnlySpan<char> pattern, char c, out int length)
    {
        length = 1;
        if (pattern[0] == '?') return true;
        int end = pattern[0] == '[' ? pattern[1..].IndexOf(']') : -1;
        if (end < 0) return pattern[0] == c;
        ReadOnlySpan<char> range = pattern.Slice(1, end);
        length = end + 2;
        bool negated = range.Length > 0 && range[0] is '!' or '^', found = false;
        if (negated) range = range[1..];
        for (int n = 0; n < range.Length; n++)
        {
            bool spans = n + 2 < range.Length && range[n + 1] == '-';
            found |= spans ? c >= range[n] && c <= range[n + 2] : c == range[n];
            if (spans) n += 2;
        }
        return found != negated;
    }
}
