namespace Bunraku.Sessions.Monitoring;

/// <summary>One command of the monitor. For the monitor's thread.</summary>
/// <param name="Name">One word, or two with a space between them.</param>
/// <param name="Arguments">Names of the arguments as the help shows them, optional ones in brackets; empty for none.</param>
/// <param name="Help">What it does, in a few words.</param>
/// <param name="Run">Carries it out and returns what is to be shown, ending with a line end, or nothing. A <see cref="SessionException"/> is shown as its message.</param>
public sealed record MonitorCommand(string Name, string Arguments, string Help, Func<MonitorContext, IReadOnlyList<string>, string> Run)
{
    /// <summary>Another word for it.</summary>
    public string? Alias { get; init; }

    /// <summary>Values that an argument can have, by its number from 0; for completion.</summary>
    public Func<MonitorContext, int, IEnumerable<string>> Complete { get; init; } = (_, _) => [];

    public IReadOnlyList<string> Words { get; } = Name.Split(' ');

    public int MostArguments { get; } = Names(Arguments).Length;

    public int FewestArguments { get; } = Names(Arguments).Count(a => !a.StartsWith('['));

    /// <summary>How it is typed.</summary>
    public string Usage => Arguments.Length > 0 ? $"{Name} {Arguments}" : Name;

    private static string[] Names(string arguments) => arguments.Split(' ', StringSplitOptions.RemoveEmptyEntries);
}

/// <summary>What a command of the monitor works on.</summary>
/// <param name="Width">Characters of a line, for text that is laid out.</param>
public sealed record MonitorContext(RunSession Session, MonitorCommands Commands, int Width);

/// <summary>A line typed into the monitor means nothing.</summary>
public sealed class MonitorException(string message) : SessionException(message);
