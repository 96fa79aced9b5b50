namespace Bunraku.Cli.CommandLine;

/// <summary>What stands behind <c>--balloon</c>.</summary>
/// <param name="Balloon">Null: off.</param>
internal sealed record BalloonArgument(VmBalloon? Balloon)
{
    /// <exception cref="UsageException">It is no description of a balloon.</exception>
    public static BalloonArgument Parse(string text)
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
