using System.CommandLine;
using System.Globalization;
using Bunraku.Sessions.Control;
using Bunraku.Sessions.Migration;
using Bunraku.Sessions.Screens;

namespace Bunraku.Cli.CommandLine;

/// <summary>What a command asks of VMs that run.</summary>
internal abstract record ControlRequests
{
    internal sealed record List : ControlRequests;

    /// <param name="Wait">How long the guest has to shut down before it is ended.</param>
    internal sealed record Stop(string Name, TimeSpan Wait) : ControlRequests;

    internal sealed record Attach(string Name) : ControlRequests;

    /// <param name="Follow">What comes from now on, too.</param>
    internal sealed record Logs(string Name, bool Follow) : ControlRequests;

    internal sealed record Kill(string Name) : ControlRequests;

    internal sealed record Monitor(string Name, string Line) : ControlRequests;

    internal sealed record Migrate(string Name, MigrationAddress To) : ControlRequests;

    /// <param name="Copies">Their names.</param>
    /// <param name="Serial">
    /// Where the console of each goes; in a path, <see cref="ControlCommands.NameMark"/> stands for its name. Null: to who attaches, and to a log.
    /// </param>
    internal sealed record Fork(string Name, IReadOnlyList<string> Copies, string? Engine, MemoryBacking Backing, SerialTarget? Serial) : ControlRequests;

    /// <exception cref="UsageException">No VM can have that name.</exception>
    public static string ParseName(string text) => ControlFolder.IsName(text) ? text
        : throw new UsageException(ControlFolder.NoName(text));
}

/// <summary>
/// The commands for VMs that run: <c>bunraku ps</c>, <c>attach</c>, <c>logs</c>, <c>stop</c>, <c>kill</c>, <c>monitor</c>, <c>migrate</c>, <c>fork</c>,
/// <c>receive</c>.
/// </summary>
internal sealed class ControlCommands
{
    private static readonly TimeSpan s_defaultWait = TimeSpan.FromSeconds(30);

    private readonly Argument<string?> _name = new("NAME") { Arity = ArgumentArity.ZeroOrOne, Description = "of a VM that was started with --name" };
    private readonly Argument<string?> _target = new("TO")
    {
        Arity = ArgumentArity.ZeroOrOne,
        Description = "unix:PATH or tcp:127.0.0.1:PORT, where 'bunraku receive' waits",
    };
    private readonly Argument<string?> _place = new("AT") { Arity = ArgumentArity.ZeroOrOne, Description = "unix:PATH or tcp:127.0.0.1:PORT" };
    private readonly Option<TimeSpan?> _wait = SingleValue.Parsed<TimeSpan?>("--wait", "DURATION",
        "how long the guest has to shut down before it is ended, for example 10s or 2m (default 30s)", t => Quantities.ParseDuration(t));
    private readonly Option<bool> _follow = SingleValue.Flag("--follow", "go on with what it prints, until it ends");
    /// <summary>Stands for the name of a copy.</summary>
    public const string NameMark = "{name}";

    private const int MostCopies = 1000;

    private readonly Option<int?> _count = SingleValue.Parsed<int?>("--count", "COUNT", "how many copies (default 1)", ParseCount);
    private readonly Option<string?> _prefix = SingleValue.Parsed<string?>("--prefix", "NAME",
        "the copies' names are NAME-1, NAME-2 and so on (default: the VM's own)", ControlRequests.ParseName);
    private readonly Option<MemoryBacking?> _backing = SharedOptions.Backing();
    private readonly Option<SerialTarget?> _consoles = SingleValue.Parsed<SerialTarget?>("--serial", "TARGET",
        $"where the copies' consoles go: none, or file:PATH with {NameMark} for the copy's name (default: 'bunraku attach' and logs reach them)",
        ParseConsole, "file:", "none");
    private readonly Option<string?> _engine = SharedOptions.Engine();
    private readonly Option<string?> _newName = SharedOptions.Name();
    private readonly Option<SerialTarget?> _serial = SharedOptions.Serial();
    private readonly Option<bool> _stats = SharedOptions.Stats();
    private readonly Option<VncEndpoint?> _vnc = SharedOptions.Vnc();
    private readonly Option<bool> _detach = SharedOptions.Detach();
    private readonly Option<bool> _quiet = SharedOptions.Quiet();

    public ControlCommands()
    {
        List = new Command("ps", "List the VMs that run under a name");
        Stop = new Command("stop", "Press a VM's power button, and end it if that does not help") { _name, _wait };
        Attach = new Command("attach", "Connect this terminal with a VM that 'run --detach' started; Ctrl-A D leaves it") { _name };
        Logs = new Command("logs", "Print what a VM has printed that 'run --detach' started, also when it has ended") { _name, _follow };
        Kill = new Command("kill", "End a VM at once") { _name };
        Monitor = new Command("monitor", "Give a VM's monitor one command (after --) and print its answer") { _name };
        Migrate = new Command("migrate", "Move a VM to another process, while it runs") { _name, _target };
        _count.Aliases.Add("-n");
        Fork = new Command("fork", "Let copies of a VM go on beside it, each in a process of its own") { _name, _count, _prefix, _engine, _backing, _consoles };
        Receive = new Command("receive", "Wait for a VM that is moved, and run it on") { _place, _engine, _newName, _serial, _vnc, _quiet, _detach, _stats };
    }

