using System.CommandLine;
using Bunraku.Sessions.Screens;

namespace Bunraku.Cli.CommandLine;

/// <summary>The options of <c>bunraku restore</c>: what is the host's choice; the rest is in the snapshot.</summary>
internal sealed class RestoreCommand : Command
{
    /// <summary>The command's own name.</summary>
    public const string Word = "restore";

    private readonly Argument<string?> _file = new("FILE") { Arity = ArgumentArity.ZeroOrOne, Description = "the snapshot" };
    private readonly Option<string?> _engine = SharedOptions.Engine();
    private readonly Option<string?> _name = SharedOptions.Name();
    private readonly Option<MemoryBacking?> _backing = SharedOptions.Backing();
    private readonly Option<SerialTarget?> _serial = SharedOptions.Serial();
    private readonly Option<string[]?> _shares = SharedOptions.Shares();
    private readonly Option<VmVsock?> _vsock = SharedOptions.Vsock();
    private readonly Option<TimeSpan?> _timeout = SharedOptions.Timeout();
    private readonly Option<string?> _saveTo = SharedOptions.SaveTo();
    private readonly Option<bool> _compress = SharedOptions.Compress();
    private readonly Option<bool> _stats = SharedOptions.Stats();
    private readonly Option<VncEndpoint?> _vnc = SharedOptions.Vnc();
    private readonly Option<bool> _detach = SharedOptions.Detach();
    private readonly Option<bool> _quiet = SharedOptions.Quiet();

    public RestoreCommand() : base(Word, "Go on with a VM that was saved, or run one COMMAND in one that waits for it (after --)")
    {
        Arguments.Add(_file);
        foreach (Option option in (Option[])[_engine, _name, _backing, _serial, _shares, _vsock, _vnc, _quiet, _detach, _timeout, _saveTo, _compress, _stats])
            Options.Add(option);
    }

    /// <param name="command">What stood behind <c>--</c>, or null.</param>
    /// <exception cref="UsageException">Options that do not go together, or with the snapshot.</exception>
    /// <exception cref="CannotStartException">The file is no snapshot.</exception>
    public RunOptions Read(ParseResult parsed, IReadOnlyList<string>? command)
    {
        if (parsed.GetValue(_file) is not { Length: > 0 } file) throw new UsageException("name the snapshot's file");
        if (command is { Count: 0 }) throw new UsageException("a command is missing behind --");
        bool detach = SharedOptions.ReadDetach(parsed, _detach, _serial, _stats);
        SnapshotInfo saved = SnapshotInfo.Read(file);
        if (saved.Waits && command is null) throw new UsageException($"the guest in {file} waits for a command: give one behind --");
        if (!saved.Waits && command is not null) throw new UsageException($"the guest in {file} takes no command behind --: it goes on with what it did");
        return new RunOptions
        {
            RestoreFrom = file,
            MemoryBacking = parsed.GetValue(_backing) ?? MemoryBacking.Lazy,
            Memory = saved.Memory,
            Cpus = saved.Cpus,
            Engine = parsed.GetValue(_engine) ?? "auto",
            Serial = parsed.GetValue(_serial) ?? new SerialTarget(SerialKind.Stdio),
            Timeout = parsed.GetValue(_timeout),
            Vsock = parsed.GetValue(_vsock),
            Shares = SharedOptions.ParseShares(parsed.GetValue(_shares)),
            Name = parsed.GetValue(_name),
            Vnc = parsed.GetValue(_vnc),
            Detach = detach,
            Quiet = parsed.GetValue(_quiet),
            SaveTo = parsed.GetValue(_saveTo),
            Compress = SharedOptions.RequiredFor(parsed.GetValue(_saveTo), parsed.GetValue(_compress)),
            Stats = parsed.GetValue(_stats),
            SampleWork = parsed.GetValue(_stats),
            Command = command ?? saved.Command,
        };
    }
}
