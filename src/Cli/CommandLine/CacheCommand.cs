using System.CommandLine;

namespace Bunraku.Cli.CommandLine;

/// <summary>What <c>bunraku cache</c> is asked for.</summary>
internal enum CacheRequest
{
    /// <summary>Say what is there.</summary>
    List,
    /// <summary>Forget the guests that are kept.</summary>
    CleanKept,
    /// <summary>And what was downloaded.</summary>
    CleanAll,
}

/// <summary><c>bunraku cache</c>: files that are kept between runs.</summary>
internal sealed class CacheCommand : Command
{
    private readonly Command _list = new("list", "Say what is kept, how large it is and when it was used");
    private readonly Command _clean = new("clean", "Forget the booted guests that are kept");
    private readonly Option<bool> _all = SingleValue.Flag("--all", "and what was downloaded, with the guest debian, which was made of it");

    public CacheCommand() : base("cache", "Show or forget what is kept between runs")
    {
        Subcommands.Add(_list);
        _clean.Options.Add(_all);
        Subcommands.Add(_clean);
    }

    public CacheRequest Read(ParseResult parsed) =>
        parsed.CommandResult.Command == _list ? CacheRequest.List : parsed.GetValue(_all) ? CacheRequest.CleanAll : CacheRequest.CleanKept;
}
