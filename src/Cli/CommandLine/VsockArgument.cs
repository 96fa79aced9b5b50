using System.Globalization;

namespace Bunraku.Cli.CommandLine;

/// <summary>What stands behind <c>--vsock</c> and <c>--balloon</c>.</summary>
internal static class VsockArgument
{
    /// <exception cref="UsageException">It is no description of a socket device.</exception>
    public static VmVsock ParseVsock(string text)
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

    /// <exception cref="UsageException">It is no description of a balloon.</exception>
    public static BalloonArgument ParseBalloon(string text)
    {
        (string first, IReadOnlyList<(string, string)> words) = WordList.Parse(text);
        if (first is not ("on" or "off")) throw new UsageException(Nearest.Message("value of --balloon", first, ["on", "off"]));
        var balloon = new VmBalloon();
        foreach ((string name, string value) in words)
        {
            balloon = name switch
            {
                "deflate-on-oom" => balloon with { DeflateOnOom = Quantities.IsOn("--balloon", name, value) },
                "reporting" => balloon with { Reporting = Quantities.IsOn("--balloon", name, value) },
                _ => throw new UsageException(Nearest.Message("word behind --balloon", name, ["deflate-on-oom", "reporting"])),
            };
        }
        return new BalloonArgument(first == "on" ? balloon : null);
    }
}

/// <summary>A value of <c>--balloon</c>.</summary>
/// <param name="Balloon">Null: off.</param>
internal sealed record BalloonArgument(VmBalloon? Balloon);
