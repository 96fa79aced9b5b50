using System.Globalization;
using System.Text;
using System.Text.Json;
using Bunraku.Hypervisor;

namespace Bunraku.Sessions;

/// <summary>How an engine in software executes the guest, in words: where time goes, how full its caches are, what it counts.</summary>
internal static class ExecutionText
{
    private const int Column = 36;

    /// <summary>A table for people; empty when there is nothing to tell.</summary>
    public static string Table(ExecutionReport? report, WorkTimes? work)
    {
        var text = new StringBuilder();
        if (work is { Samples: > 0 })
        {
            text.Append(CultureInfo.InvariantCulture, $"time by {work.Samples:#,0} samples\n");
            foreach ((CpuWork kind, double ms) in work.Milliseconds) Line(Name(kind), $"{100 * ms / work.Total,5:0.0} % {ms,11:#,0} ms");
        }
        if (report == null) return text.ToString();
        text.Append("caches\n");
        foreach (EngineCache cache in report.Caches)
        {
            string used = Amount(cache.Used, cache.InBytes);
            if (cache.Size == 0) Line(cache.Name, $"{used}");
            else Line(cache.Name, $"{used} of {Amount(cache.Size, cache.InBytes)} ({100.0 * cache.Used / cache.Size:0} %)");
        }
        text.Append("counts\n");
        foreach (EngineCount count in report.Counts) Line(count.Name, $"{count.Value:#,0}");
        return text.ToString();

        void Line(string name, FormattableString value) =>
            text.Append("  ").Append(name.PadRight(Column - 2)).Append(value.ToString(CultureInfo.InvariantCulture)).Append('\n');
    }

    private static string Amount(ulong value, bool bytes) => value.ToString("#,0", CultureInfo.InvariantCulture) is var number && !bytes ? number
        : string.Create(CultureInfo.InvariantCulture, $"{value / 1048576.0:0.0} MiB");

    /// <summary>The same in JSON: members of the object that is being written. Times in milliseconds.</summary>
    public static void Write(Utf8JsonWriter json, ExecutionReport? report, WorkTimes? work)
    {
        if (work != null)
        {
            json.WriteStartObject("work");
            json.WriteNumber("samples", work.Samples);
            json.WriteStartObject("milliseconds");
            foreach ((CpuWork kind, double ms) in work.Milliseconds)
                json.WriteNumber(JsonNamingPolicy.CamelCase.ConvertName(kind.ToString()), Math.Round(ms, 3));
            json.WriteEndObject();
            json.WriteEndObject();
        }
        if (report == null) return;
        json.WriteStartArray("caches");
        foreach (EngineCache cache in report.Caches)
        {
            json.WriteStartObject();
            json.WriteString("name", cache.Name);
            json.WriteNumber("used", cache.Used);
            if (cache.Size != 0) json.WriteNumber("size", cache.Size);
            json.WriteString("unit", cache.InBytes ? "bytes" : "entries");
            json.WriteEndObject();
        }
        json.WriteEndArray();
        json.WriteStartObject("counts");
        foreach (EngineCount count in report.Counts) json.WriteNumber(count.Name, count.Value);
        json.WriteEndObject();
    }

    private static string Name(CpuWork work) => work switch
    {
        CpuWork.Idle => "halted",
        CpuWork.Outside => "exits and devices",
        CpuWork.Direct => "direct execution",
        CpuWork.EmittedCode => "translated code",
        CpuWork.Interpreter => "interpreter",
        CpuWork.LookUps => "look-ups of code",
        CpuWork.Decoding => "decoding",
        CpuWork.Translating => "translating",
        CpuWork.TlbMisses => "TLB misses",
        CpuWork.Evictions => "giving code up",
        CpuWork.Waiting => "waiting for other processors",
        _ => work.ToString(),
    };
}
