using System.Text.Json;
using System.Text.Json.Serialization;

namespace Bunraku.Lab.Paging;

/// <summary>Page walks of a guest, and the paging-structure entries that they read.</summary>
public sealed record Walks(ulong Count, ulong Entries)
{
    /// <summary>Memory references of a walk, on average; 0 without one.</summary>
    public double References => Count == 0 ? 0 : (double)Entries / Count;
}

/// <summary>What the measured repetitions of one workload came to, for all of them together.</summary>
/// <param name="Workload">Its name.</param>
/// <param name="Units">Repetitions.</param>
/// <param name="Nanoseconds">By the guest's clock.</param>
/// <param name="Checksum">That the workload computed; the same everywhere.</param>
/// <param name="Exits">VM exits of the guest by reason, as its processor's manual names them.</param>
/// <param name="PageTableWrites">Writes of the guest to its page tables that the hypervisor trapped and emulated, as KVM counts them.</param>
/// <param name="Fixed">Page faults that the hypervisor dealt with itself: entries of its own tables were missing.</param>
/// <param name="Reflected">Page faults that it gave to the guest.</param>
/// <param name="OneStage">Walks of one set of tables: without nested paging those that the hypervisor has made, the shadow.</param>
/// <param name="TwoStages">Walks of the guest's tables with the second stage's under each of their entries.</param>
/// <param name="Hypervisor">Walks of the hypervisor itself meanwhile.</param>
public sealed record PagingRow(string Workload, ulong Units, ulong Nanoseconds, string Checksum, IReadOnlyDictionary<string, ulong> Exits,
    ulong PageTableWrites, ulong Fixed, ulong Reflected, Walks OneStage, Walks TwoStages, Walks Hypervisor)
{
    /// <summary>All exits.</summary>
    public ulong TotalExits => Exits.Values.Aggregate(0ul, (a, b) => a + b);

    /// <summary>Walks of the guest, whatever their stages.</summary>
    [JsonIgnore]
    public Walks Guest => new(OneStage.Count + TwoStages.Count, OneStage.Entries + TwoStages.Entries);

    /// <summary>Something of one repetition.</summary>
    public double Each(double total) => total / Units;
}

/// <summary>One guest under one kind of paging.</summary>
/// <param name="Technique">VMX or SVM.</param>
/// <param name="IsNested">Nested paging: EPT, NPT; else KVM's shadow page tables.</param>
/// <param name="BootSeconds">From the start of QEMU to the guest's first process, by the guest hypervisor's console.</param>
/// <param name="BootExits">Exits meanwhile, by reason.</param>
public sealed record PagingRun(string Technique, bool IsNested, double BootSeconds, IReadOnlyDictionary<string, ulong> BootExits, IReadOnlyList<PagingRow> Rows)
{
    /// <summary>All exits of the boot.</summary>
    public ulong TotalBootExits => BootExits.Values.Aggregate(0ul, (a, b) => a + b);

    /// <summary>What it is called: EPT, NPT or shadow.</summary>
    public string Name => IsNested ? Technique == "VMX" ? "EPT" : "NPT" : "shadow";
}

/// <summary>All that the experiment saw.</summary>
public sealed record PagingReport(string Engine, string Kernel, IReadOnlyList<PagingRun> Runs)
{

    /// <summary>The report as one JSON object, with a line end.</summary>
    public string ToJson() => JsonSerializer.Serialize(this, PagingJson.Default.PagingReport) + "\n";
}

/// <summary>Made when the program is compiled.</summary>
[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.CamelCase, WriteIndented = true)]
[JsonSerializable(typeof(PagingReport))]
internal sealed partial class PagingJson : JsonSerializerContext;