    public Command List { get; }
    public Command Stop { get; }
    public Command Attach { get; }
    public Command Logs { get; }
    public Command Kill { get; }
    public Command Monitor { get; }
    public Command Migrate { get; }
    public Command Fork { get; }
    public Command Receive { get; }

    /// <summary>It is one of these.</summary>
    public bool Has(Command command) => command == List || command == Stop || command == Attach || command == Logs || command == Kill || command == Migrate
        || command == Fork;

    /// <exception cref="UsageException">Words are missing.</exception>
    public ControlRequests Read(ParseResult parsed)
    {
        Command asked = parsed.CommandResult.Command;
        if (asked == List) return new ControlRequests.List();
        if (asked == Stop) return new ControlRequests.Stop(NameIn(parsed), parsed.GetValue(_wait) ?? s_defaultWait);
        if (asked == Fork) return ReadFork(parsed);
        if (asked == Attach) return new ControlRequests.Attach(NameIn(parsed));
        if (asked == Logs) return new ControlRequests.Logs(NameIn(parsed), parsed.GetValue(_follow));
        return asked == Kill ? new ControlRequests.Kill(NameIn(parsed))
            : new ControlRequests.Migrate(NameIn(parsed), AddressIn(parsed, _target));
    }

    private ControlRequests.Fork ReadFork(ParseResult parsed)
    {
        string name = NameIn(parsed), prefix = parsed.GetValue(_prefix) ?? name;
        int count = parsed.GetValue(_count) ?? 1;
        SerialTarget? serial = parsed.GetValue(_consoles);
        if (serial?.Path is { } path && count > 1 && !path.Contains(NameMark, StringComparison.Ordinal))
            throw new UsageException($"--serial file:{path}: {count} copies would write one file; put {NameMark} into its name");
        string[] copies = [.. Enumerable.Range(1, count).Select(n => ControlRequests.ParseName(string.Create(CultureInfo.InvariantCulture, $"{prefix}-{n}")))];
        return new ControlRequests.Fork(name, copies, parsed.GetValue(_engine), parsed.GetValue(_backing) ?? MemoryBacking.Lazy, serial);
    }

    private static int? ParseCount(string text) => int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out int count)
        && count is >= 1 and <= MostCopies ? count : throw new UsageException($"'{text}' is no number of copies; from 1 to {MostCopies} are possible");

    private static SerialTarget? ParseConsole(string text) => SerialTarget.Parse(text) is { Kind: not SerialKind.Stdio } target ? target
        : throw new UsageException("--serial stdio: copies have no terminal; file:PATH and none are possible");

    /// <param name="command">What stood behind <c>--</c>, or null.</param>
    public ControlRequests ReadMonitor(ParseResult parsed, IReadOnlyList<string>? command) =>
        new ControlRequests.Monitor(NameIn(parsed), command is { Count: > 0 } ? string.Join(' ', command)
            : throw new UsageException("a command is missing behind --, for example: bunraku monitor NAME -- info status"));

    /// <summary>A VM that comes from elsewhere is run like any other.</summary>
    /// <exception cref="UsageException">Options that do not go together.</exception>
    public RunOptions ReadReceive(ParseResult parsed) => new()
    {
        Detach = SharedOptions.ReadDetach(parsed, _detach, _serial, _stats),
        Incoming = AddressIn(parsed, _place),
        Engine = parsed.GetValue(_engine) ?? VmOptions.AutomaticEngine,
        Name = parsed.GetValue(_newName),
        Serial = parsed.GetValue(_serial) ?? new SerialTarget(SerialKind.Stdio),
        Vnc = parsed.GetValue(_vnc),
        Quiet = parsed.GetValue(_quiet),
        Stats = parsed.GetValue(_stats),
        SampleWork = parsed.GetValue(_stats),
    };

    private string NameIn(ParseResult parsed) => ControlRequests.ParseName(parsed.GetValue(_name)
        ?? throw new UsageException("the VM's name is missing; 'bunraku ps' lists those that run"));

    private static MigrationAddress AddressIn(ParseResult parsed, Argument<string?> argument)
    {
        try
        {
            return MigrationAddress.Parse(parsed.GetValue(argument) ?? throw new UsageException($"the place is missing; {MigrationAddress.Forms}"));
        }
        catch (MigrationException e)
        {
            throw new UsageException(e.Message);
        }
    }
}
