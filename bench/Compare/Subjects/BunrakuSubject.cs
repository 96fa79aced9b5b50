using System.Diagnostics;
using System.Globalization;
using System.Text.Json;

namespace Bunraku.Compare;

/// <summary>One of Bunraku's engines, through the command line that everybody uses.</summary>
internal sealed class BunrakuSubject : Subject
{
    /// <summary>What the name of an engine of another checkout ends with.</summary>
    public const string Other = "-other";

    /// <summary>The translator with programs that run directly where it pays.</summary>
    public const string Direct = "direct";

    private readonly string _program, _engine;
    private readonly string[] _direct; // the options for it

    private BunrakuSubject(string folder, string engine, string name) : base(name, name)
    {
        _program = Path.Combine(folder, "bunraku");
        _engine = engine == Direct ? "bt" : engine;
        _direct = engine switch { Direct => ["--direct", "auto"], "bt" => ["--direct", "off"], _ => [] };
    }

    /// <param name="root">The folder of this project.</param>
    public static BunrakuSubject Create(string root, string engine) => new(root, engine, engine);

    /// <param name="folder">Of another state of the project.</param>
    public static BunrakuSubject CreateOther(string folder, string engine) => new(folder, engine, engine + Other);

    public override string? Missing(CancellationToken cancel)
    {
        string engines = HostProgram.Run(_program, ["engines"], cancel);
        if (Name == Direct && !engines.Contains("--direct: works here", StringComparison.Ordinal)) return "direct execution does not work here";
        // The first column is the name, the second says whether it can run here.
        foreach (string line in engines.Split('\n'))
        {
            string[] words = line.Split(' ', 3, StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);
            if (words.Length >= 2 && words[0] == _engine) return words[1] == "yes" ? null : $"the engine cannot run here: {words.ElementAtOrDefault(2)}";
        }
        return "this Bunraku has no such engine";
    }

    // Older states end when the guest resets the machine, and have no word for it.
    private bool KnowsReboot => _knowsReboot ??= HostProgram.Run(_program, ["run", "--help"], CancellationToken.None)
        .Contains("--no-reboot", StringComparison.Ordinal);

    private bool? _knowsReboot;

    public override RunningSubject Start(BenchGuest guest, IReadOnlyList<Workload> workloads, int milliseconds, bool mitigations)
    {
        string statistics = Path.GetTempFileName();
        // The limit is only for the case that we are gone and can't end it.
        string limit = ((int)(Patience.TotalSeconds * guest.Patience * (workloads.Count + 2))).ToString(CultureInfo.InvariantCulture) + "s";
        long started = Stopwatch.GetTimestamp();
        Process process = HostProgram.Start(new ProcessStartInfo(_program,
        [
            "run", .. KnowsReboot ? (string[])["--no-reboot"] : [], "--engine", _engine, .. _direct,
            "--cpus", $"{guest.Cpus}", "--memory", $"{guest.Megabytes}M",
            "--kernel", guest.Kernel, "--initrd", guest.Initrd, "--stats-json", statistics, "--timeout", limit,
            "--append", guest.CommandLine(workloads, milliseconds, mitigations),
        ]));
        return new Running(process, started, statistics);
    }

    public override ProcessStartInfo? StartTrue(BenchGuest guest, bool mitigations) => guest.TrueInitrd is null ? null :
        new(_program, ["run", "--engine", _engine, .. _direct, "--timeout", "120s",
            .. mitigations ? (string[])[] : ["--append", "mitigations=off"], "--", "true"]);

    private sealed class Running(Process process, long started, string statistics) : RunningSubject(process, started, ConsoleLines.OfOutput(process))
    {
        public override (double? KernelEntry, ulong? Memory) Statistics()
        {
            try
            {
                using JsonDocument json = JsonDocument.Parse(File.ReadAllText(statistics));
                return (json.RootElement.GetProperty("milliseconds").GetProperty("kernelEntry").GetDouble() / 1000,
                    json.RootElement.GetProperty("memory").GetProperty("monitor").GetUInt64());
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
