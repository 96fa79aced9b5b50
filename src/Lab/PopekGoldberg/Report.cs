using System.Text.Json;
using System.Text.Json.Serialization;

namespace Bunraku.Lab.PopekGoldberg;

/// <summary>All that one run of the experiment observed and concluded.</summary>
/// <param name="HostProcessor">As the host's operating system names it.</param>
/// <param name="Model">CPU model of the guests.</param>
public sealed record ExperimentReport(DateTime Date, string HostProcessor, string Model, IReadOnlyList<ProcessorReport> Processors)
{
    /// <summary>Programs that run directly on the host's processor; null: nobody asked.</summary>
    public DirectReport? Direct { get; init; }

    private static readonly JsonSerializerOptions s_json = new(ExperimentJson.Default.Options)
    {
        Converters = { new JsonStringEnumConverter<DirectWay>(JsonNamingPolicy.CamelCase), new JsonStringEnumConverter<Outcome>(JsonNamingPolicy.CamelCase) },
    };

    /// <summary>The report as one JSON object, with a line end.</summary>
    public string ToJson() => JsonSerializer.Serialize(this, s_json) + "\n";
}

/// <summary>One processor: the host's silicon, or an engine's with UMIP on or off.</summary>
/// <param name="Engine">Null for the host.</param>
/// <param name="Umip">CR4.UMIP; null where nobody can tell.</param>
/// <param name="ClassicallyVirtualizable">Popek and Goldberg's theorem 1: every sensitive instruction is privileged. Null when too little was observed.</param>
/// <param name="Escaping">Sensitive instructions that are not privileged.</param>
/// <param name="DeprivilegedEscaping">Sensitive instructions that did not trap in a kernel at privilege level 1; null for the host.</param>
/// <param name="NotObserved">Instructions of which some execution could not be observed, with the reason.</param>
public sealed record ProcessorReport(
    string Name, string? Engine, bool? Umip, bool? ClassicallyVirtualizable, IReadOnlyList<string> Escaping, IReadOnlyList<string>? DeprivilegedEscaping,
    IReadOnlyList<string> NotObserved, IReadOnlyList<InstructionReport> Instructions)
{
    /// <summary>Instructions that are sensitive here.</summary>
    public int Sensitive => Instructions.Count(i => i.IsSensitive);
}

/// <summary>One instruction on one processor.</summary>
/// <param name="Bytes">Its encoding.</param>
/// <param name="Privileged">
/// It trapped (or exited to the hypervisor) at level 3 wherever it completed at level 0; null when it never completed at level 0 or was not observed.
/// </param>
/// <param name="ControlSensitive">System state that it changed at level 0, translations that it dropped, exits by which it acts on the hypervisor.</param>
/// <param name="BehaviourSensitive">
/// System state on which its result depends; "level" when that is the privilege level, "time" when the result changes by itself.
/// </param>
/// <param name="Levels">What happened at each privilege level.</param>
/// <param name="Exits">Exits at level 0 when the execution controls ask for every one.</param>
/// <param name="SingleSteps">At level 3 a single-step trap follows right behind it; null when that was not tried.</param>
public sealed record InstructionReport(
    string Name, string Bytes, bool? Privileged, IReadOnlyList<string> ControlSensitive, IReadOnlyList<string> BehaviourSensitive,
    IReadOnlyList<LevelReport> Levels, IReadOnlyList<string> Exits, bool? SingleSteps)
{
    /// <summary>It changes or shows system state.</summary>
    [JsonIgnore]
    public bool IsSensitive => ControlSensitive.Count + BehaviourSensitive.Count > 0;

    /// <summary>What happened at a level; null when it was not tried there.</summary>
    public LevelReport? At(int level) => Levels.FirstOrDefault(l => l.Level == level);
}

/// <summary>What happened at one privilege level.</summary>
/// <param name="Summary">One word for the table.</param>
/// <param name="Leaks">System state that the program could read from the result.</param>
/// <param name="Ignored">System state that the instruction changes at level 0 and silently did not change here.</param>
public sealed record LevelReport(int Level, string Summary, IReadOnlyList<Leak> Leaks, IReadOnlyList<string> Ignored,
    IReadOnlyList<ExecutionReport> Executions);

/// <summary>System state in a program's hands.</summary>
/// <param name="What">The state, or the place alone when no state had this value.</param>
/// <param name="Where">Register, or offset of the byte in the scratch memory.</param>
/// <param name="Size">Bytes.</param>
/// <param name="Values">What was read, hexadecimal; one for each machine state that was tried.</param>
public sealed record Leak(string What, string Where, int Size, IReadOnlyList<string> Values);

/// <summary>One execution in one machine state.</summary>
public sealed record ExecutionReport(int State, Outcome Outcome, string? Trap, IReadOnlyList<string> Exits, IReadOnlyList<string> Changed, string? Message);

/// <summary>Sensitive instructions in a program that runs directly on the host's processor.</summary>
/// <param name="WhyNot">Why that does not work here, in one line; null: it does.</param>
/// <param name="Reference">The engine with whose results they are compared.</param>
public sealed record DirectReport(string? WhyNot, string Reference, IReadOnlyList<DirectInstruction> Instructions);

/// <summary>One of them.</summary>
/// <param name="Bytes">Its encoding.</param>
/// <param name="Difference">What the program saw other than on the reference, in a few words; null: all was equal.</param>
/// <param name="IsUnsteady">Something is another time by time on the reference, too, and was not compared.</param>
/// <param name="Counted">What direct execution counted from the first instruction to the last.</param>
public sealed record DirectInstruction(string Name, string Bytes, DirectWay Way, string? Difference, bool IsUnsteady,
    IReadOnlyDictionary<string, ulong> Counted);

/// <summary>What became of an instruction on its way through a helper.</summary>
public enum DirectWay
{
    /// <summary>The host's processor executed it, and the program saw what it would have seen in the guest.</summary>
    Same,
    /// <summary>The host's processor executed it, and the program saw something else.</summary>
    Leak,
    /// <summary>The host's processor trapped, and software executed it.</summary>
    Traps,
    /// <summary>The host's processor stopped before it, at a breakpoint, and software executed it.</summary>
    Guarded,
    /// <summary>The page with it stayed in software.</summary>
    Refused,
    /// <summary>The program did not run directly at all.</summary>
    Translated,
}

/// <summary>Made when the program is compiled.</summary>
[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.CamelCase, WriteIndented = true)]
[JsonSerializable(typeof(ExperimentReport))]
internal sealed partial class ExperimentJson : JsonSerializerContext;
