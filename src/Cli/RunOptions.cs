using Bunraku.Engine.Check;
using Bunraku.Processor.X86;
using Bunraku.Sessions.Migration;

namespace Bunraku.Cli;

/// <summary>Where the serial console goes.</summary>
internal enum SerialKind { Stdio, File, None }

/// <param name="Path">Only for <see cref="SerialKind.File"/>.</param>
internal readonly record struct SerialTarget(SerialKind Kind, string? Path = null)
{
    /// <exception cref="UsageException">Not one of stdio, file:PATH, none.</exception>
    public static SerialTarget Parse(string text) => text switch
    {
        "stdio" => new(SerialKind.Stdio),
        "none" => new(SerialKind.None),
        _ when text.StartsWith("file:", StringComparison.Ordinal) && text.Length > 5 => new(SerialKind.File, text[5..]),
        "file" or "file:" => throw new UsageException("--serial file:PATH needs a path"),
        _ => throw new UsageException(Nearest.Message("serial target", text.Split(':')[0], ["stdio", "file", "none"])),
    };
}

/// <summary>What is traced: exits to us, or entries and exits of guests inside the guest.</summary>
internal enum TraceKind { Exits, Nested }

/// <summary>What is traced, and where the trace goes.</summary>
/// <param name="Path">A file, or null for stderr.</param>
internal sealed record TraceTarget(TraceKind Kind, string? Path)
{
    /// <exception cref="UsageException">Not exits, nested, or one of them with :FILE.</exception>
    public static TraceTarget Parse(string text)
    {
        (string kind, string? path) = text.IndexOf(':') is >= 0 and int colon ? (text[..colon], text[(colon + 1)..]) : (text, null);
        if (kind is not ("exits" or "nested")) throw new UsageException(Nearest.Message("trace", kind, ["exits", "nested"]));
        if (path is "") throw new UsageException($"--trace {kind}:FILE needs a file");
        return new TraceTarget(kind == "exits" ? TraceKind.Exits : TraceKind.Nested, path);
    }
}

/// <summary>What <c>bunraku run</c> was asked for: the VM, and where the command line is to leave what it sees of it.</summary>
internal sealed record RunOptions : VmOptions
{
    /// <summary>How often the engine <c>check</c> compares.</summary>
    public CheckInterval CheckInterval { get; init; } = CheckInterval.Default;
    /// <summary>Which programs of the guest run directly on the host's processor.</summary>
    public DirectUse Direct { get; init; } = DirectUse.WherePays;
    public SerialTarget Serial { get; init; }
    /// <summary>Neither a guest nor anything that only one of ours has was asked for: a disk that can be booted is.</summary>
    public bool BootsDisk { get; init; }
    /// <summary>The snapshot that the VM goes on from; the command is then the one that it runs, or is to be given.</summary>
    public string? RestoreFrom { get; init; }
    public MemoryBacking MemoryBacking { get; init; }
    /// <summary>Where the VM is saved when it is ended from outside.</summary>
    public string? SaveTo { get; init; }
    /// <summary>Where a picture of the screen at the end goes; null: nowhere.</summary>
    public string? Screenshot { get; init; }
    /// <summary>What is saved is packed.</summary>
    public bool Compress { get; init; }
    public bool Stats { get; init; }
    public string? StatsJson { get; init; }
    public TraceTarget? Trace { get; init; }
    /// <summary>Nothing is said but errors.</summary>
    public bool Quiet { get; init; }
    /// <summary>The key before commands on the terminal; 0: there is none.</summary>
    public byte Escape { get; init; } = Terminals.ConsoleKeys.DefaultEscape;
    /// <summary>The VM runs in a process in the background, under its name.</summary>
    public bool Detach { get; init; }
    /// <summary>Where this process's number stands while it runs; null: nowhere.</summary>
    public string? PidFile { get; init; }
    /// <summary>The VM answers at a control socket of this name; null: it has none.</summary>
    public string? Name { get; init; }
    /// <summary>Where a VM that runs elsewhere comes from, which says what it is; null: one is booted.</summary>
    public MigrationAddress? Incoming { get; init; }
    /// <summary>Write a map of emitted code for Linux's perf.</summary>
    public bool PerfMap { get; init; }
}
