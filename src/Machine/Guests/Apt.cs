namespace Bunraku.Machine;

/// <summary>
/// The machine's apt, used without root. The system's own package lists serve when they are there; else, or when they are stale, lists of our own
/// are fetched into the cache with the system's sources and keys.
/// </summary>
internal sealed class Apt
{
    private readonly GuestCache _cache;
    private readonly Action<string>? _progress;
    private readonly string _purpose, _alternatives;
    private readonly string? _searchPath;
    private readonly CancellationToken _cancel;
    private bool _ownLists;

    private Apt(GuestCache cache, Action<string>? progress, string purpose, string alternatives, string? searchPath, CancellationToken cancel) =>
        (_cache, _progress, _purpose, _alternatives, _searchPath, _cancel) = (cache, progress, purpose, alternatives, searchPath, cancel);

    /// <param name="purpose">What needs a package, as the beginning of an error line.</param>
    /// <param name="alternatives">What the user can do without, as its end.</param>
    /// <param name="searchPath">Folders of the tools, colon-separated; null for PATH.</param>
    /// <exception cref="BootException">This machine has no apt or dpkg.</exception>
    public static Apt Open(GuestCache cache, Action<string>? progress, string purpose, string alternatives, string? searchPath, CancellationToken cancel)
    {
        foreach (string tool in (ReadOnlySpan<string>)["apt-get", "apt-cache", "dpkg-deb"])
            if (ToolRunner.Find(tool, searchPath) is null) throw new BootException($"{purpose}, and this machine has no {tool}; {alternatives}");
        return new(cache, progress, purpose, alternatives, searchPath, cancel);
    }

    /// <summary>
    /// The first of <paramref name="packages"/> that the lists know, followed to the package with <paramref name="prefix"/> that it depends on.
    /// </summary>
    public string ResolveDependency(string[] packages, string prefix)
    {
        while (true)
        {
            foreach (string package in packages)
            {
                ToolRunner.Result result = Run("apt-cache", null, ["depends", "--no-recommends", "--no-suggests", package]);
                foreach (string line in result.Output.Split('\n', StringSplitOptions.TrimEntries))
                    if (line.StartsWith("Depends: " + prefix, StringComparison.Ordinal)) return line["Depends: ".Length..];
            }
            UpdateOrFail($"the package lists know no {string.Join(" or ", packages)}");
        }
    }

    /// <summary>Checks that the lists know a package.</summary>
    public string Resolve(string package)
    {
        while (Size(package) is null) UpdateOrFail($"the package lists know no {package}");
        return package;
    }

    /// <summary>A package that need not be there: itself, or nothing.</summary>
    public IEnumerable<string> Optional(string package) => Size(package) is null ? [] : [package];

    /// <summary>Downloads a package's archive into a fresh folder of its own, which the caller deletes.</summary>
    public string Download(string package)
    {
        while (true)
        {
            string folder = _cache.Folder("download", Guid.NewGuid().ToString("n"));
            bool complete = false;
            try
            {
                _progress?.Invoke(Size(package) is { } size ? $"downloading {package} ({(size + 999_999) / 1_000_000} MB)" : $"downloading {package}");
                ToolRunner.Result result = Run("apt-get", folder, ["-q", "download", package]);
                if (result.Status == 0 && Directory.GetFiles(folder, "*.deb") is [string archive])
                {
                    complete = true;
                    return archive;
                }
                // Lists that are older than the archive name files that are gone.
                UpdateOrFail($"{package} cannot be downloaded", result.Cause);
            }
            finally
            {
                if (!complete) Directory.Delete(folder, recursive: true);
            }
        }
    }

