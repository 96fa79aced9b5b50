namespace Bunraku.Machine;

/// <summary>The folder where files from packages are kept between runs. Several processes may use it at once: files appear whole or not at all.</summary>
/// <remarks>XDG Base Directory Specification: $XDG_CACHE_HOME, else $HOME/.cache.</remarks>
public sealed class GuestCache
{
    private const int WouldBlock = 11; // errno EAGAIN, which an IOException of the runtime carries
    private const int PollMilliseconds = 50;

    /// <param name="root">The folder; null for the user's own. Created when something is stored.</param>
    /// <exception cref="BootException">Neither XDG_CACHE_HOME nor HOME names a folder.</exception>
    public GuestCache(string? root = null)
    {
        Root = root ?? Path.Combine(Absolute("XDG_CACHE_HOME") ?? (Absolute("HOME") is { } home ? Path.Combine(home, ".cache") : null)
            ?? throw new BootException("no cache folder: neither XDG_CACHE_HOME nor HOME is set to a full path"), "bunraku");
    }

    /// <summary>Full path of the folder.</summary>
    public string Root { get; }

    /// <summary>The files kept under <paramref name="name"/>, in no order.</summary>
    public IReadOnlyList<string> Files(string name)
    {
        string folder = Path.Combine(Root, name);
        return Directory.Exists(folder) ? [.. Directory.EnumerateFiles(folder).Where(f => !Path.GetFileName(f).StartsWith('.'))] : [];
    }

    /// <summary>There is a folder for <paramref name="name"/>, be it empty.</summary>
    public bool Has(string name) => Directory.Exists(Path.Combine(Root, name));

    /// <summary>Creates a file in a folder inside the cache that is not finished yet; the folder is created.</summary>
    internal FileStream Create(string path) => Guard(() =>
    {
        Directory.CreateDirectory(Path.GetDirectoryName(path)!);
        return File.Create(path);
    });

    /// <summary>Writes a file into a folder inside the cache that is not finished yet; the folder is created.</summary>
    internal void Write(string path, Stream content) => Guard(() =>
    {
        Directory.CreateDirectory(Path.GetDirectoryName(path)!);
        using FileStream file = File.Create(path);
        content.CopyTo(file);
        return path;
    });

    /// <summary>Keeps the files of a finished folder inside the cache under <paramref name="name"/>, in place of what was there.</summary>
    internal void Store(string name, string folder) => Guard(() =>
    {
        string kept = Path.Combine(Root, name);
        if (Directory.Exists(kept)) Directory.Delete(kept, recursive: true);
        Directory.Move(folder, kept);
        return kept;
    });

    /// <summary>Creates a folder inside the cache.</summary>
    public string Folder(params string[] names) => Guard(() => Directory.CreateDirectory(Path.Combine([Root, .. names])).FullName);

    /// <summary>Waits until no other user of the cache, in this process or another, holds it, and holds it until disposal.</summary>
    /// <param name="waits">Called once when there is another.</param>
    /// <param name="part">What of the cache; null: what packages are stored in.</param>
    public IDisposable Hold(Action? waits = null, CancellationToken cancel = default, string? part = null)
    {
        // The file stays: whoever removed it would let two hold the cache by different files.
        string path = Path.Combine(Folder(), part is null ? ".lock" : $".lock-{part}");
        for (bool told = false; ; cancel.ThrowIfCancellationRequested())
        {
            if (Guard(() => TryHold(path)) is { } held) return held;
            if (!told) waits?.Invoke();
            told = true;
            Thread.Sleep(PollMilliseconds);
        }
    }

    /// <summary>The runtime locks a file that is not to be shared by flock(2).</summary>
    private static FileStream? TryHold(string path)
    {
        try
        {
            return new FileStream(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
        }
        catch (IOException e) when (e.HResult == WouldBlock)
        {
            return null;
        }
    }

    private T Guard<T>(Func<T> write)
    {
        try
        {
            return write();
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new BootException($"the cache folder {Root} cannot be written ({e.Message.ReplaceLineEndings(" ")}); set XDG_CACHE_HOME to a folder that can",
                e);
        }
    }

    // The XDG specification: relative paths are invalid and ignored.
    private static string? Absolute(string variable) => Environment.GetEnvironmentVariable(variable) is { } value && Path.IsPathRooted(value) ? value : null;
}
