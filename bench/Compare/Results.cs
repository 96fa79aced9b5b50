namespace Bunraku.Compare;

/// <summary>One measurement of one workload.</summary>
/// <param name="Units">Repetitions that were timed.</param>
/// <param name="HostNs">Nanoseconds by the host's clock, for all units.</param>
/// <param name="CpuNs">Processor time that the subject used meanwhile, all threads; null when not known.</param>
/// <param name="GuestNs">The same as <paramref name="HostNs"/> by the subject's own clock; null where it has none.</param>
internal readonly record struct Sample(ulong Units, double HostNs, double? CpuNs, double? GuestNs);

/// <summary>What one cell of the table is made of.</summary>
/// <param name="Subject">Its name.</param>
/// <param name="Mitigations">False: the guest's kernel ran without.</param>
internal readonly record struct Cell(string Subject, bool Mitigations, Workload Workload);

/// <summary>All measurements of one comparison.</summary>
/// <param name="basis">What medians and ratios are made of.</param>
internal sealed class Results(TimeBasis basis)
{
    /// <summary>The reason for having no figure when it crashed, hung or was wrong.</summary>
    public const string Failed = "failed";

    private readonly Dictionary<Cell, List<Sample>> _samples = [];
    private readonly Dictionary<Cell, string> _skipped = [];
    private readonly Dictionary<string, (string Sum, string Subject)> _checksums = [];
    private readonly Dictionary<string, List<ulong>> _memory = [];

    /// <summary>One line each: wrong checksums, crashes, hangs.</summary>
    public List<string> Errors { get; } = [];

    /// <summary>Subjects that were asked for and cannot run here, with the reason.</summary>
    public List<(string Subject, string Reason)> LeftOut { get; } = [];

    public void Add(Cell cell, Sample sample)
    {
        if (!_samples.TryGetValue(cell, out List<Sample>? list)) _samples[cell] = list = [];
        list.Add(sample);
    }

    /// <summary>Compares a checksum with the first one seen; a different one is an error.</summary>
    public bool IsRight(Cell cell, string sum)
    {
        if (!_checksums.TryGetValue(cell.Workload.Name, out (string Sum, string Subject) first))
        {
            _checksums[cell.Workload.Name] = (sum, cell.Subject);
            return true;
        }
        if (first.Sum == sum) return true;
        Fail(cell, $"WRONG CHECKSUM {sum}; it is {first.Sum} on {first.Subject}");
        return false;
    }

    /// <summary>The subject cannot run this workload, and says why.</summary>
    public void Skip(Cell cell, string reason) => _skipped[cell] = reason;

    /// <summary>It crashed or hung: it has no figure and is not tried again.</summary>
    public void Fail(Cell cell, string reason)
    {
        _skipped[cell] = Failed;
        _samples.Remove(cell);
        Errors.Add($"{cell.Workload.Name} on {cell.Subject}{(cell.Mitigations ? "" : " (mitigations=off)")}: {reason}");
    }

    public bool IsSettled(Cell cell) => _skipped.ContainsKey(cell);

    public string? SkipReason(Cell cell) => _skipped.GetValueOrDefault(cell);

    public void AddMemory(string subject, ulong bytes)
    {
        if (!_memory.TryGetValue(subject, out List<ulong>? list)) _memory[subject] = list = [];
        list.Add(bytes);
    }

    public IReadOnlyList<Sample> Samples(Cell cell) => _samples.TryGetValue(cell, out List<Sample>? list) ? list : [];

    public string? Checksum(Workload workload) => _checksums.TryGetValue(workload.Name, out (string Sum, string Subject) first) ? first.Sum : null;

    /// <summary>Bytes beyond the guest's RAM, the most that was seen; null when not measured.</summary>
    public ulong? Memory(string subject) => _memory.TryGetValue(subject, out List<ulong>? list) ? list.Max() : null;

    /// <summary>Median nanoseconds for one operation; null without a measurement.</summary>
    public double? Median(Cell cell)
    {
        double[] sorted = [.. Times(cell).Order()];
        if (sorted.Length == 0) return null;
        int middle = sorted.Length / 2;
        return sorted.Length % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
    }

    /// <summary>Largest measurement by smallest; null with fewer than two.</summary>
    public double? Spread(Cell cell)
    {
        double[] times = [.. Times(cell)];
        return times.Length < 2 ? null : times.Max() / times.Min();
    }

    /// <summary>Nanoseconds for one operation, of each measurement.</summary>
    private IEnumerable<double> Times(Cell cell) =>
        Samples(cell).Select(s => (basis == TimeBasis.Cpu ? s.CpuNs : s.HostNs) / s.Units / cell.Workload.Operations).OfType<double>();

    /// <summary>How many times longer <paramref name="numerator"/> takes than <paramref name="denominator"/>; null when one is missing.</summary>
    public double? Ratio(Cell numerator, Cell denominator) => Median(numerator) is { } a && Median(denominator) is { } b ? a / b : null;

    /// <summary>Geometric mean of numerator by denominator over the workloads that have both; null when none has.</summary>
    public double? MeanRatio(IEnumerable<Workload> workloads, Func<Workload, (Cell Numerator, Cell Denominator)> pair)
    {
        double[] ratios = [.. workloads.Select(pair).Select(p => Ratio(p.Numerator, p.Denominator)).OfType<double>()];
        return ratios.Length == 0 ? null : Math.Exp(ratios.Average(Math.Log));
    }
}
