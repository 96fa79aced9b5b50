using System.Text.Json;

namespace Bunraku.Compare;

/// <summary>All figures, every single measurement among them. Times are nanoseconds for one operation, memory is bytes.</summary>
internal static class JsonReport
{
    /// <param name="othersShare">See <see cref="HostLoad.OthersShare"/>.</param>
    /// <exception cref="BenchException">The file can't be written.</exception>
    public static void Write(string path, CompareOptions options, BenchGuest guest, double othersShare, Results results, IReadOnlyList<Subject> subjects,
        IReadOnlyList<Workload> workloads)
    {
        try
        {
            if (Path.GetDirectoryName(Path.GetFullPath(path)) is { } folder) Directory.CreateDirectory(folder);
            using FileStream file = File.Create(path);
            using var json = new Utf8JsonWriter(file, new JsonWriterOptions { Indented = true });
            json.WriteStartObject();
            json.WriteString("date", DateTime.UtcNow);
            json.WriteString("host", HostProcessor());
            json.WriteNumber("hostProcessors", Environment.ProcessorCount);
            json.WriteNumber("hostBusyWithOthers", Math.Round(othersShare, 3));
            json.WriteString("kernel", Path.GetFileName(guest.Kernel));
            json.WriteNumber("runs", options.Runs);
            json.WriteNumber("milliseconds", options.Milliseconds);
            json.WriteString("time", options.Time.ToString().ToLowerInvariant()); // of the medians
            json.WriteString("mitigations", options.Mitigations.ToString().ToLowerInvariant());
            json.WriteStartObject("leftOut");
            foreach ((string subject, string reason) in results.LeftOut) json.WriteString(subject, reason);
            json.WriteEndObject();
            json.WriteStartArray("errors");
            foreach (string error in results.Errors) json.WriteStringValue(error);
            json.WriteEndArray();
            json.WriteStartObject("monitorMemory");
            foreach (Subject s in subjects)
            {
                if (results.Memory(s.Name) is { } bytes) json.WriteNumber(s.Name, bytes);
            }
            json.WriteEndObject();
            json.WriteStartArray("workloads");
            foreach (Workload w in workloads) WriteWorkload(json, w, results, subjects);
            json.WriteEndArray();
            json.WriteEndObject();
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new BenchException($"cannot write {path}: {e.Message}");
        }
    }

    private static void WriteWorkload(Utf8JsonWriter json, Workload workload, Results results, IReadOnlyList<Subject> subjects)
    {
        json.WriteStartObject();
        json.WriteString("name", workload.Name);
        json.WriteString("group", workload.Group);
        json.WriteString("operation", workload.Operation);
        if (results.Checksum(workload) is { } sum) json.WriteString("checksum", sum);
        json.WriteStartArray("subjects");
        foreach (Subject s in subjects)
        {
            foreach (bool mitigations in (ReadOnlySpan<bool>)[true, false])
            {
                var cell = new Cell(s.Name, mitigations, workload);
                if (results.Samples(cell).Count == 0 && !results.IsSettled(cell)) continue;
                json.WriteStartObject();
                json.WriteString("subject", s.Name);
                if (s.Boots) json.WriteString("mitigations", mitigations ? "default" : "off");
                if (results.SkipReason(cell) is { } reason) json.WriteString("notMeasured", reason);
                if (results.Median(cell) is { } median) json.WriteNumber("median", Math.Round(median, 4));
                json.WriteStartArray("samples");
                foreach (Sample sample in results.Samples(cell)) WriteSample(json, sample, workload.Operations);
                json.WriteEndArray();
                json.WriteEndObject();
            }
        }
        json.WriteEndArray();
        json.WriteEndObject();
    }

    private static void WriteSample(Utf8JsonWriter json, Sample sample, ulong operations)
    {
        double count = (double)sample.Units * operations;
        json.WriteStartObject();
        json.WriteNumber("operations", count);
        json.WriteNumber("host", Math.Round(sample.HostNs / count, 4));
        if (sample.CpuNs is { } cpu) json.WriteNumber("cpu", Math.Round(cpu / count, 4)); // processor time
        if (sample.GuestNs is { } guest) json.WriteNumber("guest", Math.Round(guest / count, 4)); // by the guest's own clock
        json.WriteEndObject();
    }

    private static string HostProcessor() =>
        File.ReadLines("/proc/cpuinfo").FirstOrDefault(l => l.StartsWith("model name", StringComparison.Ordinal)) is { } line
            ? line[(line.IndexOf(':') + 1)..].Trim() : "unknown";
}
