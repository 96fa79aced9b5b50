using System.Diagnostics;
using System.Globalization;
using System.Text.Json;

namespace Bunraku.Compare;

/// <summary>One of Bunraku's engines, through the command line that everybody uses.</summary>
/// <param name="program">./bunraku.</param>
internal sealed class BunrakuSubject(string program, string engine) : Subject(engine, engine)
{
    public override string? Missing(CancellationToken cancel)
    {
        // The first column is the name, the second says whether it can run here.
        foreach (string line in HostProgram.Run(program, ["engines"], cancel).Split('\n'))
        {
            string[] words = line.Split(' ', 3, StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);
            if (words.Length >= 2 && words[0] == Name) return words[1] == "yes" ? null : $"the engine cannot run here: {words.ElementAtOrDefault(2)}";
        }
        return "this Bunraku has no such engine";
    }

    public override RunningSubject Start(BenchGuest guest, IReadOnlyList<Workload> workloads, int milliseconds, bool mitigations)
    {
        string statistics = Path.GetTempFileName();
        // The limit is only for the case that we are gone and can't end it.
        string limit = ((int)(Patience.TotalSeconds * (workloads.Count + 2))).ToString(CultureInfo.InvariantCulture) + "s";
        long started = Stopwatch.GetTimestamp();
        Process process = HostProgram.Start(new ProcessStartInfo(program,
        [
            "run", "--no-reboot", "--engine", Name, "--cpus", "1", "--memory", $"{BenchGuest.Megabytes}M", "--kernel", guest.Kernel, "--initrd", guest.Initrd, "--stats-json", statistics, "--timeout", limit,
            "--append", BenchGuest.CommandLine(workloads, milliseconds, mitigations),
        ]));
        return new Running(process, started, statistics);
    }

    public override ProcessStartInfo StartTrue(BenchGuest guest, bool mitigations) =>
        new(program, ["run", "--engine", Name, "--timeout", "120s", .. mitigations ? (string[])[] : ["--append", "mitigations=off"], "--", "true"]);

    private sealed class Running(Process process, long started, string statistics) : RunningSubject(process, started, ConsoleLines.OfOutput(process))
    {
        public override (double? KernelEntry, ulong? Memory) Statistics()
        {
            try
            {
                using JsonDocument json = JsonDocument.Parse(File.ReadAllText(statistics));
                return (json.RootElement.GetProperty("milliseconds").GetProperty("kernelEntry").GetDouble() / 1000, json.RootElement.GetProperty("memory").GetProperty("monitor").GetUInt64());
            }
            catch (Exception e) when (e is JsonException or KeyNotFoundException or IOException)
            {
                return (null, null); // it was ended before it could write them
            }
        }

        public override void Dispose()
        {
            base.Dispose();
            File.Delete(statistics);
        }
    }
}
