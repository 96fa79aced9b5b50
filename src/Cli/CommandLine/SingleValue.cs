using System.CommandLine;

namespace Bunraku.Cli.CommandLine;

/// <summary>Options with one value. Given again, the last one wins, so that a script's defaults can be overridden behind them.</summary>
internal static class SingleValue
{
    /// <summary>No command line is longer.</summary>
    private const int MostTimes = 100_000;

    public static Option<string?> Text(string name, string value, string description, params string[] known) =>
        Parsed<string?>(name, value, description, t => t, known);

    /// <param name="value">What stands for the value in the help.</param>
    /// <param name="parse">Throws <see cref="UsageException"/>.</param>
    /// <param name="known">Values that a shell may complete.</param>
    public static Option<T?> Parsed<T>(string name, string value, string description, Func<string, T?> parse, params string[] known)
    {
        var option = new Option<T?>(name)
        {
            HelpName = value,
            Description = description,
            Arity = new ArgumentArity(1, MostTimes),
            AllowMultipleArgumentsPerToken = false,
            CustomParser = result =>
            {
                try
                {
                    return parse(result.Tokens[^1].Value);
                }
                catch (UsageException e)
                {
                    result.AddError(e.Message);
                    return default;
                }
            },
        };
        option.CompletionSources.Add(known);
        return option;
    }

    /// <summary>An option without a value.</summary>
    public static Option<bool> Flag(string name, string description) => new(name) { Description = description, Arity = ArgumentArity.Zero };
}
