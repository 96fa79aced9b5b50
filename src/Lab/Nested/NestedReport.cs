using System.Text.Json;
using System.Text.Json.Serialization;

namespace Bunraku.Lab.Nested;

/// <summary>The processor goes from one level to another.</summary>
/// <param name="Level">Whose exit or entry it is: 1 a guest of L0, 2 of L1, 3 of L2.</param>
/// <param name="IsExit">It stops running; else it begins.</param>
/// <param name="Reason">Exits: the instruction, as the vendor calls the exit; else empty.</param>
/// <param name="Instructions">Retired since the observed exit of the guest.</param>
public sealed record NestedStep(int Level, bool IsExit, string Reason, ulong Instructions);

/// <summary>Exits for one reason.</summary>
/// <param name="Level">Where the instruction stands.</param>
/// <param name="Count">How many of them one exit of the guest comes to.</param>
public sealed record ExitCount(int Level, string Reason, int Count);

/// <summary>What an engine took.</summary>
/// <param name="Engine">Its name.</param>
/// <param name="Nanoseconds">Processor time for one exit of the guest with everything that it comes to, up to the guest's next instruction: a median.</param>
public sealed record EngineTime(string Engine, double Nanoseconds);

/// <summary>A guest at one level, under hypervisors of one kind.</summary>
/// <param name="Technique">VMX or SVM; empty for a guest without a hypervisor inside.</param>
/// <param name="Assistance">What the processor does of the work of an L1 whose guest is a hypervisor; empty: nothing.</param>
/// <param name="Level">The guest's.</param>
/// <param name="Answered">The level whose hypervisor the guest got its answer from.</param>
/// <param name="Exits">What one exit of the guest comes to at L0, by level and reason, its own first.</param>
/// <param name="Instructions">Executed for it at L1, L2 and L3, by level from 1. One that exits to a hypervisor inside is emulated and not among them.</param>
/// <param name="Steps">From one exit of the guest to just before its next one.</param>
/// <param name="Times">By engine, in the order of <see cref="NestedReport.Engines"/>.</param>
public sealed record NestedCase(string Technique, string Assistance, int Level, int Answered, IReadOnlyList<ExitCount> Exits, IReadOnlyList<ulong> Instructions,
    IReadOnlyList<NestedStep> Steps, IReadOnlyList<EngineTime> Times)
{
    /// <summary>All exits at L0.</summary>
    public int TotalExits => Exits.Sum(e => e.Count);

    /// <summary>Exits that a hypervisor is told of: those of all levels above it.</summary>
    /// <param name="level">0 to 2.</param>
    public int ExitsSeenAt(int level) => Exits.Where(e => e.Level > level).Sum(e => e.Count);

    /// <summary>A title: technique, assistance, level.</summary>
    [JsonIgnore]
    public string Name => $"L{Level}" + (Technique.Length > 0 ? $", {Technique}" : "") + (Assistance.Length > 0 ? $", {Assistance}" : "");
}

/// <summary>All that the experiment saw.</summary>
/// <param name="Engines">On which it ran; all of them saw the same exits and instructions.</param>
/// <param name="NotRun">Engines that it could not run on, each with the reason in one line.</param>
public sealed record NestedReport(IReadOnlyList<string> Engines, IReadOnlyList<string> NotRun, IReadOnlyList<NestedCase> Cases)
{
    /// <summary>Boots of Linux, if they were asked for.</summary>
    public IReadOnlyList<LinuxBoot> Boots { get; init; } = [];


    /// <summary>The report as one JSON object, with a line end.</summary>
    public string ToJson() => JsonSerializer.Serialize(this, NestedJson.Default.NestedReport) + "\n";
}

/// <summary>Made when the program is compiled.</summary>
[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.CamelCase, WriteIndented = true)]
[JsonSerializable(typeof(NestedReport))]
internal sealed partial class NestedJson : JsonSerializerContext;
