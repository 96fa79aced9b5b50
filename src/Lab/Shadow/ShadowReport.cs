using System.Globalization;
using System.Text.Json;
using System.Text.Json.Serialization;

namespace Bunraku.Lab.Shadow;

/// <summary>All that one run of the experiment saw.</summary>
public sealed record ShadowReport(string Engine, string Model, IReadOnlyList<StepReport> Steps)
{
    private static readonly JsonSerializerOptions s_json = new(ShadowJson.Default.Options)
    {
        Converters = { new JsonStringEnumConverter<ShadowRights>(JsonNamingPolicy.CamelCase) },
    };

    /// <summary>The report as one JSON object, with a line end.</summary>
    public string ToJson() => JsonSerializer.Serialize(this, s_json) + "\n";
}

/// <summary>One thing that the guest did, and both tables afterwards.</summary>
/// <param name="Who">The program, or its kernel; nobody at the start.</param>
/// <param name="What">In one line.</param>
/// <param name="Root">CR3's table: which of the guest's address spaces is in force.</param>
/// <param name="Spaces">How many address spaces have a shadow.</param>
/// <param name="Counted">What direct execution counted meanwhile, without what stayed 0.</param>
/// <param name="Pages">All pages of the program.</param>
public sealed record StepReport(string Who, string What, ulong Root, int Spaces, IReadOnlyDictionary<string, ulong> Counted, IReadOnlyList<PageReport> Pages)
{
    /// <summary>What was counted under a name.</summary>
    public ulong Count(string name) => Counted.GetValueOrDefault(name);

    /// <summary>The counts that matter for the tables, in a few words.</summary>
    [JsonIgnore]
    public string Summary
    {
        get
        {
            (string Name, string Short)[] shown = [("entries", "entries"), ("left for a system call", "system calls"), ("left for a page", "faults"),
                ("left for a guarded place", "guarded"), ("pages mapped", "mapped"), ("pages dropped", "dropped"), ("pages of code refused", "refused")];
            return string.Join(", ", shown.Where(s => Count(s.Name) > 0)
                .Select(s => string.Create(CultureInfo.InvariantCulture, $"{s.Short} {Count(s.Name)}")));
        }
    }

    /// <summary>The page of a name.</summary>
    public PageReport this[string name] => Pages.First(p => p.Name == name);
}

/// <summary>One page in both tables.</summary>
/// <param name="Linear">Where the program has it.</param>
/// <param name="Entry">The guest's last-level entry.</param>
/// <param name="Rights">What the shadow of the space in force allows.</param>
/// <param name="ShadowFrame">Which frame that is; 0 without rights.</param>
/// <param name="Guards">Offsets in the page where the host's processor stops.</param>
/// <param name="Refused">Its code must not run on the host's processor.</param>
/// <param name="Concerned">The step touched it, or something about it is not as it was.</param>
public sealed record PageReport(string Name, ulong Linear, ulong Entry, ShadowRights Rights, ulong ShadowFrame, IReadOnlyList<ulong> Guards, bool Refused,
    bool Concerned)
{
    /// <summary>The frame in the guest's entry.</summary>
    public ulong Frame => Entry & PagingBits.AddressMask;

    /// <summary>P W U A D and NX, each as its letter or a dash.</summary>
    public string Flags
    {
        get
        {
            (ulong Bit, string Name)[] flags = [(PagingBits.Present, "P"), (PagingBits.Writable, "W"), (PagingBits.User, "U"), (PagingBits.Accessed, "A"),
                (PagingBits.Dirty, "D"), (PagingBits.ExecuteDisable, "NX")];
            return string.Concat(flags.Select(f => (Entry & f.Bit) != 0 ? f.Name : new string('-', f.Name.Length)));
        }
    }

    /// <summary>none, r, rw or rx; with what else is known of its code.</summary>
    public string Shadow => (Rights == ShadowRights.None ? "none" : ShortRights)
        + (Guards.Count > 0 ? " guarded" : Refused ? " refused" : "");

    /// <summary>r, rw, rx, or nothing.</summary>
    [JsonIgnore]
    public string ShortRights => ((Rights & ShadowRights.Read) != 0 ? "r" : "") + ((Rights & ShadowRights.Write) != 0 ? "w" : "")
        + ((Rights & ShadowRights.Execute) != 0 ? "x" : "");
}

/// <summary>Made when the program is compiled.</summary>
[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.CamelCase, WriteIndented = true)]
[JsonSerializable(typeof(ShadowReport))]
internal sealed partial class ShadowJson : JsonSerializerContext;
