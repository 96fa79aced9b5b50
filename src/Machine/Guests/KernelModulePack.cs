using System.IO.Compression;
using System.Text;

namespace Bunraku.Machine;

/// <summary>
/// Packs all modules of a kernel into one archive, with the lists that depmod would make: which modules each needs, and what else each is known by.
/// </summary>
/// <remarks>
/// modules.dep(5) and depmod(8) of kmod: a line "MODULE: NEEDED…", of which the last is loaded first; "alias PATTERN MODULE"; "softdep MODULE pre: …".
/// </remarks>
internal sealed class KernelModulePack : IDisposable
{
    public const string Dependencies = "modules.dep", Aliases = "modules.alias", SoftDependencies = "modules.softdep", BuiltIn = "modules.builtin",
        BuiltInInformation = "modules.builtin.modinfo";

    private readonly ZipArchive _archive;
    private readonly SortedDictionary<string, (string Path, string[] Needs)> _modules = new(StringComparer.Ordinal);
    private readonly StringBuilder _aliases = new(), _soft = new();
    private bool _isFinished;

    /// <param name="target">Where the archive goes; stays open.</param>
    public KernelModulePack(Stream target) => _archive = new ZipArchive(target, ZipArchiveMode.Create, leaveOpen: true);

    /// <summary>Takes one file of a kernel's folder below /lib/modules, where it is a module or a list of what is built in.</summary>
    /// <param name="path">From that folder on.</param>
    public void Add(string path, Stream content)
    {
        if (path is BuiltIn or BuiltInInformation)
        {
            using Stream list = _archive.CreateEntry(path).Open();
            content.CopyTo(list);
            return;
        }
        if (KernelModule.NameOf(path) is not { } name) return;
        byte[] module = KernelModule.Unpack(path, content);
        path = KernelModule.PlainPath(path);
        string[] needs = [];
        foreach ((string key, string value) in KernelModule.Information(module))
        {
            if (key == "depends") needs = [.. value.Split(',', StringSplitOptions.RemoveEmptyEntries).Select(KernelModule.PlainName)];
            else if (key == "alias") _aliases.Append("alias ").Append(value).Append(' ').Append(name).Append('\n');
            else if (key == "softdep") _soft.Append("softdep ").Append(name).Append(' ').Append(value).Append('\n');
        }
        if (!_modules.TryAdd(name, (path, needs))) return; // the first of two is the kernel's own, as modules.order would have it
        using Stream entry = _archive.CreateEntry(path, CompressionLevel.Fastest).Open();
        entry.Write(module);
    }

    /// <summary>Writes the lists, and ends the archive.</summary>
    public void Dispose()
    {
        if (_isFinished) return;
        _isFinished = true;
        var lines = new StringBuilder();
        foreach ((string path, string[] needs) in _modules.Values)
        {
            var order = new List<string>();
            foreach (string need in needs) Collect(need, order);
            order.Reverse();
            lines.Append(path).Append(':');
            foreach (string need in order) lines.Append(' ').Append(need);
            lines.Append('\n');
        }
        Write(Dependencies, lines);
        Write(Aliases, _aliases);
        Write(SoftDependencies, _soft);
        _archive.Dispose();
    }

    /// <summary>All that a module needs, in an order in which it can be loaded, and itself behind them.</summary>
    private void Collect(string name, List<string> order, int depth = 0)
    {
        // What is built in is in no file. Modules of a kernel cannot need each other in a circle; a damaged one is not to end us.
        if (depth > _modules.Count || !_modules.TryGetValue(name, out (string Path, string[] Needs) module) || order.Contains(module.Path)) return;
        foreach (string need in module.Needs) Collect(need, order, depth + 1);
        if (!order.Contains(module.Path)) order.Add(module.Path);
    }

    private void Write(string name, StringBuilder text)
    {
        using Stream entry = _archive.CreateEntry(name).Open();
        entry.Write(Encoding.UTF8.GetBytes(text.ToString()));
    }
}
