using System.Collections.Concurrent;
using System.Diagnostics;
using System.Globalization;
using System.Text;
using System.Text.RegularExpressions;
using Bunraku.Engines;
using Bunraku.Machine;
using Bunraku.Sessions;

namespace Bunraku.Lab.Paging;

/// <summary>
/// Reads the console of a guest's guest, and takes counts when a workload begins and ends. The VM has one processor, on whose thread all of it happens: what is
/// counted between two lines was executed between them.
/// </summary>
internal sealed partial class PagingWatch(bool isVmx) : IVmObserver, INestedObserver
{
    private const int LongestLine = 4096;

    /// <summary>What counts to a moment.</summary>
    private sealed record Moment(IReadOnlyDictionary<string, ulong> Exits, IReadOnlyDictionary<string, ulong> Engine, IReadOnlyDictionary<string, ulong> Kvm);

    private readonly StringBuilder _line = new();
    private readonly ConcurrentDictionary<ulong, ulong> _exits = [];
    private readonly List<PagingRow> _rows = [];
    private Moment? _start;
    private Dictionary<string, ulong> _kvm = [];
    private long _launched;
    private Dictionary<ulong, ulong> _atLaunch = [];

    /// <summary>Rows that are complete.</summary>
    public IReadOnlyList<PagingRow> Rows => _rows;

    /// <summary>Seconds from the start of QEMU to the first process; 0: it did not come to that.</summary>
    public double BootSeconds { get; private set; }

    /// <summary>Exits meanwhile, by reason.</summary>
    public IReadOnlyDictionary<string, ulong> BootExits { get; private set; } = new Dictionary<string, ulong>();

    /// <summary>How often a hypervisor has started a guest: once at each level.</summary>
    public int Launches { get; private set; }

    /// <summary>All workloads that were asked for have run.</summary>
    public bool IsDone { get; private set; }

    /// <summary>What went wrong, in one line; null: nothing.</summary>
    public string? Failure { get; private set; }

    /// <summary>The last line that was not ours.</summary>
    public string LastLine { get; private set; } = "";

    /// <summary>Is told what runs.</summary>
    public Action<string>? Progress { get; init; }

    public void Crossed(in NestedCrossing crossing)
    {
        if (!crossing.IsEntry) _exits.AddOrUpdate(crossing.Reason, 1, static (_, n) => n + 1);
    }

    public void OnOutput(Vm vm, ReadOnlySpan<byte> bytes)
    {
        foreach (byte b in bytes)
        {
            if (b != '\n' && _line.Length < LongestLine)
            {
                _line.Append((char)b);
                continue;
            }
            string line = _line.ToString().TrimEnd('\r');
            _line.Clear();
            Take(vm, line);
        }
    }

    private void Take(Vm vm, string line)
    {
        if (line.Contains(HypervisorGuest.LaunchLine, StringComparison.Ordinal)) Launch();
        else if (line.StartsWith(HypervisorGuest.CountsLine, StringComparison.Ordinal)) _kvm = Counts(line[HypervisorGuest.CountsLine.Length..]);
        else if (Report().Match(line) is { Success: true } report) TakeReport(vm, report.Groups["word"].Value, report.Groups["rest"].Value);
        else if (line.Trim().Length > 0) LastLine = line;
    }

    private void Launch()
    {
        _launched = Stopwatch.GetTimestamp();
        _atLaunch = _exits.ToDictionary();
        Launches++;
    }

    private string NameOf(ulong reason) => isVmx ? VmxNames.Of((VmxExitReason)(ushort)reason) : SvmNames.Of((SvmExit)reason);

    private void TakeReport(Vm vm, string word, string rest)
    {
        switch (word)
        {
            case "first":
                BootSeconds = Stopwatch.GetElapsedTime(_launched).TotalSeconds;
                BootExits = _exits.Select(e => KeyValuePair.Create(NameOf(e.Key), e.Value - _atLaunch.GetValueOrDefault(e.Key))).Where(e => e.Value > 0)
                    .OrderByDescending(e => e.Value).ToDictionary();
                break;
            case "start":
                Progress?.Invoke(rest);
                _start = Now(vm);
                break;
            case "end" when _start is { } start && Figures().Match(rest) is { Success: true } f:
                _rows.Add(Row(f, start, Now(vm)));
                _start = null;
                break;
            case "fail":
                Failure ??= rest;
                break;
            case "done":
                IsDone = true;
                break;
        }
    }

    private Moment Now(Vm vm)
    {
        // Not by vm.Statistics, which looks at the process's memory as well.
        ExecutionReport? engine = ExecutionReport.Sum(vm.Machine.Cpus.Select(c => c.Cpu.Execution));
        return new Moment(_exits.ToDictionary(e => NameOf(e.Key), e => e.Value),
            (engine?.Counts ?? []).ToDictionary(c => c.Name, c => c.Value), _kvm);
    }

    private static PagingRow Row(Match figures, Moment start, Moment end)
    {
        return new PagingRow(figures.Groups["name"].Value, Number("units"), Number("ns"), figures.Groups["sum"].Value,
            end.Exits.Select(e => KeyValuePair.Create(e.Key, e.Value - start.Exits.GetValueOrDefault(e.Key))).Where(e => e.Value > 0)
                .OrderByDescending(e => e.Value).ToDictionary(),
            Kvm("mmu_pte_write"), Kvm("pf_fixed"), Kvm("pf_guest"), Walk(EngineCounts.OneStageWalks), Walk(EngineCounts.TwoStageWalks),
            Walk(EngineCounts.Walks));

        ulong Number(string group) => ulong.Parse(figures.Groups[group].Value, CultureInfo.InvariantCulture);
        ulong Kvm(string name) => end.Kvm.GetValueOrDefault(name) - start.Kvm.GetValueOrDefault(name);
        ulong Engine(string name) => end.Engine.GetValueOrDefault(name) - start.Engine.GetValueOrDefault(name);
        Walks Walk(string name) => new(Engine(name), Engine(name + EngineCounts.Entries));
    }

    private static Dictionary<string, ulong> Counts(string text) => text.Split(' ', StringSplitOptions.RemoveEmptyEntries).Select(w => w.Split('='))
        .Where(w => w.Length == 2 && ulong.TryParse(w[1], NumberStyles.None, CultureInfo.InvariantCulture, out _))
        .GroupBy(w => w[0]).ToDictionary(g => g.Key, g => ulong.Parse(g.First()[1], CultureInfo.InvariantCulture));

    [GeneratedRegex("@bench (?<word>[a-z]+) ?(?<rest>.*)$")]
    private static partial Regex Report();

    [GeneratedRegex("^(?<name>[a-z0-9-]{1,32}) units=(?<units>[1-9][0-9]{0,18}) ns=(?<ns>[0-9]{1,18}) cpu=[0-9]+ sum=(?<sum>[0-9a-f]{16})$")]
    private static partial Regex Figures();
}
