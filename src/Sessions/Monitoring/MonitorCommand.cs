namespace Bunraku.Sessions.Monitoring;

/// <summary>One command of the monitor. Its functions are called on the monitor's thread.</summary>
/// <param name="Name">One word, or two with a space between them.</param>
/// <param name="Arguments">Names of the arguments as the help shows them, separated by spaces, optional ones in brackets; empty for none.</param>
/// <param name="Help">What it does, in a few words.</param>
/// <param name="Run">
/// Carries it out, with the arguments as they were typed, and returns what is to be shown: lines that end with a line end, or nothing. An exception is shown as
/// its message.
/// </param>
public sealed record MonitorCommand(string Name, string Arguments, string Help, Func<MonitorContext, IReadOnlyList<string>, string> Run)
{
    /// <summary>Another word for it.</summary>
    public string? Alias { get; init; }

    /// <summary>Values that an argument can have, by its number from 0; for completion.</summary>
    public Func<MonitorContext, int, IEnumerable<string>> Complete { get; init; } = (_, _) => [];

    /// <summary>The words of the name.</summary>
    public IReadOnlyList<string> Words { get; } = Name.Split(' ');

    /// <summary>How many arguments it takes at most.</summary>
    public int MostArguments { get; } = Names(Arguments).Length;

    /// <summary>How many arguments it needs.</summary>
    public int FewestArguments { get; } = Names(Arguments).Count(a => !a.StartsWith('['));

    /// <summary>How it is typed.</summary>
    public string Usage => Arguments.Length > 0 ? $"{Name} {Arguments}" : Name;

    private static string[] Names(string arguments) => arguments.Split(' ', StringSplitOptions.RemoveEmptyEntries);
}

/// <summary>What a command of the monitor works on.</summary>
/// <param name="Vm">The VM.</param>
/// <param name="Commands">The commands that there are.</param>
/// <param name="Width">Characters of a line, for text that is laid out.</param>
/// <param name="WayBack">The keys that lead from the monitor to the guest; null where there are none.</param>
public sealed record MonitorContext(Vm Vm, MonitorCommands Commands, int Width, string? WayBack);

/// <summary>A line typed into the monitor means nothing.</summary>
/// <param name="message">One line.</param>
public sealed class MonitorException(string message) : SessionException(message);
