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
    /// <summary>Get what guests are made of.</summary>
    Fetch,
}

/// <summary><c>bunraku cache</c>: files that are kept between runs.</summary>
internal sealed class CacheCommand : Command
{
    private readonly Command _list = new("list", "Say what is kept, how large it is and when it was used");
    private readonly Command _clean = new("clean", "Forget the booted guests that are kept");
    private readonly Option<bool> _all = SingleValue.Flag("--all", "and what was downloaded, with the guest debian, which was made of it");

    private readonly Command _fetch = new("fetch", "Get what the guests are made of, for work without a network");
    private readonly Argument<string[]> _guests = new("GUEST")
    {
        Arity = ArgumentArity.ZeroOrMore,
        Description = "linux, linux-generic, debian or debian-generic (default linux)",
    };

    public CacheCommand() : base("cache", "Show, fetch or forget what is kept between runs")
    {
        _guests.CompletionSources.Add([.. GuestImage.Names]);
        _fetch.Arguments.Add(_guests);
        Subcommands.Add(_fetch);
        Subcommands.Add(_list);
        _clean.Options.Add(_all);
        Subcommands.Add(_clean);
    }

    /// <summary>What is to be fetched.</summary>
    public IReadOnlyList<string> Guests(ParseResult parsed) => parsed.GetValue(_guests) is { Length: > 0 } guests ? guests : [GuestImage.Names[0]];

    public CacheRequest Read(ParseResult parsed) =>
        parsed.CommandResult.Command == _list ? CacheRequest.List : parsed.CommandResult.Command == _fetch ? CacheRequest.Fetch : parsed.GetValue(_all)
            ? CacheRequest.CleanAll : CacheRequest.CleanKept;
}
