namespace Bunraku.Sessions.Monitoring;

/// <summary>The commands that a monitor has, and how typed words find them: each word may be shortened as long as it means one thing. Thread-safe.</summary>
public sealed class MonitorCommands
{
    private readonly Lock _lock = new();
    private volatile MonitorCommand[] _all; // replaced, never changed

    /// <summary>A registry with some commands.</summary>
    /// <param name="commands">In the order in which the help shows them.</param>
    /// <exception cref="ArgumentException">Two of them are typed alike.</exception>
    public MonitorCommands(IEnumerable<MonitorCommand> commands)
    {
        _all = [];
        foreach (MonitorCommand command in commands) Add(command);
    }

    /// <summary>All commands, in the order in which they were added.</summary>
    public IReadOnlyList<MonitorCommand> All => _all;

    /// <summary>Adds a command behind the others.</summary>
    /// <param name="command">Its name has one or two words; no other command is typed like it.</param>
    /// <exception cref="ArgumentException">There is one already that is typed alike, or the name has another number of words.</exception>
    public void Add(MonitorCommand command)
    {
        if (command.Words.Count is not (1 or 2) || command.Words.Any(w => w.Length == 0))
            throw new ArgumentException($"'{command.Name}' is no name for a command: it has one word, or two", nameof(command));
        lock (_lock)
        {
            if (_all.FirstOrDefault(c => Clash(c, command)) is { } other)
                throw new ArgumentException($"the command '{command.Name}' is typed like '{other.Name}'", nameof(command));
            _all = [.. _all, command];
        }
    }

    /// <summary>A command of one word leaves no room for others that begin with it.</summary>
    private static bool Clash(MonitorCommand a, MonitorCommand b) =>
        a.Name == b.Name || (a.Words[0] == b.Words[0] && (a.Words.Count == 1 || b.Words.Count == 1))
        || (a.Alias is { } alias && (alias == b.Alias || alias == b.Words[0])) || (b.Alias is { } other && other == a.Words[0]);

    /// <summary>The command that the words begin with, and its arguments.</summary>
    /// <param name="words">At least one.</param>
    /// <exception cref="MonitorException">There is none, or several, or the arguments are too many or too few.</exception>
    public (MonitorCommand Command, IReadOnlyList<string> Arguments) Resolve(IReadOnlyList<string> words)
    {
        MonitorCommand[] group = Group(words[0]);
        if (group is [{ Words.Count: 1 } single]) return Checked(single, [.. words.Skip(1)]);
        string first = group[0].Words[0];
        if (words.Count == 1) throw new MonitorException($"{first} what? {string.Join(", ", group.Select(c => c.Name))}");
        string second = Match($"{first} ", words[1], [.. group.Select(c => c.Words[1])]);
        return Checked(group.First(c => c.Words[1] == second), [.. words.Skip(2)]);
    }

    /// <summary>What the last of the words can be completed to, the words before it being whole or shortened.</summary>
    /// <param name="context">For the values of arguments.</param>
    /// <param name="words">At least one; the last may be empty.</param>
    public IReadOnlyList<string> Complete(MonitorContext context, IReadOnlyList<string> words)
    {
        string begun = words[^1];
        IEnumerable<string> candidates;
        try
        {
            if (words.Count == 1) candidates = All.Select(c => c.Words[0]);
            else if (Group(words[0]) is var group && group is [{ Words.Count: 1 } single]) candidates = Values(single, words.Count - 2);
            else if (words.Count == 2) candidates = group.Select(c => c.Words[1]);
            else candidates = Values(Resolve([.. words.Take(2)]).Command, words.Count - 3);
        }
        catch (MonitorException)
        {
            return [];
        }
        return [.. candidates.Where(c => c.StartsWith(begun, StringComparison.Ordinal)).Distinct().Order(StringComparer.Ordinal)];

        IEnumerable<string> Values(MonitorCommand command, int argument) => argument < command.MostArguments ? command.Complete(context, argument) : [];
    }

    /// <summary>The commands whose first word the typed one means.</summary>
    private MonitorCommand[] Group(string word)
    {
        if (All.FirstOrDefault(c => c.Alias == word) is { } alias) return [alias];
        string first = Match("", word, [.. All.Select(c => c.Words[0]).Distinct()]);
        return [.. All.Where(c => c.Words[0] == first)];
    }

    /// <param name="before">What stands before the word, with a blank.</param>
    private static string Match(string before, string typed, string[] names)
    {
        if (names.Contains(typed)) return typed;
        string[] begun = [.. names.Where(n => n.StartsWith(typed, StringComparison.Ordinal))];
        if (begun.Length == 1) return begun[0];
        if (begun.Length > 1) throw new MonitorException($"'{before}{typed}' may be {string.Join(" or ", begun.Select(n => before + n))}");
        string advice = Nearest.Find(typed, names) is { } near ? $"did you mean '{before}{near}'?" : "'help' lists the commands";
        throw new MonitorException($"unknown command '{before}{typed}'; {advice}");
    }

    private static (MonitorCommand, IReadOnlyList<string>) Checked(MonitorCommand command, string[] arguments) =>
        arguments.Length > command.MostArguments ? throw new MonitorException($"unexpected '{arguments[command.MostArguments]}'; usage: {command.Usage}")
        : arguments.Length < command.FewestArguments ? throw new MonitorException($"an argument is missing; usage: {command.Usage}")
        : (command, arguments);
}