    /// <summary>
    /// Downloads packages and all that they depend on, for a system that has none yet. Essential packages come with them.
    /// </summary>
    /// <param name="packages">Names; those in <paramref name="optional"/> are left out where the lists do not know them.</param>
    /// <param name="folder">Inside the cache: the archives come into it.</param>
    /// <returns>Paths of the archives, by their names.</returns>
    public IReadOnlyList<string> DownloadSystem(IReadOnlyList<string> packages, IReadOnlyList<string> optional, string folder)
    {
        Directory.CreateDirectory(Path.Combine(folder, "archives", "partial"));
        string status = Path.Combine(folder, "status");
        File.WriteAllText(status, "");
        while (true)
        {
            string[] arguments =
            [
                "-q", "-y", "--no-install-recommends", "-o", "Dir::State::status=" + status, "-o", "Dir::State::extended_states=" + status + ".extended",
                "-o", "Dir::Cache::archives=" + Path.Combine(folder, "archives"), "-o", "Debug::NoLocking=1", "-o", "APT::Architectures=amd64",
                "-o", "APT::Install-Suggests=0", "-o", "Dpkg::Use-Pty=0", "install", "?essential", .. packages, .. optional.SelectMany(Optional)
            ];
            // What it would fetch: 'ADDRESS' NAME SIZE CHECKSUM, a line each.
            ToolRunner.Result plan = Run("apt-get", folder, ["--print-uris", .. arguments]);
            string[][] lines = [.. plan.Output.Split('\n').Where(l => l.StartsWith('\'')).Select(l => l.Split(' '))];
            if (plan.Status == 0 && lines.Length > 0)
            {
                long bytes = lines.Sum(l => l.Length > 2 && long.TryParse(l[2], out long size) ? size : 0);
                _progress?.Invoke($"downloading {lines.Length} packages ({(bytes + 999_999) / 1_000_000} MB)");
                ToolRunner.Result result = Run("apt-get", folder, ["--download-only", .. arguments]);
                string[] archives = [.. Directory.GetFiles(Path.Combine(folder, "archives"), "*.deb").Order(StringComparer.Ordinal)];
                if (result.Status == 0 && archives.Length >= lines.Length) return archives;
                UpdateOrFail("its packages cannot be downloaded", result.Cause);
            }
            else
            {
                UpdateOrFail("its packages cannot be chosen", plan.Status == 0 ? "the package lists are empty" : plan.Cause);
            }
        }
    }

    /// <summary>
    /// Where the distribution's packages come from, as lines of sources.list(5): without others' packages, without what only this machine can reach, and
    /// without passwords.
    /// </summary>
    public IReadOnlyList<string> Sources()
    {
        const string format = "$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)";
        string[][] targets = [.. Run("apt-get", null, ["indextargets", "--format", format, "Created-By: Packages"]).Output
            .Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(l => l.Split(' ', 4)).Where(t => t.Length == 4)];
        var lines = new List<string>();
        foreach (var source in targets.Where(t => t[3] is "Debian" or "Ubuntu").GroupBy(t => (Uri: t[0], Release: t[1])))
        {
            if (!Uri.TryCreate(source.Key.Uri, UriKind.Absolute, out Uri? uri) || uri.Scheme is not ("http" or "https")) continue;
            string address = uri.GetComponents(UriComponents.AbsoluteUri & ~UriComponents.UserInfo, UriFormat.UriEscaped);
            lines.Add($"deb {address} {source.Key.Release} {string.Join(' ', source.Select(t => t[2]).Distinct())}");
        }
        return lines;
    }

    private long? Size(string package)
    {
        ToolRunner.Result result = Run("apt-cache", null, ["show", "--no-all-versions", package]);
        string? line = result.Output.Split('\n').FirstOrDefault(l => l.StartsWith("Size: ", StringComparison.Ordinal));
        return line is not null && long.TryParse(line.AsSpan(6), out long size) ? size : null;
    }

    /// <summary>Gets lists of our own, once; when there are some already the failure stands.</summary>
    private void UpdateOrFail(string failure, string? cause = null)
    {
        if (_ownLists) throw Failure(failure, cause);
        _ownLists = true;
        _cache.Folder("apt", "lists", "partial");
        _cache.Folder("apt", "archives", "partial");
        _progress?.Invoke("reading the package lists (apt-get update)");
        ToolRunner.Result result = Run("apt-get", null, ["-q", "-o", "APT::Update::Error-Mode=any", "update"]);
        if (result.Status != 0) throw Failure(failure, $"{cause ?? result.Cause} (is there a network?)");
    }

    private BootException Failure(string failure, string? cause) => new($"{_purpose}, but {failure}{(cause is null ? "" : ": " + cause)}; {_alternatives}");

    private ToolRunner.Result Run(string tool, string? folder, string[] arguments) =>
        ToolRunner.Run(ToolRunner.Find(tool, _searchPath) ?? tool, [.. Options(), .. arguments], folder, _cancel);

    /// <summary>
    /// Without retries of apt's own, whose pauses add up to a quarter of a minute where there is no network: a download that fails is tried again behind an
    /// update as it is.
    /// </summary>
    private static readonly string[] s_common =
        ["-o", "APT::Sandbox::User=", "-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=10", "-o", "Acquire::https::Timeout=10"];

    private IEnumerable<string> Options() => _ownLists
        ? ["-o", $"Dir::State::Lists={Path.Combine(_cache.Root, "apt", "lists")}", "-o", $"Dir::Cache={Path.Combine(_cache.Root, "apt")}", .. s_common]
        : s_common;
}
