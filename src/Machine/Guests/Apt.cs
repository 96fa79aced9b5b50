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
