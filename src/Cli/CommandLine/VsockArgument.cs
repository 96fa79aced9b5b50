using System.Globalization;

namespace Bunraku.Cli.CommandLine;

/// <summary>What stands behind <c>--vsock</c>.</summary>
internal static class VsockArgument
{
    /// <exception cref="UsageException">It is no description of a socket device.</exception>
    public static VmVsock Parse(string text)
    {
        (string path, IReadOnlyList<(string, string)> words) = WordList.Parse(text);
        if (path.Length == 0) throw new UsageException("--vsock needs the path of a socket");
        var vsock = new VmVsock(path);
        foreach ((string name, string value) in words)
        {
            vsock = name != "cid" ? throw new UsageException(Nearest.Message("word behind --vsock", name, ["cid"]))
                : uint.TryParse(value, NumberStyles.None, CultureInfo.InvariantCulture, out uint cid) ? vsock with { Cid = cid }
                : throw new UsageException($"--vsock: '{value}' is no context ID; it is a number from 3 on");
        }
        return vsock;
    }
}
