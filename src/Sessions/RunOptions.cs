using Bunraku.Engine.Check;
using Bunraku.Engines;
using Bunraku.Hypervisor.Scheduling;

namespace Bunraku.Sessions;

/// <summary>Where the serial console goes.</summary>
public enum SerialKind { Stdio, File, None }

/// <param name="Path">Only for <see cref="SerialKind.File"/>.</param>
public readonly record struct SerialTarget(SerialKind Kind, string? Path = null)
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

/// <summary>Where the trace goes.</summary>
/// <param name="Path">A file, or null for stderr.</param>
public sealed record TraceTarget(string? Path)
{
    /// <exception cref="UsageException">Not exits or exits:FILE.</exception>
    public static TraceTarget Parse(string text)
    {
        (string kind, string? path) = text.IndexOf(':') is >= 0 and int colon ? (text[..colon], text[(colon + 1)..]) : (text, null);
        if (kind != "exits") throw new UsageException(Nearest.Message("trace", kind, ["exits"]));
        if (path is "") throw new UsageException("--trace exits:FILE needs a file");
        return new TraceTarget(path);
    }
}

/// <summary>Everything that decides how one VM runs.</summary>
public sealed record RunOptions
{
    public const ulong DefaultMemory = 512ul << 20;

    /// <summary>A guest by name; not used with <see cref="Kernel"/>.</summary>
    public string Guest { get; init; } = "linux";
    public string? Kernel { get; init; }
    public string? Initrd { get; init; }
    /// <summary>Files for a multiboot or PVH kernel, each with its command line behind the first space.</summary>
    public IReadOnlyList<string> Modules { get; init; } = [];
    /// <summary>Added to the guest's kernel command line.</summary>
    public string? Append { get; init; }
    /// <summary>Bytes of guest RAM.</summary>
    public ulong Memory { get; init; } = DefaultMemory;
    public int Cpus { get; init; } = 1;
    public string Engine { get; init; } = "auto";
    /// <summary>The engine holds the local APICs where it can; else the board does.</summary>
    public bool EngineApics { get; init; } = true;
    /// <summary>How often the engine <c>check</c> compares.</summary>
    public CheckInterval CheckInterval { get; init; } = CheckInterval.Default;
    /// <summary>MODEL[,+feature,-feature]; null is the default model.</summary>
    public string? Cpu { get; init; }
    /// <summary>Offer the guest KVM's paravirtual interface.</summary>
    public bool Paravirtual { get; init; } = true;
    /// <summary>Hz of the guest's TSC; 0: the host's.</summary>
    public ulong TscFrequency { get; init; }
    /// <summary>What the guest gets of the host's processors.</summary>
    public CpuTimeOptions CpuTime { get; init; } = new();
    public SerialTarget Serial { get; init; }
    public bool DebugExit { get; init; }
    public bool TestDevice { get; init; }
    /// <summary>A guest that resets the machine ends the run, where it would boot again.</summary>
    public bool NoReboot { get; init; }
    public TimeSpan? Timeout { get; init; }
    public bool Stats { get; init; }
    public string? StatsJson { get; init; }
    public TraceTarget? Trace { get; init; }
    /// <summary>A command to run inside the guest; null boots to the guest's shell.</summary>
    public IReadOnlyList<string>? Command { get; init; }
    /// <summary>From when the statistics count, UTC; null is the start of the process.</summary>
    public DateTime? Started { get; init; }
    /// <summary>The user's terminal that the guest gets, or null for streams.</summary>
    public TerminalInfo? Terminal { get; init; }
}
