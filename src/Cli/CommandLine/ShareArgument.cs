using Bunraku.Machine.Virtio.Files;

namespace Bunraku.Cli.CommandLine;

/// <summary>What stands behind <c>--share</c>: a folder, and words about it.</summary>
internal static class ShareArgument
{
    private static readonly string[] s_names = ["ro", "at", "tag", "ids", "cache", "type"];

    /// <exception cref="UsageException">It is no description of a shared folder.</exception>
    public static VmShare Parse(string text)
    {
        (string folder, IReadOnlyList<(string, string)> words) = WordList.Parse(text);
        if (folder.StartsWith("src=", StringComparison.Ordinal)) folder = folder["src=".Length..];
        if (folder.Length == 0) throw new UsageException("--share needs a folder");
        var share = new VmShare(folder);
        foreach ((string name, string value) in words)
        {
            share = name switch
            {
                "ro" => share with { ReadOnly = Quantities.IsOn("--share", name, value) },
                "at" => share with { At = value },
                "tag" => share with { Tag = value },
                "ids" => share with { Owners = Owners(value) },
                "type" => share with { Kind = Kind(value) },
                "cache" => share with { Cache = Cache(value) },
                _ => throw new UsageException(Nearest.Message("word behind --share", name, s_names)),
            };
        }
        return share;
    }

    private static ShareKind Kind(string value) => value switch
    {
        "virtiofs" => ShareKind.VirtioFs,
        "9p" => ShareKind.NineP,
        _ => throw new UsageException(Nearest.Message("type of shared folder", value, ["virtiofs", "9p"])),
    };

    private static FileOwners Owners(string value) => value switch
    {
        "map" => FileOwners.Mapped,
        "host" => FileOwners.Host,
        _ => throw new UsageException(Nearest.Message("kind of ids", value, ["map", "host"])),
    };

    private static FileCache Cache(string value) => value switch
    {
        "auto" => FileCache.Auto,
        "always" => FileCache.Always,
        "none" => FileCache.None,
        _ => throw new UsageException(Nearest.Message("kind of cache", value, ["auto", "always", "none"])),
    };
}
